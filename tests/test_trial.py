"""The first load of a new file: its crashes, limits and interrupts stay in a child process."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import DEMO
from random_gguf import random_deltas, write_adapter
from tui_driver import load
from typer.testing import CliRunner

import eftlocal
from eftlocal import Emulator, llama
from eftlocal import child_service as service
from eftlocal.batch.job import Batch, Job
from eftlocal.cli.app import app
from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.header import read_header
from eftlocal.loading import trial as trials
from eftlocal.loading.loader import is_vouched, prepare
from eftlocal.loading.roles import RoleSource
from eftlocal.loading.trial import Candidate, Limits, Trial, shared
from eftlocal.presets.reading import user_path
from eftlocal.sources import Sources
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.wanted import Start

ROOM = 4 << 30  # bytes: more than a load without end takes until it is ended
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux refuses address space")
Edit = Callable[[bytearray], None]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def one_child() -> Iterator[Trial]:
    trial = Trial()
    yield trial
    trial.child.close()


@pytest.fixture
def trial(one_child: Trial) -> Trial:
    """One child for all tests: whatever a test does to it, the next must find it usable."""
    one_child.limits = Limits()
    return one_child


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copy(DEMO / "base.gguf", tmp_path / "model.gguf")


def candidate(path: Path) -> Candidate:
    return Candidate(read_header(path))


def tried(trial: Trial, *paths: Path) -> int:
    """How many loads the child was asked for."""
    asked: list[object] = []
    ask = trial.child.ask

    def counted(*arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return ask(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.child, "ask", counted)
        trial.require([candidate(path) for path in paths])
    return len(asked)


# --- what is remembered -----------------------------------------------------------------------


def test_what_passed_is_known_until_it_changes(
    trial: Trial, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tried(trial, model) == 1
    assert tried(trial, model) == tried(Trial(), model) == 0
    found = model.stat()
    data = bytearray(model.read_bytes())
    data[data.index(b"eftlocal demo")] ^= 0x20  # one letter of general.name, in place
    with model.open("r+b") as file:
        file.write(data)
    os.utime(model, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert tried(trial, model) == 1
    assert tried(trial, model) == 0
    os.utime(model, ns=(0, 0))
    assert tried(trial, model) == 1
    with model.open("ab") as file:
        file.write(bytes(32))
    assert tried(trial, model) == 1
    copy = shutil.copy2(model, model.with_name("copy.gguf"))
    assert tried(trial, copy) == 1
    monkeypatch.setattr(llama, "build", lambda: "another llama.cpp")
    assert tried(trial, model) == 1


def test_any_byte_of_the_header_is_part_of_the_key(model: Path) -> None:
    header = read_header(model)
    (length,) = header.header_bytes
    data = model.read_bytes()
    found = model.stat()
    keys = {trials.key_of(header)}
    places = (8, length // 3, length - 1)
    for at in places:
        with model.open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1]))
        os.utime(model, ns=(found.st_atime_ns, found.st_mtime_ns))
        with pytest.MonkeyPatch.context() as patch:  # as if the time of the change were forged too
            patch.setattr(os, "fstat", lambda _: found)
            keys.add(trials.key_of(header))
        with model.open("r+b") as file:
            file.write(data)
    assert len(keys) == 1 + len(places)


@pytest.mark.parametrize("damage", ["folder", "link", "file"])
def test_a_damaged_memory_is_an_empty_one(trial: Trial, model: Path, damage: str) -> None:
    key = trials.key_of(read_header(model))
    assert key is not None
    place = trials.folder() / key
    if damage == "file":
        place.parent.parent.mkdir(parents=True)
        place.parent.write_bytes(b"\xff")
    elif damage == "folder":
        (place / "x").mkdir(parents=True)
    else:
        place.parent.mkdir(parents=True)
        place.symlink_to(model)
    assert not trials.is_known(key)
    assert tried(trial, model) == 1


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MOST", 3)
    for number in range(5):
        trials.remember(f"{number}")
        os.utime(trials.folder() / f"{number}", (number, number))
        trials.is_known("0")  # it is used again and again
    assert {path.name for path in trials.folder().iterdir()} == {"0", "3", "4"}


def test_every_part_of_a_split_model_is_part_of_the_key(model: Path) -> None:
    header = read_header(model)
    parts = [shutil.copy(model, model.with_name(f"part{n}")) for n in (1, 2)]
    split = replace(header, shards=tuple(parts), header_bytes=header.header_bytes * 2)
    before = trials.key_of(split)
    os.utime(parts[1], (0, 0))
    assert trials.key_of(split) != before
    parts[1].unlink()
    assert trials.key_of(split) is None


def test_a_file_that_changes_while_it_is_tried_is_not_remembered(trial: Trial, model: Path) -> None:
    def touch(_name: str, share: float) -> None:
        if share == 1.0:
            os.utime(model, (1, 1))

    trial.require([candidate(model)], checking=touch)
    assert tried(trial, model) == 1


# --- what is vouched for ----------------------------------------------------------------------


def test_the_demo_and_what_a_preset_pins_need_no_trial(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_vouched(DEMO / "base.gguf")
    assert not is_vouched(model)
    monkeypatch.setattr(eftlocal.hub, "pinned", lambda path: path == model)
    assert is_vouched(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "run", refuse)
        for file in (DEMO / "base.gguf", model):
            prepare({"base": RoleSource(file)})


# --- crashes and limits -----------------------------------------------------------------------


def forged(model: Path, *edits: Edit) -> Candidate:
    """Files with faults inside, as if no check of the header had seen them."""
    data = bytearray(model.read_bytes())
    header = read_header(model)
    for edit in edits:
        edit(data)
    path = model.with_name("forged.gguf")
    path.write_bytes(data)
    return Candidate(replace(header, path=path))


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def put(old: bytes, new: bytes) -> Edit:
    def edit(data: bytearray) -> None:
        at = data.index(old)
        data[at : at + len(old)] = new

    return edit


def tokenizer(name: bytes) -> Edit:
    return put(text(b"gpt2"), text(name))


# A prefix tree without the tokens of single bytes: llama.cpp goes back to the text's beginning,
# for ever, and keeps what it has.
ENDLESS = (
    tokenizer(b"rwkv"),
    put(text(b"tokenizer.ggml.bos_token_id"), text(b"tokenizer.ggml.unknown_token_id")),
    put(text(b"eftlocal demo: large base"), text(b"eftlocal demo: large ")),
    put(text(b"f"), text(b"\x02")),
)


def test_an_abort_in_native_code_is_one_line(trial: Trial, model: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        trial.run(forged(model, tokenizer(b"none")))
    line = str(caught.value)
    assert line.startswith(f"{model.with_name('forged.gguf')}: its first load, in a child")
    assert "crashed llama.cpp (abort: llama-vocab.cpp:" in line
    assert "while reading text; download it again" in line and "--trust" in line
    assert "\n" not in line
    assert not trials.folder().exists()
    trial.run(candidate(model))


@needs_signals
@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("SIGSEGV", r"crashed llama.cpp \(segmentation fault\)"),
        ("SIGBUS", r"crashed llama.cpp \(bus error\)"),
        ("SIGKILL", "was killed by the system, most often for want of memory,"),
    ],
)
def test_a_signal_is_named(trial: Trial, model: Path, number: str, says: str) -> None:
    def crash(_name: str, share: float) -> None:
        if share == 0.9:  # it reads a text, and will never be done
            assert trial.child.pid is not None
            os.kill(trial.child.pid, getattr(signal, number))

    trial.limits = Limits(margin=ROOM)
    with pytest.raises(ModelFileError, match=f"{says} while reading text"):
        trial.run(forged(model, *ENDLESS), checking=crash)


@linux_only
def test_a_tokenizer_that_grows_without_end_meets_the_limit_of_memory(
    trial: Trial, model: Path
) -> None:
    trial.limits = Limits(margin=192 << 20)
    with pytest.raises(ModelFileError, match=r"needed more than 192 MiB while reading text"):
        trial.run(forged(model, *ENDLESS))
    trial.run(candidate(model))


@pytest.mark.parametrize(
    ("limits", "total", "says"),
    [
        (Limits(stall_s=0.3, margin=ROOM), trials._TOTAL, "made no progress for 0.3 s"),
        (Limits(margin=ROOM), 0.005, "was not done after 0.3 s"),
    ],
)
def test_a_load_that_goes_on_and_on_is_ended(
    trial: Trial,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: Limits,
    total: float,
    says: str,
) -> None:
    trial.run(candidate(model))
    trial.limits = limits
    monkeypatch.setattr(trials, "_TOTAL", total)
    with pytest.raises(ModelFileError, match=f"{says} while reading text"):
        trial.run(forged(model, *ENDLESS))
    assert trial.child.pid is None


def test_what_llama_cpp_refuses_is_said_as_it_says_it(trial: Trial, model: Path) -> None:
    with pytest.raises(ModelFileError, match=r"forged.gguf: llama.cpp cannot load it: "):
        trial.run(forged(model, put(b"GGUF", b"FUGG")))
    pid = trial.child.pid
    assert pid is not None
    trial.run(candidate(model))
    assert trial.child.pid == pid


def test_where_memory_is_watched_a_process_that_grows_ends() -> None:
    grow = (
        "from eftlocal import child_service as service; service._REFUSES = False\n"
        "service.limit_memory(64 << 20); kept = []\n"
        "while True: kept.append(bytes(range(256)) * 4096)"
    )
    child = subprocess.run([sys.executable, "-c", grow], timeout=60, check=False)
    assert child.returncode == service.MEMORY_EXIT


# --- adapters ---------------------------------------------------------------------------------


def test_an_adapter_is_tried_with_its_model(
    trial: Trial, tiny_files: dict[str, Path], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf", random_deltas("tiny"))
    base, other = tiny_files["base"], tiny_files["tuned"]

    def require(path: Path) -> int:
        asked: list[Candidate] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                trial, "run", lambda one, **more: (asked.append(one), Trial.run(trial, one, **more))
            )
            trial.require([Candidate(read_header(path), [read_header(adapter)])])
        return sum(len(one.adapters) for one in asked)

    assert require(base) == 1
    assert require(base) == 0
    assert tried(trial, base) == 0
    assert require(other) == 1  # it passed on another model
    wrong = write_adapter(tmp_path / "wrong.gguf", random_deltas("tiny", width=128))
    with pytest.raises(ModelFileError, match=r"wrong.gguf: not an adapter for base.gguf"):
        trial.require([Candidate(read_header(base), [read_header(wrong)])])


def test_the_adapter_is_named_that_crashes(
    trial: Trial, tiny_files: dict[str, Path], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf", random_deltas("tiny"))
    alpha = text(b"adapter.lora.alpha")
    float32, uint32 = struct.pack("<I", 6), struct.pack("<I", 4)
    bad = forged(adapter, put(alpha + float32, alpha + uint32)).model
    with pytest.raises(ModelFileError, match=r"^\S*forged.gguf: its first load.*GGML_ASSERT"):
        trial.run(Candidate(read_header(tiny_files["base"]), [bad]))


# --- every door -------------------------------------------------------------------------------


def refuse(*_: object, **__: object) -> None:
    raise ModelFileError("it was tried")


COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("run", "hi", "--max-tokens", "1", "--speculative", "off"),
    "batch": ("batch", "IN", "OUT", "--max-tokens", "1", "--speculative", "off"),
    "batch --dry-run": ("batch", "IN", "OUT", "--dry-run"),
    "inspect": ("inspect", "hi", "--max-tokens", "1", "--plain"),
    "eval": ("eval", "PROMPTS", "--out", "OUT", "--max-tokens", "1"),
    "bench": ("bench", "--prompts", "PROMPTS", "--max-tokens", "2", "--repeat", "1",
              "--prompt-tokens", "4"),
    "models check": ("models", "check"),
}  # fmt: skip


@pytest.fixture
def new_files(tmp_path: Path, tiny_files: dict[str, Path]) -> dict[str, Path]:
    return {r: shutil.copy(f, tmp_path / f"{r}.gguf") for r, f in tiny_files.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_verb_goes_through_the_door(
    command: str, new_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "run", refuse)
    names = {"IN": "in.jsonl", "OUT": "out.jsonl", "PROMPTS": "prompts.txt"}
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n')
    (tmp_path / "prompts.txt").write_text("hi\n")
    words = [str(tmp_path / names[w]) if w in names else w for w in COMMANDS[command]]
    words += [word for role, file in new_files.items() for word in (f"--{role}", str(file))]
    if command != "models check":
        words += ["--threads", "1"]
    result = CliRunner().invoke(app, [*words, "--n-ctx", "64"])
    assert (result.exit_code, result.stderr) == (3, "eftlocal: it was tried\n")
    assert not (tmp_path / "out.jsonl").exists() or command == "eval"
    trusted = CliRunner().invoke(app, [*words, "--n-ctx", "64", "--trust"])
    assert trusted.exit_code == 0, trusted.output
    assert not trials.folder().exists()


def test_python_and_the_chat_go_through_the_door(
    new_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "run", refuse)
    settings: dict[str, Any] = {"n_ctx": 64, "threads": 1}
    roles = "\n".join(f'[preset.roles.{r}]\nfile = "{f}"' for r, f in new_files.items())
    user_path().parent.mkdir(parents=True)
    user_path().write_text(f'[[preset]]\nname = "new"\n{roles}\n')
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n')

    def job(trust: bool) -> Job:
        sources = Sources.of_files(new_files, trust=trust, **settings)
        return Job(source=str(tmp_path / "in.jsonl"), output="-", sources=sources)

    def chat(trust: bool) -> LocalEngine:
        engine = LocalEngine(Start(new_files, engine={**settings, "trust": trust}))
        load(engine, None, lambda _: None)
        return engine

    doors: list[Callable[[bool], Any]] = [
        lambda trust: Emulator.from_files(**new_files, **settings, trust=trust),
        lambda trust: eftlocal.load("new", **settings, trust=trust),
        lambda trust: job(trust).sources.load(force=False),
        lambda trust: job(trust).sources.load_base(force=False),
        lambda trust: Batch(job(trust)),
        chat,
    ]
    for door in doors:
        with pytest.raises(ModelFileError, match="it was tried"):
            door(False)
        door(True).close()


def test_a_new_file_is_tried_once_and_loaded(new_files: dict[str, Path]) -> None:
    told: list[tuple[str, float]] = []
    settings: dict[str, Any] = {"n_ctx": 64, "threads": 1}
    with Emulator.from_files(
        **new_files, **settings, checking=lambda name, share: told.append((name, share))
    ) as em:
        assert em.generate("hi", max_tokens=1, speculation=eftlocal.Speculation(0)).tokens
    assert {name for name, share in told if share == 1.0} == {f.name for f in new_files.values()}
    assert len(list(trials.folder().iterdir())) == 3
    del told[:]
    Emulator.from_files(
        **new_files, **settings, checking=lambda name, share: told.append((name, share))
    ).close()
    assert not told


# --- interrupts and orphans -------------------------------------------------------------------

PROGRAM = """
import os, sys
from dataclasses import replace
from pathlib import Path
from eftlocal.cli.app import main
from eftlocal.loading.trial import shared

