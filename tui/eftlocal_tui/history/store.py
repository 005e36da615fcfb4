"""The saved conversations, opened: what the screens hold."""

from __future__ import annotations

from pathlib import Path

from eftlocal.bases import Closing
from eftlocal_tui.history.answer import AnswerWriter
from eftlocal_tui.history.conversations import Conversations
from eftlocal_tui.history.database import Database
from eftlocal_tui.history.place import database_path
from eftlocal_tui.history.records import Settings
from eftlocal_tui.history.search import Search
from eftlocal_tui.history.turns import Turns
from eftlocal_tui.history.writers import Writers


class History(Closing):
    """All conversations of one database file. Safe from any thread; other processes may have
    the same file open.

    Opening marks the answers that dead processes left unfinished as stopped.

    Args:
        path: of the file, made where there is none; None is `chat.db` in the user's data folder.

    Attributes:
        conversations: the list of them.
        turns: their trees.
        search: finds words in them.

    Raises:
        HistoryError: the file cannot be opened, is damaged, another program's or of a newer
            version. It and what lies beside it is left as it is.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = database_path() if path is None else path
        self.db = Database(self.path)
        try:
            self._writers = Writers(self.db)
            self.turns = Turns(self.db)
            self.conversations = Conversations(self.db, self.turns)
            self.search = Search(self.db, self.conversations)
            self.recover()
        except BaseException:
            self.db.close()
            raise

    def answer(
        self, question: int, settings: Settings | None = None, prefix: str = ""
    ) -> AnswerWriter:
        """Begins an answer to a question, beside those that it has; it becomes the leaf.

        `prefix` is text that it begins with, for going on where another answer stopped.
        """
        asked = self.turns.get(question)
        return AnswerWriter(self.db, self._writers, asked, settings or Settings(), prefix)

    def recover(self) -> int:
        """Marks answers of processes that died since as stopped; returns how many there were."""
        return self._writers.recover()

    def close(self) -> None:
        """Stops the answers that are still open here, and closes the file."""
        with self.db.lock:
            try:
                self._writers.close()
            finally:
                self.db.close()
