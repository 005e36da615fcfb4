"""The chat: its layout, its keys, its side panel."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, Static

from eftlocal_tui.keys import bindings
from eftlocal_tui.remembered import read_remembered, remember
from eftlocal_tui.screens.chat_commands import ChatCommands
from eftlocal_tui.widgets.loading_bars import LoadingBars
from eftlocal_tui.widgets.prompt import PromptArea
from eftlocal_tui.widgets.side_panel import SidePanel
from eftlocal_tui.widgets.transcript import Transcript

_PANEL_FITS = 100  # columns from which the side panel is open unless told


class ChatScreen(ChatCommands):
    BINDINGS = bindings("chat")
    PLACE = "chat"
    AUTO_FOCUS = "#prompt"
    DEFAULT_CSS = """
    ChatScreen #head {
        height: 1; padding: 0 1; background: $panel; text-style: bold;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    ChatScreen #status { height: 1; padding: 0 1; color: $text-muted; }
    ChatScreen #side { display: none; }
    ChatScreen.-panel #side { display: block; }
    """

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Horizontal():
            with Vertical():
                yield Transcript(id="transcript")
                yield LoadingBars(id="loading")
                yield Static("", id="status", markup=False)
                yield PromptArea(id="prompt")
            yield SidePanel(id="side")
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        panel = self.services.settings.panel
        if panel is None:
            panel = read_remembered(self.services.remembered).panel
        self.set_class(self._panel_fits if panel is None else panel, "-panel")
        self.show_head()
        if self._loads_first:
            self.load_models(None)
        if self.conversation is not None:
            await self.after_history(self.conversation.id)

    def on_resize(self) -> None:
        self.show_head()

    @property
    def _panel_fits(self) -> bool:
        return self.app.size.width >= _PANEL_FITS

    def action_panel(self) -> None:
        self.toggle_class("-panel")
        if not self.has_class("-panel"):
            self.prompt.focus()
        self._remember_panel()

    def _remember_panel(self) -> None:
        """What is as it would be by itself is left to the size of the next terminal."""
        panel = self.has_class("-panel")
        chosen = None if panel == self._panel_fits else panel
        remember(self.services.remembered, panel=chosen)

    def action_dials(self) -> None:
        if self.has_class("-panel") and self.focused is not self.prompt:
            self.prompt.focus()
            return
        folded = not self.has_class("-panel")
        self.add_class("-panel")
        self.call_after_refresh(self.query_one(SidePanel).focus_dials)
        if folded:
            self._remember_panel()

    def action_page(self, by: int) -> None:
        scroll = self.transcript.scroll_page_up if by < 0 else self.transcript.scroll_page_down
        scroll(animate=False)

    def action_end(self) -> None:
        self.transcript.follow()

    def action_history(self) -> None:
        self.open_history()
