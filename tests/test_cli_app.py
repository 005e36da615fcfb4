"""The command itself: its entry, before any verb."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import check_interrupts
import pytest
from typer.testing import CliRunner

import eftlocal
from eftlocal.cli.app import VERBS, app


def test_ctrl_c_while_the_command_is_imported_is_one_line_too() -> None:
    program = (
        "import runpy, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "runpy.run_module('eftlocal', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "eftlocal: stopped\n")


def test_python_m_eftlocal_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eftlocal", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"eftlocal {eftlocal.__version__}\n"


# Ctrl-C -------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def ended(program: str) -> tuple[int, str]:
    """Exit code and stderr of a program that interrupts itself, with `boom()`."""
    boom = "import os, signal, sys, runpy\ndef boom(): os.kill(os.getpid(), signal.SIGINT)\n"
    done = subprocess.run(
        [sys.executable, "-c", boom + program], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@posix
@pytest.mark.parametrize("group", [False, True])
def test_ctrl_c_at_the_first_line_is_one_line(group: bool) -> None:
    found = check_interrupts.interrupted(["run", "hi"], 0.0, group=group)
    assert found == (130, "eftlocal: stopped\n")


@posix
def test_ctrl_c_inside_native_code_is_not_taken_for_a_fault_of_a_file() -> None:
    """pydantic makes a ValidationError of a KeyboardInterrupt in a mapping that it iterates."""
    program = """
from collections.abc import Mapping
from pydantic import TypeAdapter
from eftlocal.presets.schema import Preset
class Interrupted(Mapping):
    def __getitem__(self, key): return 1
    def __len__(self): return 1
    def __iter__(self): boom(); return iter("a")
Preset.model_validate = lambda *_, **__: TypeAdapter(dict[str, int]).validate_python(Interrupted())
sys.argv[1:] = ["models", "show", "demo"]
runpy.run_module("eftlocal", run_name="__main__")
"""
    assert ended(program) == (130, "eftlocal: stopped\n")


@posix
@pytest.mark.parametrize("moment", ["atexit.register(boom)", "threading._register_atexit(boom)"])
def test_ctrl_c_after_the_verb_has_ended_changes_nothing(moment: str) -> None:
    program = f"""
import atexit, threading
import eftlocal.cli.streams
sys.argv[1:] = ["models", "show", "nosuch"]
tell = eftlocal.cli.streams.tell
def last(message):
    tell(message); {moment}
import eftlocal.cli.app
eftlocal.cli.app.tell = last
runpy.run_module("eftlocal", run_name="__main__")
"""
    code, errors = ended(program)
    assert code == 2 and errors.startswith('eftlocal: no preset "nosuch"')
    assert errors.count("\n") == 1


@posix
def test_ctrl_c_that_a_job_in_the_background_ignores_stays_ignored() -> None:
    program = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
import eftlocal.cli.streams
tell = eftlocal.cli.streams.tell
def last(message): boom(); tell(message)
import eftlocal.cli.app
eftlocal.cli.app.tell = last
sys.argv[1:] = ["models", "show", "nosuch"]
runpy.run_module("eftlocal", run_name="__main__")
"""
    assert ended(program)[0] == 2


@posix
def test_ctrl_c_raises_where_a_verb_has_something_to_put_away() -> None:
    program = """
from eftlocal.cli.interrupts import raising, stop_at_once
stop_at_once()
try:
    with raising():
        boom()
        while True: pass
except KeyboardInterrupt:
    sys.stderr.write("put away\\n")
boom()
while True: pass
"""
    assert ended(program) == (130, "put away\neftlocal: stopped\n")


@posix
def test_ctrl_c_gives_a_terminal_its_cursor_back() -> None:
    program = "from eftlocal.cli.interrupts import stop; stop()"
    ours, theirs = os.openpty()
    done = subprocess.run([sys.executable, "-c", program], stderr=theirs, check=False)
    os.close(theirs)
    assert done.returncode == 130
    assert os.read(ours, 99).replace(b"\r", b"") == b"\x1b[?25h\neftlocal: stopped\n"
    os.close(ours)


# Help ---------------------------------------------------------------------------------------------


def helps() -> list[list[str]]:
    parts = {"models": ("list", "show", "pull", "rm", "check"), "batch": ("merge",)}
    return [[verb, *part] for verb in VERBS for part in [[], *([x] for x in parts.get(verb, ()))]]


@pytest.mark.parametrize("words", helps(), ids=" ".join)
def test_help_is_in_plain_words(words: list[str]) -> None:
    told = CliRunner().invoke(app, [*words, "--help"]).stdout
    assert re.findall(r"\[(?:default|required|[^\]\s]*x[<>]=)|[<>]=|\{\w+|\[\[|\.{4}", told) == []
    usage = told.partition("\n\n")[0].partition("[OPTIONS]")[2]
    assert usage == usage.upper() or ".jsonl" in usage


def test_help_says_a_default_and_a_range() -> None:
    told = " ".join(CliRunner().invoke(app, ["bench", "--help"]).stdout.split())
    assert "an answer in tokens (default: 64; 2 or more)." in told
    assert "Also measure this draft length. Repeatable (1 to 16)." in told
    told = " ".join(CliRunner().invoke(app, ["eval", "--help"]).stdout.split())
    assert "derived from it (default: 0; 0 or more)." in told
    assert "Of --quick (default: 5; 0.01 or more)." in told
    told = CliRunner().invoke(app, ["eval", "--help"]).stdout
    assert "  TASKS  Some of demo, " in told


@pytest.mark.parametrize("words", [[], ["models"]], ids=["eftlocal", "models"])
def test_without_a_verb_the_help_is_shown(words: list[str]) -> None:
    command = [sys.executable, "-m", "eftlocal", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stderr
    assert done.stdout.startswith("Usage: eftlocal ") and "\nCommands:\n" in done.stdout
