"""Which model moved each token of an answer, in words and colors."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from eftlocal.errors import EftlocalError, UsageError
from eftlocal.prompt.messages import Message
from eftlocal.study.inspection import COMBINATION
from eftlocal.study.verdict import Verdict, named, pieces_of, tally, verdict
from eftlocal.terminal_text import one_line
from eftlocal_tui.dials import Dials, recipe_line
from eftlocal_tui.engine import Loaded, Moved, Reading
from eftlocal_tui.engine.thread import StoppedError, Task
from eftlocal_tui.keys import bindings, spelled
from eftlocal_tui.screens.base import BaseScreen, Services
from eftlocal_tui.screens.waiting import Waiting
from eftlocal_tui.widgets.key_bar import KeyBar
from eftlocal_tui.widgets.token_table import TokenTable
from eftlocal_tui.widgets.token_text import Scale, TokenText, shown_text


class InfluenceScreen(BaseScreen[None]):
    """An answer, read again by every model.

    Args:
        answer: text or token ids.
        dials: those whose recipe the answer is measured by.
        marked: the dials changed while it was written.
        of: who wrote the answer, where it was not this recipe.
    """

    BINDINGS = bindings("influence")
    PLACE = "influence"
    USES_MODELS = True

    def __init__(
        self,
        services: Services,
        loaded: Loaded,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        dials: Dials,
        *,
        marked: bool = False,
        of: str = "",
    ) -> None:
        super().__init__()
        self._services, self._loaded = services, loaded
        self._messages, self._answer, self._dials = messages, answer, dials
        self._marked, self._of = marked, of
        self._job: Task[Reading, Moved] | None = None
        self._moved = Moved((), ())
        self._verdicts: list[Verdict] = []
        self._side = 0

    def compose(self) -> ComposeResult:
        what = f"Influence on {self._of}" if self._of else "Influence"
        question = one_line(self._messages[-1]["content"], 400)
        yield Static(f"{what} · {question}", id="head", markup=False)
        yield Static(self._about(), id="about", markup=False)
        yield Static("", id="summary", markup=False)
        yield Scale(id="scale")
        with Vertical():
            yield TokenText()
        yield Static("", id="verdict", markup=False)
        yield TokenTable(id="token")
        yield KeyBar()

    def on_mount(self) -> None:
        self._say("Every model reads the answer again")
        self.start(self._read)

    def _about(self) -> str:
        loaded = self._loaded
        models = [one_line(f"{role} {loaded.file_of(role)}", 60) for role in loaded.roles]
        return " · ".join([recipe_line(self._dials.recipe), *models])

    def _say(self, line: str) -> None:
        self._summary(f"{line} · {{influence.back}} stops")

    def _summary(self, text: str) -> None:
        said = spelled(text, self._services.settings.keys)
        self.query_one("#summary", Static).update(said)

    async def _read(self) -> None:
        tasks = self._services.tasks
        self._job = task = tasks.inspect(self._messages, self._answer, self._dials)
        with Waiting(self, self._say, "the answer") as waiting:
            async for batch in task.batches():
                waiting.told(batch[-1])
        try:
            moved = await task.result()
        except StoppedError:
            return
        except EftlocalError as error:
            self._summary(f"Error: {one_line(str(error), 400)}")
        else:
            self._show(moved)

    def _show(self, moved: Moved) -> None:
        self._moved, recipe = moved, self._dials.recipe
        self._verdicts = [
            verdict(token, recipe.at(i), made=not self._of) for i, token in enumerate(moved.tokens)
        ]
        told = tally(self._verdicts)
        if self._marked:
            told += " · the dials changed during this answer; these are the first ones"
        self._summary(told)
        self._color()
        self.set_focus(self.query_one(TokenText))

    def _color(self) -> None:
        sides = self._moved.sides
        side, other = sides[self._side], sides[(self._side + 1) % len(sides)]
        switch = f"{{influence.color}}: from {other}" if other != side else ""
        keys = self._services.settings.keys
        self.query_one(Scale).say(f"Moved from {side} alone:", spelled(switch, keys))
        tokens = self._moved.tokens
        distances = [token.distances[COMBINATION, side] for token in tokens]
        self.query_one(TokenText).show(tokens, distances)

    def on_token_text_cursor(self, event: TokenText.Cursor) -> None:
        token, said = self._moved.tokens[event.index], self._verdicts[event.index]
        where = f"{event.index + 1}/{len(self._verdicts)}"
        line = " · ".join(filter(None, [f"{named(shown_text(token))}: {said}", pieces_of(token)]))
        self.query_one("#verdict", Static).update(f"{where} {line}", layout=False)
        self.query_one(TokenTable).show(token)

    # Keys --------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        self.query_one(TokenText).move(by)

    def action_line(self, by: int) -> None:
        self.query_one(TokenText).line(by)

    def action_page(self, by: int) -> None:
        self.query_one(TokenText).page(by)

    def action_end(self, by: int) -> None:
        self.query_one(TokenText).move(by * len(self._verdicts))

    def action_far(self, by: int) -> None:
        if self._verdicts and not self.query_one(TokenText).far(by):
            raise UsageError(f"no token {'after' if by > 0 else 'before'} this one moved that far")

    def action_color(self) -> None:
        if self._verdicts:
            self._side = (self._side + 1) % len(self._moved.sides)
            self._color()

    def action_back(self) -> None:
        if self._job is not None:
            self._job.stop()
        self.leave(None)
