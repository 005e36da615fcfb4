"""What the chat screen opens beside itself: views of an answer, an editor, the clipboard, files."""

from __future__ import annotations

from pathlib import Path

from textual.app import SuspendNotSupported
from textual.widgets import Markdown

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.prompt.messages import Message, validate_prompt
from eftlocal.terminal_text import one_line
from eftlocal_tui import commands
from eftlocal_tui.editor import edit_text
from eftlocal_tui.history import Turn, export_file
from eftlocal_tui.kept_dials import restored
from eftlocal_tui.screens.chat_asks import ChatAsks
from eftlocal_tui.screens.compare import CompareScreen
from eftlocal_tui.screens.influence import InfluenceScreen
from eftlocal_tui.text_safety import code_blocks, encodable


class ChatViews(ChatAsks):
    """Looks at answers, and carries text elsewhere."""

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        # Never opened: the model wrote it.
        event.stop()
        self.app.copy_to_clipboard(event.href)
        self.notify(f"Copied the link: {one_line(event.href)}", markup=False)

    def copy(self, text: str | None, what: str) -> None:
        if not text:
            self.trouble(
                f"there is not {what} to copy".replace("not a ", "no ").replace(
                    "not the message", "nothing"
                )
            )
            return
        self.app.copy_to_clipboard(encodable(text))
        self.notify(f"Copied {what}: {len(text):,} characters", markup=False)

    def action_copy(self) -> None:
        answer = self.last("assistant")
        self.copy(answer.text if answer else None, "the message")

    def action_copy_code(self) -> None:
        answer = self.last("assistant")
        blocks = code_blocks(answer.text) if answer else []
        self.copy(blocks[-1] if blocks else None, "a code block")

    def action_compare(self) -> None:
        if self.refused() or self.loaded is None or self.dials is None:
            if self.loaded is None:
                self.trouble("the models are not loaded yet")
            return
        turns = self.services.history.turns
        question, text = self.last("user"), self.prompt.text
        if text.strip() and self._editing is None:
            answer = self.last("assistant")
            before = answer or question
            messages = turns.messages(before.id) if before else self._beginning()
            text = commands.message(text)
            if messages and messages[-1]["role"] == "user":  # one that has no answer yet
                text = f"{messages.pop()['content']}\n\n{text}"
            messages.append(Message(role="user", content=validate_prompt(text)))
        elif question is not None:
            messages = turns.messages(question.id)
        else:
            self.trouble("write the message to compare, or ask something first")
            return
        self.app.push_screen(CompareScreen(self.services, self.loaded, self.dials, messages))

    def _beginning(self) -> list[Message]:
        return [Message(role="system", content=self.system)] if self.system else []

    def action_influence(self) -> None:
        answer = self.last("assistant")
        if answer is None:
            self.trouble("there is no answer to look into yet")
        else:
            self.influence(answer)

    def influence(self, turn: Turn) -> None:
        """Opens the influence view of an answer."""
        if self.refused():
            return
        if turn.role != "assistant" or not turn.text or turn.parent is None:
            self.trouble("the influence view is of an answer, and this is none")
            return
        if self.loaded is None or self.dials is None:
            self.trouble("the models are not loaded yet")
            return
        dials = self.dials
        if turn.settings is not None and turn.settings.preset == self.loaded.name:
            try:
                dials = restored(turn.settings, self.loaded.dials)
            except UsageError as error:
                self.trouble(error)
        messages = self.services.history.turns.messages(turn.parent)
        text = self._tokens.get(turn.id) or turn.text
        marked = bool(turn.marks)
        self.app.push_screen(InfluenceScreen(self.services, messages, text, dials, marked=marked))

    def export_to(self, path: Path) -> None:
        """Writes the conversation to a file, Markdown or JSON by its name."""
        if self.conversation is None:
            self.trouble("there is no conversation to export yet")
            return
        try:
            written = export_file(self.services.history, [self.conversation.id], path)
        except EftlocalError as error:
            self.trouble(error)
        else:
            self.notify(f"Written: {one_line(str(written))}", markup=False)

    def action_editor(self) -> None:
        try:
            with self.app.suspend():
                text = edit_text(self.prompt.text, self.services.settings.editor)
        except SuspendNotSupported:
            self.trouble("this terminal cannot hand over to an editor")
        except UsageError as error:
            self.trouble(error)
        else:
            self.prompt.replace_all(text)
        self.prompt.focus()
