"""What was typed and not sent: one draft a conversation, and one that is to begin a new one for
each process. What a process that has ended left of that kind, another one takes over."""

from __future__ import annotations

from eftlocal_tui.history.answers import Writers
from eftlocal_tui.history.database import Database, insert
from eftlocal_tui.history.records import Draft, loaded

_NEW = "SELECT rowid, writer FROM draft WHERE conversation IS NULL ORDER BY rowid DESC"


class Drafts:
    """The drafts of a database; None stands for this process's next new conversation."""

    def __init__(self, db: Database, writers: Writers) -> None:
        self._db = db
        self._writers = writers

    def get(self, conversation: int | None) -> Draft:
        """An empty one where there is none."""
        rows = self._db.rows(
            "SELECT * FROM draft WHERE conversation IS ? AND writer IS ?",
            conversation,
            self._writers.own if conversation is None else None,
        )
        if not rows:
            return Draft()
        return Draft(loaded(rows[0]["text"]), rows[0]["editing"], loaded(rows[0]["edited"]))

    def put(self, conversation: int | None, draft: Draft) -> None:
        """Keeps a draft in place of the one before. It survives the death of the process.

        Raises:
            HistoryError: the conversation was deleted, or nothing can be written.
        """
        with self._db.transaction(durable=False) as connection:
            writer = self._writers.name() if conversation is None else None
            connection.execute(
                "DELETE FROM draft WHERE conversation IS ? AND writer IS ?", (conversation, writer)
            )
            if draft != Draft():
                insert(
                    connection,
                    "draft",
                    conversation=conversation,
                    text=draft.text,
                    editing=draft.editing,
                    edited=draft.edited,
                    writer=writer,
                )

    def recover(self) -> None:
        """Takes over the newest draft of a new conversation whose process has ended. One of an
        earlier version names none."""
        if not self._db.rows(_NEW):
            return
        with self._db.transaction() as connection:
            for row in connection.execute(_NEW).fetchall():
                if row["writer"] is None or self._writers.is_dead(row["writer"]):
                    connection.execute(
                        "UPDATE draft SET writer = ? WHERE rowid = ?",
                        (self._writers.name(), row["rowid"]),
                    )
                    return
