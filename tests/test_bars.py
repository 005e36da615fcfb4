"""Progress bars: drawn where someone looks and when it takes a while, and gone afterwards."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import preset_hub
from hub_server import HubServer

from eftlocal.cli.selection import A_MOMENT, loading_bars

PROGRAM = [sys.executable, "-c", "from eftlocal.cli.app import main; main()"]
ERASE_LINE, SHOW_CURSOR = "\x1b[2K", "\x1b[?25h"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def look(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal on stderr. No fixture, because pytest puts its own stderr there after set-up."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    return screen


def clock(*seconds: float) -> Iterator[float]:
    return iter(seconds)


def test_no_terminal_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with loading_bars() as bars:
        assert (bars.weights, bars.measuring, bars.checking) == (None, None, None)
        assert bars.download is not None
        for done in (0, 5, 10):
            bars.download("base.gguf", done, 10)
    assert sys.stderr.getvalue() == "downloading base.gguf, 10 B\n"


def test_a_moment_of_loading_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = look(monkeypatch)
    times = clock(0.0, A_MOMENT / 2)
    with loading_bars(lambda: next(times)) as bars:
        assert bars.weights is not None
        bars.weights("base", 0.0)
        bars.weights("base", 1.0)
    assert terminal.getvalue() == ""


def test_more_than_a_moment_draws_every_role_and_wipes_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = look(monkeypatch)
    times = clock(0.0, 0.1, A_MOMENT)
    with loading_bars(lambda: next(times)) as bars:
        assert bars.weights is not None
        bars.weights("base", 0.4)
        bars.weights("base", 1.0)
        bars.weights("tuned", 0.5)
        assert sys.stderr is not terminal  # what others write is drawn above the bars
    assert sys.stderr is terminal
    drawn, _, after = terminal.getvalue().rpartition("loading tuned")
    assert "loading base" in drawn
    assert "50%" in after
    assert after.count(ERASE_LINE) == 2  # as many as there are bars
    assert SHOW_CURSOR in after


def test_an_error_leaves_the_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = look(monkeypatch)
    with pytest.raises(KeyboardInterrupt), loading_bars() as bars:
        assert bars.download is not None
        bars.download("base.gguf", 500, 1000)
        raise KeyboardInterrupt
    assert sys.stderr is terminal
    drawn = terminal.getvalue()
    assert "base.gguf" in drawn
    assert drawn.index("base.gguf") < drawn.rindex(SHOW_CURSOR)
    assert ERASE_LINE in drawn[drawn.rindex("base.gguf") :]


@pytest.fixture
def server(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    with preset_hub(monkeypatch, tmp_path, demo_files) as running:
        yield running


def run_with_a_terminal_on_stderr(server: HubServer) -> tuple[str, str]:
    """stdout and stderr of a run in a process of its own."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "run", "--preset", "mine", "hi", "--max-tokens", "4", "--threads", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=follower,
        env={
            **os.environ,
            "HF_ENDPOINT": server.address(),
            "HF_HUB_CACHE": os.devnull,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TERM": "xterm",
        },
    )
    os.close(follower)
    screen = b""
    while True:
        try:
            read = os.read(leader, 4096)
        except OSError:  # how Linux says that nobody is left at the other end
            break
        if not read:
            break
        screen += read
    os.close(leader)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0, screen
    return output.decode(), screen.decode()


def test_run_shows_what_it_downloads(server: HubServer) -> None:
    answer, screen = run_with_a_terminal_on_stderr(server)
    for file in ("base.gguf", "tuned.gguf", "reference.gguf"):
        assert file in screen
    assert "4 tokens in" in screen[screen.rindex(ERASE_LINE) :]
    assert "\x1b" not in answer
    server.requests.clear()
    again, screen = run_with_a_terminal_on_stderr(server)
    assert again
    assert ".gguf" not in screen
    assert server.requests == []
