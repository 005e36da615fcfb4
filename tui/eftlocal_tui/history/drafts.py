"""What was typed and not sent: one draft a conversation, and one for the next new conversation."""

from __future__ import annotations

from eftlocal_tui.history.database import Database, insert
from eftlocal_tui.history.records import Draft, loaded


class Drafts:
    """The drafts of a database; None stands for the conversation that has not begun."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, conversation: int | None) -> Draft:
        """An empty one where there is none."""
        rows = self._db.rows("SELECT * FROM draft WHERE conversation IS ?", conversation)
        if not rows:
            return Draft()
        return Draft(loaded(rows[0]["text"]), rows[0]["editing"], loaded(rows[0]["edited"]))

    def put(self, conversation: int | None, draft: Draft) -> None:
        """Keeps a draft in place of the one before. It survives the death of the process.

        Raises:
            HistoryError: the conversation was deleted, or nothing can be written.
        """
        with self._db.transaction(durable=False) as connection:
            connection.execute("DELETE FROM draft WHERE conversation IS ?", (conversation,))
            if draft != Draft():
                insert(
                    connection,
                    "draft",
                    conversation=conversation,
                    text=draft.text,
                    editing=draft.editing,
                    edited=draft.edited,
                )
