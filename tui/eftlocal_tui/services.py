"""What the screens share: the conversations, the engine with its thread, the settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from eftlocal_tui.engine.protocol import Engine
from eftlocal_tui.engine.worker import EngineThread
from eftlocal_tui.history import History
from eftlocal_tui.settings import Settings


@dataclass
class Services:
    history: History
    engine: Engine
    settings: Settings = field(default_factory=Settings)
    thread: EngineThread = field(default_factory=EngineThread)

    def close(self) -> None:
        """Ends what runs; what came of an answer is kept as stopped."""
        self.thread.close(self.engine.close)
        self.history.close()
