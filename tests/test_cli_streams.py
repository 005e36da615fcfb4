"""Streams that are closed, full, no terminal, or of another encoding."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.cli.chat import resuming
from eftlocal.cli.streams import prepare_streams

TEXT = "«é», 你, \U0001f600"
PREPARE = "import sys\nfrom eftlocal.cli.streams import prepare_streams\n"


def python(program: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, env=env)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_pipe_gets_utf_8_whatever_the_locale(encoding: str) -> None:
    told = f"print({TEXT!r}); print({TEXT!r}, file=sys.stderr)"
    done = python(f"{PREPARE}prepare_streams(); {told}", PYTHONIOENCODING=encoding)
    assert done.stdout.decode("utf-8").strip() == done.stderr.decode("utf-8").strip() == TEXT


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_keeps_its_encoding_and_is_shown_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(screen, "latin-1"))
    prepare_streams()
    sys.stdout.write(TEXT)
    sys.stdout.flush()
    assert screen.getvalue() == b"\xab\xe9\xbb, \\u4f60, \\U0001f600"


def test_closed_streams_lead_nowhere() -> None:
    closed = "sys.stdin = sys.stdout = sys.stderr = None\nprepare_streams()\n"
    use = "print('y', file=sys.stderr); sys.exit(3 + len(sys.stdin.buffer.read()))"
    assert python(PREPARE + closed + use).returncode == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("verb", ["run Hello --max-tokens 3", "models list", "--help", "--version"])
def test_what_would_be_lost_on_a_closed_stdout_is_an_error(verb: str) -> None:
    command = f"{sys.executable} -m eftlocal {verb} >&-"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=env)
    assert done.returncode == 1, done.stderr
    assert done.stderr == "eftlocal: stdout: closed; nothing can be printed\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line() -> None:
    program = "from eftlocal.cli.app import main; main()"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "models", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert done.returncode == 1
    assert done.stderr.decode().strip() == "eftlocal: output: No space left on device"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "chat needs a terminal; in a pipe, use `eftlocal run`"),
        (["--max-tokens", "0"], "--max-tokens is 0; it must be"),
        (["--resume", "1", "--continue"], "--resume and --continue exclude each other"),
        (["--base", "x"], "recipe upscale needs the roles tuned and reference"),
        (["--preset", "demo", "--base", "x"], "--preset and --base exclude each other"),
    ],
)
def test_a_chat_without_a_terminal_is_refused_in_one_line(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["chat", *arguments], prog_name="eftlocal")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"eftlocal: {says}") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "by_preset", "says"),
    [
        ("chat", True, "chat --resume 12"),
        ("chat --resume 3 --n-ctx 4096", True, "chat --n-ctx 4096 --resume 12"),
        ("chat --resume=3 --continue --preset demo", True, "chat --resume 12"),
        ("chat --preset=demo --offline", False, "chat --preset=demo --offline --resume 12"),
        ("chat --base a.gguf --tuned=b.gguf", True, "chat --resume 12"),
        ("chat --base 'a b.gguf'", False, "chat --base 'a b.gguf' --resume 12"),
    ],
)
def test_the_chat_names_the_command_that_goes_on(typed: str, by_preset: bool, says: str) -> None:
    assert resuming(shlex.split(typed), 12, by_preset) == f"eftlocal {says}"
