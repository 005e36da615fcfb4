"""What an engine is started with, as its parent sends it."""

from __future__ import annotations

import base64
import pickle
from dataclasses import dataclass

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

    def line(self) -> bytes:
        """For the engine's process, which trusts its parent."""
        return base64.b64encode(pickle.dumps(self)) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Setup:
        setup: Setup = pickle.loads(base64.b64decode(line))
        return setup
