"""How the last verb that failed did, kept for `eftlocal doctor --report`.

Never what a person wrote: a refused option or prompt is kept by its kind alone, and of a fault of
the program only where it came up. The others speak of files, downloads, memory and llama.cpp.
"""

from __future__ import annotations

import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from eftlocal import __version__
from eftlocal.disk import cache_folder, read_json, replace_text
from eftlocal.errors import EftlocalError, PromptError, UsageError
from eftlocal.terminal_text import shown_json

_FRAMES = 20  # of a fault, from the innermost


def remember(error: BaseException, code: int) -> None:
    """Keeps it in the place of the one before. That this fails is no failure of its own."""
    told = isinstance(error, (EftlocalError, OSError))
    asked = isinstance(error, (UsageError, PromptError))
    record = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "eftlocal": __version__,
        "verb": next((word for word in sys.argv[1:2] if word.isalpha()), None),
        "exit_code": code,
        "kind": type(error).__name__,
        "message": str(error) if told and not asked else None,
        "where": [] if told else [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        ],
    }  # fmt: skip
    with suppress(OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        replace_text(_place(), shown_json(record))


def last_error() -> dict[str, Any] | None:
    """What was kept; None where there is nothing, or something else."""
    return read_json(_place()) or None


def _place() -> Path:
    return cache_folder() / "last-error.json"
