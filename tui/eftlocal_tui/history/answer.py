"""An answer, saved as it comes: a row when it begins, a small row a token, closed at its end.

What was appended survives the death of the process at any moment. Its end is durable: when
`finish` returns, the disk has the whole answer.
"""

from __future__ import annotations

import sqlite3
import time
from threading import RLock

from eftlocal.terminal_text import one_line
from eftlocal_tui.history.database import Database
from eftlocal_tui.history.errors import HistoryError
from eftlocal_tui.history.records import Figures, Mark, Settings, State, Turn
from eftlocal_tui.history.text import stored
from eftlocal_tui.history.turn_rows import insert_turn, marks_json, next_visit, record_json
from eftlocal_tui.history.turns import touch
from eftlocal_tui.history.writers import Writers

_CLOSE = """UPDATE turn SET text = ?, state = ?, writer = NULL, closed = ?, finish_reason = ?,
    error = ?, figures = ?, marks = ? WHERE id = ?"""


class AnswerWriter:
    """An answer in the making. Close it by `finish`, `stop` or `fail`, or use it in `with`.

    Leaving the block unclosed stops the answer, or, on an error, fails it. It may be used from
    another thread than the one that began it. After its close it takes nothing more.

    Attributes:
        id: of its turn.
        text: what has come so far, the prefix included.
        tokens: how many have come so far.
        closed: whether it has ended.

    Raises:
        HistoryError: it is closed, or its conversation was deleted meanwhile.
    """

    def __init__(
        self, db: Database, writers: Writers, question: Turn, settings: Settings, prefix: str
    ) -> None:
        if question.role != "user":
            raise HistoryError(f"turn {question.id} is an answer; only questions are answered")
        self._db = db
        self._lock = RLock()  # its own: others go on while it waits for another process
        self._settings = settings
        self._marks: list[Mark] = []
        self._conversation = question.conversation
        self._seq = 0
        self.text = prefix
        self.tokens = 0
        self.closed = False
        now = time.time()
        with db.transaction() as connection:
            turn = Turn(
                id=0,
                conversation=question.conversation,
                parent=question.id,
                role="assistant",
                text=prefix,
                state="streaming",
                created=now,
                visited=next_visit(connection, question.conversation),
                settings=settings,
            )
            self.id = insert_turn(connection, turn, writers.name())
            touch(connection, question.conversation, now)

    def append(self, text: str, tokens: int = 1) -> None:
        """What came with the next token, or tokens; text may be empty."""
        with self._lock:
            self._check()
            if text:
                with self._db.transaction(durable=False) as connection:
                    sql = "INSERT INTO piece (turn, seq, text) VALUES (?, ?, ?)"
                    connection.execute(sql, (self.id, self._seq, stored(text)))
                self._seq += 1
            self.text += text
            self.tokens += tokens

    def mark(self, what: str) -> None:
        """Notes that a dial changed here, for instance "beta 1 -> 0.5"."""
        with self._lock:
            self._check()
            mark = Mark(token=self.tokens, char=len(self.text), what=one_line(what, 200))
            self._set("marks", marks_json([*self._marks, mark]))
            self._marks.append(mark)

    def set_seed(self, seed: int) -> None:
        """Notes the seed, where it is drawn only after the answer began."""
        with self._lock:
            self._check()
            settings = self._settings.model_copy(update={"seed": seed})
            self._set("settings", record_json(settings))
            self._settings = settings

    def finish(self, reason: str | None = None, figures: Figures | None = None) -> None:
        """It came to its end; `reason` as `Answer.finish_reason` has it."""
        self._close("done", reason, None, figures)

    def stop(self, figures: Figures | None = None) -> None:
        """The user stopped it: what came is kept."""
        self._close("stopped", None, None, figures)

    def fail(self, error: str, figures: Figures | None = None) -> None:
        """It broke off, for the reason that one line tells: what came is kept."""
        self._close("error", None, one_line(error, 1000), figures)

    def __enter__(self) -> AnswerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self.closed:
            return
        if kind is None or not issubclass(kind, Exception):  # an interrupt is a stop
            self.stop()
        else:
            self.fail(str(error) or kind.__name__)

    def _close(
        self, state: State, reason: str | None, error: str | None, figures: Figures | None
    ) -> None:
        with self._lock:
            self._check()
            now = time.time()
            with self._db.transaction() as connection:
                values = (stored(self.text), state, now, reason, error and stored(error))
                more = (record_json(figures), marks_json(self._marks), self.id)
                self._expect_one(connection.execute(_CLOSE, values + more))
                connection.execute("DELETE FROM piece WHERE turn = ?", (self.id,))
                touch(connection, self._conversation, now)
            self.closed = True

    def _set(self, column: str, value: str | None) -> None:
        with self._db.transaction(durable=False) as connection:
            sql = f"UPDATE turn SET {column} = ? WHERE id = ?"
            self._expect_one(connection.execute(sql, (value, self.id)))

    def _expect_one(self, cursor: sqlite3.Cursor) -> None:
        if cursor.rowcount != 1:
            raise HistoryError(f"answer {self.id} is not saved: its conversation was deleted")

    def _check(self) -> None:
        if self.closed:
            raise HistoryError(f"answer {self.id} has ended; nothing can be added to it")
