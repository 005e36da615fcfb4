"""A chat where nothing can be written: its conversations go with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from eftlocal_tui.history.failures import UnwritableError
from eftlocal_tui.history.store import History


@contextmanager
def opened(*, needed: bool) -> Iterator[tuple[History, str]]:
    """The user's history. Where it cannot be written, an empty one that is not kept, and why.

    Args:
        needed: one that is empty would not do.

    Raises:
        HistoryError: it cannot be opened for another reason, or is needed.
    """
    with ExitStack() as held:
        why = ""
        try:
            history = History()
        except UnwritableError as error:
            if needed:
                raise
            folder = TemporaryDirectory(prefix="eftlocal-", ignore_cleanup_errors=True)
            history = History(Path(held.enter_context(folder)) / "chat.db")
            why = str(error)
        yield held.enter_context(history), why
