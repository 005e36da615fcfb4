"""How the set-up speaks: plain lines on the screen, one error type, no registry hosts."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_ADDRESS = re.compile(r"\b(?:https?|ftp|file)://[^\s'\")>,]+")
_HOST = re.compile(r"host='[^']*'(?:, port=\d+)?")


class SetupError(Exception):
    """Something the user must know: what went wrong, what to do next, and where the log lies."""

    def __init__(self, what: str, *, next_step: str = "", log: Path | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.log = log

    def lines(self) -> list[str]:
        lines = [f"setup: {self.what}"]
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        if self.log is not None:
            lines.append(f"  log:  {shown(self.log)}")
        return lines


def say(line: str) -> None:
    print(line, flush=True)


def complain(error: SetupError) -> None:
    for line in error.lines():
        print(line, file=sys.stderr, flush=True)


def shown(path: Path) -> str:
    """The path as a person would type it from where they stand."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # Windows: another drive
        return str(path)
    return str(path) if relative.startswith("..") else relative


def without_hosts(text: str) -> str:
    """Addresses taken out: they may carry credentials, and mirrors are nobody's business."""
    return _HOST.sub("host=(index)", _ADDRESS.sub("(index)", text))