forged, run = Path(sys.argv.pop(1)), shared.run

def run_forged(candidate, checking=None):
    def tell(name, share):
        if share == 0.9:
            print(shared.child.pid, flush=True)

    shared.limits = replace(shared.limits, margin=4 << 30)
    run(replace(candidate, model=replace(candidate.model, path=forged)), checking=tell)

shared.run = run_forged
main()
"""


@needs_signals
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_an_interrupt_or_the_death_of_the_parent_leaves_no_child(
    trial: Trial, model: Path, number: str
) -> None:
    path = forged(model, *ENDLESS).model.path
    command = [sys.executable, "-c", PROGRAM, str(path), "run", "hi", "--recipe", "base"]
    with subprocess.Popen(
        [*command, "--base", str(model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        child = psutil.Process(int(program.stdout.readline()))  # it is in native code for ever
        assert child.is_running()
        program.send_signal(getattr(signal, number))
        code = program.wait(timeout=30)
        assert child.wait(timeout=30) is None or not child.is_running()
        said = program.stderr.read()
    if number == "SIGINT":
        assert (code, said) == (130, "eftlocal: stopped\n")
    assert not trials.folder().exists()


def test_what_a_callback_raises_ends_the_trial(trial: Trial, model: Path) -> None:
    def leave(_name: str, _share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trial.run(candidate(model), checking=leave)
    assert trial.child.pid is None
    trial.run(candidate(model))
