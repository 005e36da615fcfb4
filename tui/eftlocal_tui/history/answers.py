"""An answer while it is written: by whom, token by token, and what becomes of it if they die.

A row when it begins, a small row a token, closed at its end. What was appended survives the death
of the process at any moment. Its end is durable: when `finish` returns, the disk has the whole
answer.

A process that writes holds a lock on a small file beside the database, and every answer that
streams names that file. The system frees the lock when the process dies, however it dies: no
process id that another may get, no heartbeat, no clock. What a dead process left streaming
becomes stopped, with the text that had come.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock, Timeout

from eftlocal.bases import Closing
from eftlocal.terminal_text import one_line
from eftlocal.thinking import Marks
from eftlocal_tui.history.database import Database, insert, update
from eftlocal_tui.history.failures import HistoryError, sqlite_errors
from eftlocal_tui.history.records import Figures, Mark, Settings, Thinks, Turn
from eftlocal_tui.history.turns import PIECES, begin_turn, touch

STREAMING = "SELECT id, writer FROM turn WHERE writer IS NOT NULL"


class Writers(Closing):
    """This process as a writer of the database, and the look after dead ones.

    Attributes:
        own: the name of this one.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.own = uuid.uuid4().hex
        self._lock: FileLock | None = None

    def name(self) -> str:
        """This writer's own name, for a column; takes the lock. Inside a transaction only: nobody
        else looks at locks then."""
        if self._lock is None:
            lock = self._lock_of(self.own)
            lock.acquire(timeout=0)
            self._lock = lock
        return self.own

    def recover(self) -> int:
        """Marks the answers that dead processes left streaming as stopped; returns how many."""
        if not self._foreign():
            return 0
        with self._db.transaction() as connection:
            dead = [name for name in sorted(self._foreign()) if self.is_dead(name)]
            stopped = _stop_all(connection, dead, None)
        for name in dead:
            self._remove(name)
        return stopped

    def close(self) -> None:
        """Stops what this writer left open, and gives the lock back."""
        if self._lock is None:
            return
        try:
            with self._db.transaction() as connection:
                _stop_all(connection, [self.own], time.time())
        finally:
            self._lock.release()
            self._lock = None
            self._remove(self.own)

    def _foreign(self) -> set[str]:
        """Writers that answers or files name, this one left out."""
        prefix = self._path("").name
        with sqlite_errors(self._db.path):
            files = {
                path.name[len(prefix) :]
                for path in self._db.path.parent.iterdir()
                if path.name.startswith(prefix)
            }
        return (files | {row["writer"] for row in self._db.rows(STREAMING)}) - {self.own}

    def is_dead(self, name: str) -> bool:
        """Whether that writer has ended; inside a transaction only."""
        if not self._path(name).exists():
            return True
        lock = self._lock_of(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _remove(self, name: str) -> None:
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise HistoryError(f"{self._path(name)}: cannot be removed: {error}") from error

    def _path(self, name: str) -> Path:
        return self._db.path.with_name(f"{self._db.path.name}.writer-{name}")

    def _lock_of(self, name: str) -> FileLock:
        return FileLock(self._path(name), thread_local=False)


def _stop_all(connection: sqlite3.Connection, writers: Sequence[str], closed: float | None) -> int:
    """Stops the answers of these writers, with the text that had come; how many there were."""
    streaming = connection.execute(STREAMING).fetchall()
    turns = [row["id"] for row in streaming if row["writer"] in writers]
    for turn in turns:
        pieces = "".join(row["text"] for row in connection.execute(PIECES, (turn,)))
        connection.execute("UPDATE turn SET text = text || ? WHERE id = ?", (pieces, turn))
        update(connection, "turn", turn, state="stopped", writer=None, closed=closed)
        connection.execute("DELETE FROM piece WHERE turn = ?", (turn,))
    return len(turns)


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
        with db.transaction() as connection:
            self.id = begin_turn(
                connection,
                time.time(),
                conversation=question.conversation,
                parent=question.id,
                role="assistant",
                text=prefix,
                state="streaming",
                writer=writers.name(),
                settings=settings,
            )

    def append(self, text: str, tokens: int = 1) -> None:
        """What came with the next token, or tokens; text may be empty."""
        with self._lock:
            self._check()
            if text:
                with self._db.transaction(durable=False) as connection:
                    insert(connection, "piece", turn=self.id, seq=self._seq, text=text)
                self._seq += 1
            self.text += text
            self.tokens += tokens

    def mark(self, what: str, *, again: bool = False) -> None:
        """Notes that a dial changed here, for instance "beta 1 → 0.5"; again: the mark before
        says this from now on, and stays where it is."""
        with self._lock:
            self._check()
            what = one_line(what, 200)
            mark = Mark(token=self.tokens, char=len(self.text), what=what)
            if again:
                mark = self._marks[-1].model_copy(update={"what": what})
            marks = [*(self._marks[:-1] if again else self._marks), mark]
            self._set(marks=marks)
            self._marks = marks

    def note(self, **settings: int | Thinks) -> None:
        """Notes settings that are known only after the answer began: its seed, and how thinking is
        marked."""
        with self._lock:
            self._check()
            changed = self._settings.model_copy(update=settings)
            self._set(settings=changed)
            self._settings = changed

    @property
    def marks(self) -> Marks | None:
        """Of its thinking, where they are known."""
        return self._settings.thinking.marks if self._settings.thinking else None

    def finish(self, reason: str | None = None, figures: Figures | None = None) -> None:
        """It came to its end; `reason` as `Answer.finish_reason` has it."""
        self._close(state="done", finish_reason=reason, figures=figures)

    def stop(self, figures: Figures | None = None) -> None:
        """The user stopped it: what came is kept."""
        self._close(state="stopped", figures=figures)

    def fail(self, error: str, figures: Figures | None = None) -> None:
        """It broke off, for the reason that one line tells: what came is kept."""
        self._close(state="error", error=one_line(error, 1000), figures=figures)

    def __enter__(self) -> AnswerWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self.closed:
            return
        if kind is None or not issubclass(kind, Exception):  # an interrupt is a stop
            self.stop()
        else:
            self.fail(str(error) or kind.__name__)

    def _close(self, **values: Any) -> None:
        with self._lock:
            self._check()
            now = time.time()
            with self._db.transaction() as connection:
                self._set(text=self.text, writer=None, closed=now, marks=self._marks, **values)
                connection.execute("DELETE FROM piece WHERE turn = ?", (self.id,))
                touch(connection, self._conversation, now)
            self.closed = True

    def _set(self, **values: Any) -> None:
        with self._db.transaction(durable=False) as connection:
            if not update(connection, "turn", self.id, **values):
                raise HistoryError(f"answer {self.id} is not saved: its conversation was deleted")

    def _check(self) -> None:
        if self.closed:
            raise HistoryError(f"answer {self.id} has ended; nothing can be added to it")
