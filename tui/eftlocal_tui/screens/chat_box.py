"""What is typed and not yet sent: the draft, an edit beside it, messages that wait, earlier ones.

All of it is kept in the history within a moment, and at every leave, so that it is there again
after whatever ends the program. What waited is then in the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.timer import Timer
from textual.widgets import Static

from eftlocal.errors import EftlocalError
from eftlocal.terminal_text import one_line
from eftlocal_tui.history import Draft, LockedError, Turn

if TYPE_CHECKING:
    from eftlocal_tui.screens.chat import ChatScreen

SOON = 0.5  # seconds until what was typed is kept
_EARLIER = 200  # messages that can be recalled
_SHOWN = 3  # lines of messages that wait


@dataclass(frozen=True)
class Outgoing:
    """A message that was sent and is not in the history yet; `edits` is what it is put beside."""

    text: str
    edits: Turn | None = None

    @property
    def is_summary(self) -> bool:
        """Whether it stands for a summary, which nobody answers."""
        return self.edits is not None and self.edits.role == "assistant"


class ChatBox:
    """The message box, of the conversation that is shown.

    Attributes:
        editing: the turn whose text is in the box, to be sent as a branch.
        waiting: messages in the order they go out; the first may be on its way.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self.screen = screen
        self.history = screen.services.history
        self.editing: Turn | None = None
        self.waiting: list[Outgoing] = []
        self._aside = ""  # the draft, while an edit is in the box
        self._conversation: int | None = None
        self._kept = Draft()
        self._unkept: dict[int | None, Draft] = {}  # where the history takes nothing
        self._timer: Timer | None = None
        self._earlier: list[str] = []
        self._at = 0  # in `_earlier`, from 1; 0 is none of them

    # Messages on their way ---------------------------------------------------------------------

    def hold(self, text: str) -> None:
        """What was in the box is to be sent, as soon as nothing is in the way."""
        self.waiting.append(Outgoing(text, self.editing))
        self.end_edit()
        self.show_waiting()

    def sent(self, conversation: int) -> None:
        """The first of those that wait is in the history now."""
        self._conversation = conversation
        del self.waiting[0]
        self.show_waiting()
        self.save()

    def taken(self, conversation: int) -> None:
        """What is in the box is in the history now."""
        self._conversation = conversation
        self.screen.prompt.replace_all("")
        self.save()

    def take_back(self) -> bool:
        """Puts what waits into the box again, before what was typed since; whether any did."""
        if not self.waiting:
            return False
        (first, *rest), self.waiting = self.waiting, []
        texts = [outgoing.text for outgoing in rest]
        if self.editing is not None:
            self._aside = _joined(first.text, *texts, self._aside)
        elif first.edits is not None:
            self._aside = _joined(*texts, self.screen.prompt.text)
            self._edit(first.edits, first.text)
        else:
            self.screen.prompt.replace_all(_joined(first.text, *texts, self.screen.prompt.text))
        self.show_waiting()
        return True

    def carried(self) -> str:
        """All text of the box, which is left empty."""
        self.take_back()
        text = _joined(self.screen.prompt.text, self._aside)
        self._aside = ""
        self._edit(None, "")
        return text

    def add(self, text: str) -> None:
        """Puts a text before what is in the box."""
        self.screen.prompt.replace_all(_joined(text, self.screen.prompt.text))

    def show_waiting(self) -> None:
        """Says above the box what waits. What is being sent does not."""
        waiting = self.waiting[self.screen.answers.sending :]
        lines = [f"queued · {one_line(outgoing.text, 400)}" for outgoing in waiting]
        if len(lines) > _SHOWN:
            lines[_SHOWN - 1 :] = [f"queued · {len(lines) - _SHOWN + 1} more"]
        shown = self.screen.query_one("#queued", Static)
        shown.update("\n".join(lines))
        shown.display = bool(lines)
        self.changed()

    # An edit -----------------------------------------------------------------------------------

    def edit(self, turn: Turn) -> None:
        """Puts a turn's text into the box; the draft comes back when the edit is over."""
        if self.editing is None:
            self._aside = self.screen.prompt.text
        self._edit(turn, turn.text)
        self.screen.set_focus(self.screen.prompt)

    def end_edit(self) -> bool:
        """Gives the draft back; whether there was an edit."""
        if self.editing is None:
            return False
        draft, self._aside = self._aside, ""
        self._edit(None, draft)
        return True

    def _edit(self, turn: Turn | None, text: str) -> None:
        self._mark_edit(turn)
        self.screen.prompt.replace_all(text)

    def _mark_edit(self, turn: Turn | None) -> None:
        self.editing = turn
        self.screen.prompt.set_class(turn is not None, "-editing")

    # Earlier messages --------------------------------------------------------------------------

    def recall(self, by: int) -> bool:
        """Puts an earlier message into the box, `by` steps further back; what waits comes first.
        False where the box holds something else, which stays."""
        prompt = self.screen.prompt
        text = prompt.text
        if not text and by > 0:
            if len(self.waiting) > self.screen.answers.sending:
                last = self.waiting.pop()
                if last.edits is not None:
                    self._mark_edit(last.edits)
                prompt.replace_all(last.text)
                self.show_waiting()
                self._at = 0
                return True
            self._earlier, self._at = self.history.turns.asked(self._conversation, _EARLIER), 0
        elif not self._at or prompt.text != self._earlier[self._at - 1]:
            return False
        if 0 <= self._at + by <= len(self._earlier):
            self._at += by
            prompt.replace_all(self._earlier[self._at - 1] if self._at else "")
        return True

    # Kept --------------------------------------------------------------------------------------

    @property
    def draft(self) -> Draft:
        """All of it, as it is to be there again."""
        text, edited, editing = self.screen.prompt.text, "", self.editing
        if editing is not None:
            text, edited = self._aside, text
        waiting = list(self.waiting)
        if waiting and waiting[0].edits is not None and editing is None:
            first = waiting.pop(0)
            editing, edited = first.edits, first.text
        text = _joined(*(outgoing.text for outgoing in waiting), text)
        return Draft(text, editing.id if editing else None, edited)

    def changed(self) -> None:
        """Something was typed: it is kept within a moment."""
        if self._timer is None and self.screen.alive and self.draft != self._kept:
            self._timer = self.screen.set_timer(SOON, self.save)

    def save(self) -> None:
        """Keeps it now."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        draft = self.draft
        if draft != self._kept:
            self._keep(draft)

    def _keep(self, draft: Draft) -> None:
        try:
            self.history.drafts.put(self._conversation, draft)
            self._kept = draft
            self._unkept.pop(self._conversation, None)
        except EftlocalError as error:
            new = not self._unkept and self.screen.alive
            if new and not isinstance(error, LockedError):
                self.screen.trouble(f"what you type is not saved: {error}")
            self._unkept[self._conversation] = draft
            if isinstance(error, LockedError):
                self.changed()  # tries again

    def enter(self, conversation: int | None) -> None:
        """Leaves what is typed with its conversation, and goes on with that of another one."""
        if conversation != self._conversation:
            self.take_back()
            self.save()
            self._conversation = conversation
            self.restore()

    def restore(self) -> None:
        """What was typed in this conversation, as it was left."""
        kept = self.history.drafts.get(self._conversation)
        draft = self._unkept.get(self._conversation, kept)
        if draft.editing is None:
            self._aside = ""
            self._edit(None, draft.text)
        else:
            self._aside = draft.text
            self._edit(self.history.turns.get(draft.editing), draft.edited)
        self._kept, self._at = kept, 0


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text.strip())
