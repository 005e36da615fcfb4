"""The program in a terminal of its own, and whether something drove that terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import eftlocal
from eftlocal.terminal_text import UNSAFE

# What rich writes itself: colours, and bars' moving, clearing and hiding of the cursor.
_OF_RICH = re.compile(r"\x1b\[(?:[0-9;]*[mAKG]|\?25[hl])|\r(?=\r?\n|\x1b\[)")


@dataclass(frozen=True)
class Shown:
    """What a terminal was sent; `unsafe` is what no part of rich's drawing accounts for."""

    text: str
    code: int

    @property
    def unsafe(self) -> list[str]:
        return UNSAFE.findall(_OF_RICH.sub("", self.text))


def in_terminal(*arguments: str | bytes, columns: int = 100, **environment: str) -> Shown:
    """`python -m eftlocal` with a pseudo-terminal as its three streams."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    root = Path(eftlocal.__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "tui"), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-m", "eftlocal", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": path, "TERM": "xterm-256color", **environment},
        start_new_session=True,
    )
    os.close(theirs)
    sent = b""
    try:
        while piece := os.read(ours, 65_536):
            sent += piece
    except OSError:  # Linux says so when the other side is closed
        pass
    finally:
        os.close(ours)
    return Shown(sent.decode("utf-8", "surrogateescape"), child.wait(timeout=60))
