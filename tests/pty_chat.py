"""The chat in a pseudo-terminal of its own, over a scripted engine: real bytes in, real bytes out.

Run as a program, it is that chat: `python tests/pty_chat.py FOLDER`.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripted_engine import PATIENCE, Script, ScriptedEngine

ROOT = Path(__file__).resolve().parents[1]
BEGUN = b"\x1b[?1049h"
READY = b"nter sends"  # the cursor may stand on the first letter


def _heed_hangups() -> None:
    """In the child: whoever runs the tests may ignore them, under nohup, and it would too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Terminal:
    """A program in a pseudo-terminal. `shown` is all that it wrote."""

    def __init__(self, command: list[str], *, size: tuple[int, int], **environment: str) -> None:
        import pty

        self._ours, self.theirs = pty.openpty()
        self.resize(*size)
        path = os.pathsep.join([str(ROOT), str(ROOT / "tui"), os.environ.get("PYTHONPATH", "")])
        self.child = subprocess.Popen(
            command,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "TERM": "xterm-256color",
                "COLORTERM": "",
                **environment,
            },
            start_new_session=True,
            preexec_fn=_heed_hangups,
        )
        self.shown = b""

    def resize(self, columns: int, rows: int) -> None:
        import fcntl
        import signal
        import struct
        import termios

        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if hasattr(self, "child"):  # whose terminal it is not, in the kernel's eyes
            os.kill(self.child.pid, signal.SIGWINCH)

    def send(self, data: bytes) -> None:
        self.read(0.0)
        while data:
            data = data[os.write(self._ours, data[:1024]) :]
            self.read(0.0)

    def until(self, what: bytes | Callable[[], object], since: int = 0) -> None:
        """Reads until it has shown a text, or something holds."""
        end = time.monotonic() + PATIENCE
        while not (what in self.shown[since:] if isinstance(what, bytes) else what()):
            assert time.monotonic() < end, f"{what!r} did not come: {self.shown[-2000:]!r}"
            self.read(0.05)

    def wait(self) -> int:
        """Reads to its end; the exit code."""
        self.until(lambda: self.child.poll() is not None)
        while self.read(0.0):
            pass
        assert self.child.returncode is not None
        return self.child.returncode

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self._ours)
        os.close(self.theirs)

    def read(self, seconds: float) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            if not selector.select(seconds):
                return b""
        piece = os.read(self._ours, 65_536)
        self.shown += piece
        return piece


@contextmanager
def chatting(
    folder: Path, size: tuple[int, int] = (80, 24), typed: bytes = b"", **options: str
) -> Iterator[Terminal]:
    """The scripted chat in a terminal, ready to be typed into; some was typed before."""
    terminal = Terminal([sys.executable, __file__, str(folder)], size=size, **options)
    try:
        terminal.send(typed)
        terminal.until(BEGUN if typed else READY)
        yield terminal
    finally:
        terminal.close()


def main() -> None:
    from eftlocal_tui.app import ChatApp
    from eftlocal_tui.history import History
    from eftlocal_tui.screens.base import Services
    from eftlocal_tui.settings import Settings

    engine = ScriptedEngine(*(Script([f"Answer {i}. "] * 3) for i in range(100)))
    services = Services(History(Path(sys.argv[1]) / "chat.db"), engine, Settings())
    app = ChatApp(services)
    try:
        app.run()
    finally:
        services.close()
    sys.exit(app.return_code or 0)


if __name__ == "__main__":
    main()
