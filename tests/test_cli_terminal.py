"""What others wrote (files, names, answers) drives no terminal, and errors stay one line."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_files import ARCH, STRING, U32, entry, raw, tensor, text, u32, write, write_model
from terminals import in_terminal

from eftlocal.presets.reading import user_path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")

HOSTILE = "\x1b]0;owned\x07\n\u202e\u2066\u2028\x9b2J"
LONG = ("\x1b[2J\n" * 13_107)[:65_535]


def hostile_files(folder: Path) -> dict[str, Path]:
    """Models that say the hostile text wherever one can."""
    contents = {
        "architecture": raw([entry("general.architecture", STRING, text(f"llama{HOSTILE}"))]),
        "key": raw([ARCH, entry(f"llama.{HOSTILE}", 99, u32(1))]),
        "long key": raw([ARCH, entry(LONG, 99, u32(1))]),
        "twice": raw([ARCH, entry(LONG, U32, u32(1)), entry(LONG, U32, u32(1))]),
        "tensor": raw([ARCH], [tensor(f"w{HOSTILE}", kind=99)]),
        f"name {HOSTILE}".replace("/", ""): b"no GGUF",
    }
    files = {name: write(folder / f"{name}.gguf", data) for name, data in contents.items()}
    tokenizer = write_model(folder / "tokenizer.gguf", tokenizer=f"bpe{HOSTILE}", pre=HOSTILE)
    return files | {"tokenizer": tokenizer}


def test_a_hostile_file_is_one_safe_bounded_line(tmp_path: Path) -> None:
    """The API raises what the command line prints, so most files need no process of their own."""
    from eftlocal.errors import EftlocalError
    from eftlocal.gguf_file.check import checked_model
    from eftlocal.gguf_file.header import read_header
    from eftlocal.loading.vocabulary import compare
    from eftlocal.terminal_text import one_line

    plain = read_header(write_model(tmp_path / "plain.gguf"))
    for name, path in hostile_files(tmp_path).items():
        try:
            found = compare({"base": plain, "tuned": checked_model(path)}, ())
        except EftlocalError as error:
            said = [str(error)]
        else:
            assert not found.ok, name
            said = list(found.problems)
        for line in said:
            assert 0 < len(line) <= 1000, name
            assert one_line(line, 1000) == line, name


@pytest.mark.parametrize("name", ["long key", "tokenizer", f"name {HOSTILE}"])
def test_a_terminal_is_not_driven_by_a_file(
    name: str, tmp_path: Path, demo_files: dict[str, Path]
) -> None:
    path = hostile_files(tmp_path)[name]
    roles = {**demo_files, "base": path}
    options = [word for role in roles for word in (f"--{role}", str(roles[role]))]
    shown = in_terminal("models", "check", *options)
    assert shown.code in (3, 4) and not shown.unsafe
    assert shown.text.splitlines()[-1].startswith("eftlocal: ") and len(shown.text) < 6000


def test_a_terminal_is_not_driven_by_presets_and_arguments(demo_files: dict[str, Path]) -> None:
    user_path().parent.mkdir(parents=True, exist_ok=True)
    roles = "".join(f'[preset.roles.{r}]\nfile = "{f}"\n' for r, f in demo_files.items())
    said = json.dumps(f"mine{HOSTILE}")  # a TOML string too
    head = f'[[preset]]\nname = "mine"\ntitle = {said}\nlicense = {said}\nnotes = {said}\n'
    user_path().write_text(head + roles, "utf-8")
    listed, sheet = in_terminal("models", "list"), in_terminal("models", "show", "mine")
    assert listed.code == sheet.code == 0
    assert "owned" in listed.text and "owned" in sheet.text
    assert not listed.unsafe and not sheet.unsafe
    printed = in_terminal("models", "show", "mine", "--json")
    assert json.loads(printed.text)["title"] == f"mine{HOSTILE}" and not printed.unsafe
    user_path().write_text(head.replace("notes", json.dumps(HOSTILE)) + roles, "utf-8")
    wrong = in_terminal("models", "show", HOSTILE.encode() + b"\xff")
    assert wrong.code == 2 and not wrong.unsafe and wrong.text.count("\n") == 1
    option = in_terminal("run", f"--{HOSTILE}")
    assert option.code == 2 and not option.unsafe and option.text.count("\n") == 1


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The demo with a token of an escape sequence in the place of " France", and such names."""
    folder = tmp_path_factory.mktemp("speaking")
    demo = Path(sys.modules["eftlocal"].__file__ or "").parent / "demo"
    options = []
    for role in ("base", "tuned", "reference"):
        data = (demo / f"{role}.gguf").read_bytes()
        token, escape = "ĠFrance".encode(), "Ġě]0;x".encode()  # ě stands for byte 0x1b in GPT-2
        assert len(token) == len(escape)
        count = struct.pack("<Q", len(token))
        data = data.replace(count + token, count + escape)
        data = data.replace(b"eftlocal demo", b"\x1b]0;owned\x07\n\n\n")
        options += [f"--{role}", str(write(folder / f"{role}.gguf", data))]
    return options


def test_an_answer_is_safe_on_a_terminal_and_exact_in_a_pipe(speaking: list[str]) -> None:
    command = ["run", "In which country is Toulouse?", *speaking, "--temperature", "0", "--quiet"]
    command += ["--speculative", "off", "--threads", "1"]
    shown = in_terminal(*command, "--verbose")
    assert shown.code == 0 and not shown.unsafe
    assert "The answer is �]0;x." in shown.text
    assert "general.name str = �]0;owned�" in " ".join(shown.text.split())
    piped = subprocess.run(
        [sys.executable, "-m", "eftlocal", *command], capture_output=True, text=True, check=True
    )
    assert "The answer is \x1b]0;x." in piped.stdout and not piped.stderr


def test_an_inspected_answer_is_safe_on_a_terminal(speaking: list[str]) -> None:
    answer = f"France.{HOSTILE}"
    command = ["inspect", "In which country is Toulouse?", "--answer", answer, *speaking]
    command += ["--threads", "1"]
    for options in ([], ["--json"]):
        shown = in_terminal(*command, *options)
        assert shown.code == 0 and not shown.unsafe, options
