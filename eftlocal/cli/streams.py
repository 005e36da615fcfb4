"""The standard streams made fit for any text, on every system and in every locale."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


def prepare_streams() -> None:
    """A pipe or file is given UTF-8, as JSON needs it; a terminal keeps its own encoding.

    What a terminal's encoding lacks is written as an escape. A stream that is closed leads
    nowhere, so that no verb need ask.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - as they are
            setattr(sys, name, nowhere)
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
