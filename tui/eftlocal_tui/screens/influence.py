"""An answer coloured and marked by how far the combination moved each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Static

from eftlocal.errors import EftlocalError
from eftlocal.prompt.messages import Message
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import tasks
from eftlocal_tui.engine.protocol import Moved, MovedToken
from eftlocal_tui.engine.worker import StoppedError, Task
from eftlocal_tui.keys import bindings
from eftlocal_tui.leaving import leave, until_left
from eftlocal_tui.services import Services
from eftlocal_tui.widgets.token_text import LEGEND, TokenText

_WON = {
    "agreed": "every model's first choice",
    "shared": "the first choice of several models, not all",
    "combination": "no model's first choice: the combination's own",
    "nobody": "nobody's first choice: it was drawn",
}


class InfluenceScreen(Screen[None]):
    BINDINGS = bindings("influence")
    PLACE = "influence"
    DEFAULT_CSS = """
    InfluenceScreen #head { height: 1; padding: 0 1; background: $panel; text-style: bold; }
    InfluenceScreen #legend { height: auto; padding: 0 1; color: $text-muted; }
    InfluenceScreen #token {
        height: 9; padding: 0 1; border-top: solid $primary;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    def __init__(
        self,
        services: Services,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        dials: Dials,
        *,
        marked: bool = False,
    ) -> None:
        super().__init__()
        self._services = services
        self._messages, self._answer, self._dials = messages, answer, dials
        self._marked = marked
        self._job: Task[None, Moved] | None = None

    def compose(self) -> ComposeResult:
        yield Static("What moved each token", id="head", markup=False)
        yield Static("Every model reads the answer once more …", id="legend")
        with Vertical():
            yield TokenText()
        yield Static("", id="token")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.run_worker(until_left(self, self._read()))

    async def _read(self) -> None:
        services = self._services
        self._job = task = tasks.inspect(
            services.thread, services.engine, self._messages, self._answer, self._dials
        )
        try:
            moved = await task.result()
        except StoppedError:
            return
        except EftlocalError as error:
            self.query_one("#legend", Static).update(Text(f"Error: {one_line(str(error), 400)}"))
            return
        legend = Text.assemble(one_line(moved.measure), "\n", LEGEND)
        if self._marked:
            legend.append("\nThe dials were turned in this answer; it is read with the first ones.")
        self.query_one("#legend", Static).update(legend)
        self.query_one(TokenText).show(moved.tokens)

    def on_token_text_moved(self, event: TokenText.Moved) -> None:
        self.query_one("#token", Static).update(_detail(event.token, event.index, event.count))

    def action_move(self, by: int) -> None:
        self.query_one(TokenText).move(by)

    def action_line(self, by: int) -> None:
        self.query_one(TokenText).line(by)

    def action_most(self, by: int) -> None:
        self.query_one(TokenText).most(by)

    def action_back(self) -> None:
        if self._job is not None:
            self._job.stop()
        leave(self, None)


def _detail(token: MovedToken, index: int, count: int) -> Text:
    won = _WON.get(token.won, f"the first choice of {token.won} alone")
    text = Text(f"{index + 1}/{count} {_quoted(token.text)}", style="bold")
    text.append(f"  moved {token.moved:.2f} · {won}", style="not bold")
    for name, probability in token.probabilities.items():
        row = Text(f"\n{name:<12} {probability:>6.1%} │ ", style="not bold")
        for candidate in token.candidates.get(name, ()):
            row.append(_quoted(candidate.text), style="bold")
            row.append(f" {candidate.probability:.0%}  ")
        text.append_text(row)
    return text


def _quoted(text: str) -> str:
    return "“" + one_line(text.replace("\n", "↵").replace(" ", "·"), 24) + "”"
