"""`--prompt-cache FILE`: what an earlier run has read is not read again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eftlocal.cli.streams import tell
from eftlocal.errors import UsageError
from eftlocal.output_file import check_outputs
from eftlocal.state_file import StateFile

if TYPE_CHECKING:
    from eftlocal import Answer, Emulator


class PromptCache:
    """The file, checked before any model is loaded; nothing where none is given.

    Raises:
        UsageError: it is there and is none of ours, or cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        check_outputs({"--prompt-cache": path})
        if path is not None and path.exists():
            with StateFile(path):
                return

    def read(self, emulator: Emulator, *, quiet: bool) -> None:
        """Loads it where it is there.

        Raises:
            UsageError: it does not match what is loaded; the line names what.
        """
        if self.path is None or not self.path.exists():
            return
        state = emulator.load_state(self.path)
        if not quiet:
            tell(f"read {self.path}: {state}", dim=True)

    def write(self, emulator: Emulator, answer: Answer, *, quiet: bool) -> None:
        """Writes it, where it did not hold the whole prompt."""
        timing = answer.timing
        read = any(n - 1 > timing.reused_tokens[role] for role, n in timing.prompt_tokens.items())
        if self.path is None or not (read or not self.path.exists()):
            return
        state = emulator.save_state(self.path)
        if not quiet:
            tell(f"wrote {self.path}: {state}", dim=True)

    def stopped(self, emulator: Emulator) -> None:
        """Writes what was read until a Ctrl-C; where nothing was, that says enough."""
        if self.path is not None:
            with suppress(UsageError):
                emulator.save_state(self.path)
