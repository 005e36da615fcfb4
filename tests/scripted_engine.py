"""An engine that says what a test tells it to, and waits where a test wants it to wait."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from eftlocal import Message, Recipe, Sampling, Speculation, Step
from eftlocal.errors import EftlocalError
from eftlocal.study.inspection import Candidate, InspectedToken
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import (
    Came,
    Check,
    Live,
    Loaded,
    Moved,
    Progress,
    Read,
    Reading,
    Report,
)
from eftlocal_tui.engine.tasks import StoppedError
from eftlocal_tui.history import Figures

ROLES = ("base", "tuned", "reference")
PATIENCE = 240.0  # seconds after which a test that forgot to say `go` fails
DIALS = Dials(Recipe.upscale(1.0), Sampling(temperature=0.7), Speculation(length=0))


@dataclass
class Script:
    """One answer: its pieces, after how many of them it waits for `go`, and how it fails.

    One that waits before its first piece reads its prompt meanwhile, which a check ends.
    """

    pieces: Sequence[str]
    wait_at: int | None = None
    error: EftlocalError | None = None
    at_once: EftlocalError | None = None
    go: threading.Event = field(default_factory=threading.Event)


class ScriptedEngine:
    """See `eftlocal_tui.engine.Engine`. `heard` is what it was asked."""

    def __init__(self, *scripts: Script | str) -> None:
        self.scripts = [s if isinstance(s, Script) else Script(_words(s)) for s in scripts]
        self.given = tuple(self.scripts)
        self.heard: list[tuple[list[Message], Dials, bool]] = []
        self.loads: list[str | None] = []
        self.refuses: dict[str | None, EftlocalError] = {}
        self.progress: list[Progress] = [Progress("weights", "base", 0.5, 1.0)]
        self.load_waits = threading.Event()
        self.load_waits.set()
        self.answering: list[ScriptedAnswer] = []
        self.inspected: list[str | Sequence[int]] = []
        self.inspects = threading.Event()
        self.inspects.set()
        self.readings: Sequence[Reading] = ()  # told before every answer and inspection
        self.broken: EftlocalError | None = None  # what ends all answers that are compared
        self.closed = False
        self.name = "fake"
        self.roles: tuple[str, ...] = ROLES
        self.notes: tuple[str, ...] = ()

    def load(self, preset: str | None, report: Report) -> Loaded:
        self.loads.append(preset)
        for progress in self.progress:
            report(progress)
        assert self.load_waits.wait(PATIENCE)
        report(Progress("weights", "base", 1.0, 1.0))
        if preset in self.refuses:
            raise self.refuses[preset]
        return Loaded(preset or self.name, self.roles, DIALS, self.notes)

    def answer(
        self,
        messages: Sequence[Message],
        dials: Dials,
        *,
        continue_last: bool = False,
        check: Check | None = None,
        read: Read | None = None,
    ) -> ScriptedAnswer:
        self.heard.append((list(messages), dials, continue_last))
        script = self.scripts.pop(0) if self.scripts else Script(["A", "gain."])
        if script.at_once is not None:
            raise script.at_once
        for reading in self.readings if read is not None else ():
            read(reading)
        answer = ScriptedAnswer(script, dials, check)
        self.answering.append(answer)
        return answer

    def answers(
        self,
        messages: Sequence[Message],
        dials: Sequence[Dials],
        *,
        check: Check | None = None,
        read: Read | None = None,
    ) -> ScriptedAnswers:
        begun: list[ScriptedAnswer | EftlocalError] = []
        for one in dials:
            try:
                begun.append(self.answer(messages, one, check=check, read=read))
            except EftlocalError as error:
                begun.append(error)
        return ScriptedAnswers(begun, check, self.broken)

    def inspect(
        self,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        dials: Dials,
        *,
        check: Check | None = None,
        read: Read | None = None,
    ) -> Moved:
        self.inspected.append(answer)
        for reading in self.readings if read is not None else ():
            read(reading)
        waiting(self.inspects, check)
        texts = ["Braga", " is", " in", "\n", " Portugal"]
        moved = [0.0, 0.2, 0.4, 0.05, 0.9]
        return Moved(
            "tv-base: total variation between combination and base",
            tuple(_token(text, value) for text, value in zip(texts, moved, strict=True)),
            tuple(moved),
        )

    def go(self) -> None:
        """Ends all waiting of the scripts that it was made with."""
        for script in self.given:
            script.go.set()

    def close(self) -> None:
        self.closed = True


class ScriptedAnswer:
    """See `eftlocal_tui.engine.Answering`."""

    seed = 7

    def __init__(self, script: Script, dials: Dials, check: Check | None = None) -> None:
        self.dials = dials
        self._check = check
        self.closed = False
        self._script = script
        self._given = 0
        self.followed: list[Dials] = []

    def __iter__(self) -> ScriptedAnswer:
        return self

    def __next__(self) -> Step:
        script = self._script
        if self._given == script.wait_at:
            waiting(script.go, None if self._given else self._check)
        if self._given == len(script.pieces):
            if script.error is not None:
                raise script.error
            raise StopIteration
        last = self._given == len(script.pieces) - 1 and script.error is None
        self._given += 1
        self.followed.append(self.dials)
        text = script.pieces[self._given - 1]
        return Step(self._given - 1, self._given, text, finish_reason="stop" if last else None)

    def live(self) -> Live:
        figures = Figures(
            tokens=self._given,
            seconds=1.5,
            first_token=0.25,
            tokens_per_second=20.0,
            acceptance=0.5,
            prompt_tokens=9,
        )
        return Live(figures, 3.0, 9 + self._given, 4096)

    def close(self) -> None:
        self.closed = True


class ScriptedAnswers:
    """See `eftlocal_tui.engine.Answers`: a piece of each in turn."""

    def __init__(
        self,
        begun: Sequence[ScriptedAnswer | EftlocalError],
        check: Check | None,
        broken: EftlocalError | None,
    ) -> None:
        self._answers = begun
        self._check = check
        self._came = self._rounds(broken)

    def __iter__(self) -> ScriptedAnswers:
        return self

    def __next__(self) -> Came:
        if self._check is not None:
            self._check()
        return next(self._came)

    def _rounds(self, broken: EftlocalError | None) -> Iterator[Came]:
        running = dict(enumerate(self._answers))
        while running:
            for index, answer in list(running.items()):
                if isinstance(answer, EftlocalError):
                    del running[index]
                    yield Came(index, None, str(answer))
                    continue
                try:
                    step = next(answer)
                except StoppedError:
                    raise
                except EftlocalError as error:
                    del running[index]
                    yield Came(index, None, str(error))
                    continue
                if step.finish_reason is not None:
                    del running[index]
                yield Came(index, step)
            if broken is not None:
                raise broken

    def live(self, index: int) -> Live | None:
        answer = self._answers[index]
        return None if isinstance(answer, EftlocalError) else answer.live()

    def close(self) -> None:
        for answer in self._answers:
            if not isinstance(answer, EftlocalError):
                answer.close()


def waiting(go: threading.Event, check: Check | None) -> None:
    """Waits for the word to go on, as long as the check lets it."""
    for _ in range(round(PATIENCE * 100)):
        if go.wait(0.01):
            return
        if check is not None:
            check()
    raise AssertionError("a test forgot to say go")


def with_recipe(recipe: Recipe) -> Dials:
    return replace(DIALS, recipe=recipe)


def _words(text: str) -> list[str]:
    return [part for word in text.split(" ") for part in (word, " ")][:-1]


def _token(text: str, moved: float) -> InspectedToken:
    names = (*ROLES, "combination")
    return InspectedToken(
        index=0,
        token=0,
        text=text,
        label=text,
        control=False,
        logprobs=dict.fromkeys(names, math.log(0.5)),
        ranks=dict.fromkeys(names, 1),
        distances={},
        candidates={
            name: (Candidate(0, text, 0.5), Candidate(1, f" [{name}]", 0.25)) for name in names
        },
        won="agreed" if moved < 0.1 else "combination",
    )
