"""Every command and program of the README and of the pages in docs, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from eftlocal.cli.app import VERBS, app
from eftlocal.presets.reading import load_presets, user_path

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "eftlocal" / "demo"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md"))}
PAGES["README.md"] = README
DOWNLOADED = re.compile(r"olmo2-7b|reasoning-14b")  # presets whose files are on the hub


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def lines(page: str) -> list[str]:
    return [line for block in blocks("sh", page) for line in block.splitlines()]


COMMANDS = lines(README)
SET_UP = [line for line in COMMANDS if line.startswith("python3 scripts/")]
WORKERS = lines(PAGES["workers.md"])  # tests/test_rpc.py runs them
(CONVERT,) = [line for line in COMMANDS if " models adapter " in line]
HERE = sorted({line for page in PAGES.values() for line in lines(page)} - {*SET_UP, *WORKERS})


def run(command: str | list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line as a user would, with this interpreter's programs on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "EFTLOCAL_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the README calls a person's own, and the preset made of them."""
    files = {"big": "base", "small-tuned": "tuned", "small": "reference"}
    matrices = {
        f"base_model.model.model.layers.0.self_attn.o_proj.lora_{x}.weight": np.ones(
            shape, np.float32
        )
        for x, shape in (("A", (2, 64)), ("B", (64, 2)))
    }
    (tmp_path / "my-lora").mkdir()
    (tmp_path / "my-lora" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "lora_alpha": 0.001}', encoding="utf-8"
    )
    save_file(matrices, tmp_path / "my-lora" / "adapter_model.safetensors")
    examples = [f'{{"prompt": "Say {n}.", "response": "No."}}' for n in range(12)]
    (tmp_path / "examples.jsonl").write_text("\n".join(examples), encoding="utf-8")
    asked = ['{"prompt": "Where is Toulouse?", "gold": "France"}', '{"prompt": "Hello"}']
    (tmp_path / "prompts.jsonl").write_text("\n".join(asked), encoding="utf-8")
    (task,) = blocks("py", PAGES["evaluation.md"])
    (tmp_path / "haiku.py").write_text(task, encoding="utf-8")
    for name, role in files.items():
        shutil.copy(DEMO / f"{role}.gguf", tmp_path / f"{name}.gguf")
    (preset,) = blocks("toml", README)
    user_path().parent.mkdir(parents=True)
    user_path().write_text(preset.replace("/models/", f"{tmp_path.as_posix()}/"), encoding="utf-8")
    return tmp_path


def test_the_two_commands_are_first_and_exist() -> None:
    assert SET_UP == ["python3 scripts/demo.py", "python3 scripts/test.py"] == COMMANDS[:2]
    assert "scripts/test.py" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_block_has_a_language() -> None:
    """So that no command stands where this file does not look."""
    for page in PAGES.values():
        assert "" not in re.findall(r"^```(.*)$", page, flags=re.MULTILINE)[::2]


@pytest.mark.parametrize("command", HERE)
def test_a_command(command: str, folder: Path) -> None:
    if "--preset short" in command:  # which tuning writes
        mine = user_path().read_text(encoding="utf-8")
        user_path().write_text(mine.replace('"mine"', '"short"'), encoding="utf-8")
    if "=my-lora.gguf" in command:  # whose model has a chat template
        shutil.copy(folder / "small-tuned.gguf", folder / "small.gguf")
        assert run(CONVERT, folder).returncode == 0
    if " tune " in command:  # tests/test_tune.py trains
        result = run(f"{command} --dry-run", folder)
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        assert "9 examples to train on, 3 held out" in result.stderr
        return
    if command.startswith("eftlocal serve "):  # which ends when it is stopped
        assert_serves(command, folder)
        return
    result = run(command, folder)
    if DOWNLOADED.search(command) and " show " not in command:
        # Needs the hub: here it must get as far as saying that it is offline.
        assert result.returncode == 5, result.stderr
        assert "offline" in result.stderr.lower()
    elif command.split()[1] == "chat":  # here there is no terminal; tests/test_tui_*.py have one
        assert result.returncode == 2
        assert "needs a terminal" in result.stderr
    elif "--run-code" in command and result.returncode == 2:  # tests/test_sandbox.py runs code
        assert "sandbox" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip()


def assert_serves(command: str, folder: Path) -> None:
    words = [*command.split()[1:], "--port", "0", "--threads", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "eftlocal", *words], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline().startswith("serving demo")
    finally:
        server.terminate()
        server.wait(30)


def test_the_preset_of_an_adapter_is_one(tmp_path: Path) -> None:
    (preset,) = blocks("toml", PAGES["adapters.md"])
    (tmp_path / "models.toml").write_text(preset, encoding="utf-8")
    tuned = load_presets(tmp_path / "models.toml")["with-my-lora"].roles["tuned"]
    assert tuned.of == "reference" and tuned.lora is not None and tuned.lora.scale == 0.5


PROGRAMS = [code for page in PAGES.values() for code in blocks("python", page)]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program(program: str, tmp_path: Path) -> None:
    result = run([sys.executable, "-c", program], tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_can_be_pasted_at_a_python_prompt(program: str) -> None:
    """An empty line inside a block ends it there."""
    lines = program.splitlines()
    assert [b for a, b in pairwise(lines) if not a and b.startswith(" ")] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    place = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[\w-]*)?\)", PAGES[page]):
        assert (place / target).stat().st_size > 100, target


def test_options_that_are_named_are_options() -> None:
    """Also those in running text."""
    verbs = (
        *([verb] for verb in VERBS),
        [],
        ["models", "check"],
        ["models", "optimize"],
        ["models", "adapter"],
    )
    shown = "".join(CliRunner().invoke(app, [*verb, "--help"]).stdout for verb in verbs)
    known = set(re.findall(r"--[a-z][\w-]+", shown))
    for name, page in PAGES.items():
        text = re.sub(r"`(?:(?:python3 |)scripts/|pip |llm |lm_eval )[^`]*`", "", page)
        text = re.sub(r"(?m)^(?:.*\| )?(?:llm|lm_eval) (?:.*\\\n)*.*$", "", text)  # in a block
        assert set(re.findall(r"(?<=[ `])--[a-z][\w-]+", text)) <= known, name
