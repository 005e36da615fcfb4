"""What an engine is started with, as its parent sends it."""

from __future__ import annotations

import base64
import pickle
from dataclasses import dataclass
from typing import Any

from eftlocal.sources import Sources


@dataclass(frozen=True)
class Setup:
    """What an engine is started with.

    Attributes:
        parallel: answers at once.
        force: load even where the memory seems too small.
    """

    sources: Sources
    parallel: int
    force: bool = False


def packed(value: Any) -> bytes:
    """A line for the engine's process, which trusts its parent."""
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def unpacked(line: bytes) -> Any:
    """What the parent has packed."""
    return pickle.loads(base64.b64decode(line))
