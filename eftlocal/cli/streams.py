"""The standard streams made fit for any text, on every system and in every locale."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path


class _Closed(io.StringIO):
    """A stdout that is closed: what would be lost there is an error, not a success."""

    name = os.devnull

    def write(self, text: str, /) -> int:
        if text:
            raise OSError(errno.EBADF, "it is closed, so nothing can be shown", "stdout")
        return 0


def prepare_streams() -> None:
    """A pipe or file is given UTF-8, as JSON needs it; a terminal keeps its own encoding.

    What a terminal's encoding lacks is written as an escape. A closed stdin is empty, a closed
    stderr leads nowhere, and a closed stdout refuses what is written to it: no verb need ask.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None and name == "stdout":
            sys.stdout = _Closed()
        elif stream is None:
            mode = "r" if name == "stdin" else "w"
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - as they are
            setattr(sys, name, nowhere)
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
