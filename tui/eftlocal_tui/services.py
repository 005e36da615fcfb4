"""What the screens share: the conversations, the engine with its thread, the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from eftlocal_tui.engine.protocol import Engine
from eftlocal_tui.engine.worker import EngineThread
from eftlocal_tui.history import History
from eftlocal_tui.remembered import NAME
from eftlocal_tui.settings import Settings


@dataclass
class Services:
    history: History
    engine: Engine
    settings: Settings = field(default_factory=Settings)
    thread: EngineThread = field(default_factory=EngineThread)

    @property
    def remembered(self) -> Path:
        """The file of how the program was left."""
        return self.history.path.with_name(NAME)

    def close(self) -> None:
        """Ends what runs; what came of an answer is kept as stopped."""
        self.thread.close(self.engine.close)
        self.history.close()
