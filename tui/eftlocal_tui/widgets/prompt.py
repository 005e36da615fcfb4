"""The message box: Enter sends, Ctrl+J begins a line, Tab completes a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from textual import events
from textual.css.scalar import Scalar
from textual.geometry import Offset
from textual.message import Message
from textual.screen import Screen
from textual.widgets import TextArea

from eftlocal_tui.keys import bindings, of_place
from eftlocal_tui.text import pasted

PLACEHOLDER = "{prompt.send} sends · {prompt.newline} new line · / commands"


class Menu(Protocol):
    """The menu of commands, which is given the keys of the box while it is open."""

    def key(self, key: str) -> bool:
        """Whether a key was for it."""
        ...

    def complete(self) -> bool:
        """Completes what is typed; False where it is not open."""
        ...

    def send(self) -> bool:
        """Puts what is chosen into the box; whether that cannot be sent yet."""
        ...


class PromptArea(TextArea):
    """Grows with its text, up to a third of the screen.

    Args:
        recall: puts an earlier message (1) or the one after it (-1) into the box; False where the
            box holds something else.
    """

    # Stopping is here too, so that a person's key for it comes before those of a text area.
    BINDINGS: ClassVar = [
        *bindings("prompt"),
        *(replace(key.binding, action="screen.stop") for key in of_place("chat.stop")),
    ]

    class Sent(Message):
        """The person wants this sent. The box is empty already; `give_back` refuses it."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Interrupted(Message):
        """Ctrl+C with nothing to copy."""

    def __init__(
        self,
        placeholder: str,
        menu: Menu,
        *,
        recall: Callable[[int], bool],
        suggestions: Callable[[], Sequence[str]],
        id: str | None = None,
    ) -> None:
        super().__init__(
            id=id,
            soft_wrap=True,
            tab_behavior="focus",
            show_line_numbers=False,
            highlight_cursor_line=False,
            placeholder=placeholder,
        )
        self._menu = menu
        self._recall = recall
        self._suggestions = suggestions

    def on_mount(self) -> None:
        self.screen.screen_layout_refresh_signal.subscribe(self, self._bound_toasts)

    def _bound_toasts(self, screen: Screen[Any]) -> None:
        """What is told ends above what is being written; the newest of it is seen."""
        most = Scalar.from_number(max(self.region.y, 1))
        for rack in screen.query("ToastRack"):
            if rack.styles.max_height != most:
                rack.styles.max_height = most
                rack.call_after_refresh(rack.scroll_end, animate=False, force=True)

    async def _on_key(self, event: events.Key) -> None:
        # Keys that mean something in this box are obeyed here, in the order of typing: the
        # program, whose task bindings are otherwise, may run ahead of letters or behind them.
        if event.is_printable:
            return
        if self._menu.key(event.key):
            event.stop()
            event.prevent_default()
            return
        active = self.screen.active_bindings.get(event.key)
        if active is not None and active.node is self:
            event.stop()
            event.prevent_default()
            await self.app.run_action(active.binding.action, self)
        elif event.key == "enter":
            event.prevent_default()
        elif event.key in ("up", "down"):  # a person's keys for earlier messages are others
            self.action_cursor_up() if event.key == "up" else self.action_cursor_down()

    def scroll_cursor_visible(self, center: bool = False, animate: bool = False) -> Offset:
        """Not while an undo has taken lines away and the cursor is still in one (Textual 8.2)."""
        if self.cursor_location[0] >= self.document.line_count:
            return Offset()
        return super().scroll_cursor_visible(center, animate)

    def action_send(self) -> None:
        if self._menu.send():
            return
        text = self.text
        self.clear()
        self.post_message(self.Sent(text))

    def give_back(self, text: str) -> None:
        """What could not be sent, before what was typed since."""
        self.replace_all(text + self.text)

    def action_earlier(self) -> None:
        first = self.navigator.is_first_wrapped_line(self.cursor_location)
        if not (first and self._recall(1)):
            self.action_cursor_up()

    def action_later(self) -> None:
        last = self.navigator.is_last_wrapped_line(self.cursor_location)
        if not (last and self._recall(-1)):
            self.action_cursor_down()

    def action_newline(self) -> None:
        self.insert("\n")

    def action_complete(self) -> None:
        if not self._menu.complete() and not self._suggest():
            self.screen.focus_next()

    def _suggest(self) -> bool:
        """Puts in the next question to try, unless something else is typed; whether it did."""
        questions = list(self._suggestions())
        if not questions or self.text not in ("", *questions):
            return False
        at = questions.index(self.text) + 1 if self.text else 0
        self.replace_all(questions[at % len(questions)])
        return True

    def action_copy(self) -> None:
        if self.selected_text:
            super().action_copy()
        else:
            self.post_message(self.Interrupted())

    def replace_all(self, text: str) -> None:
        """Another text, the cursor at its end."""
        self.text = pasted(text)
        self.move_cursor(self.document.end)

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        result = self.insert(pasted(event.text))
        self.move_cursor(result.end_location)
