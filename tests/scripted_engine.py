"""An engine that says what a test tells it to, and waits where a test wants it to wait."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from eftlocal import Message, Recipe, Sampling, Speculation, Step
from eftlocal.errors import EftlocalError
from eftlocal.logits.recipe import PERSONA
from eftlocal.study.inspection import Candidate, InspectedToken
from eftlocal.thinking import Marks
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import (
    Again,
    Came,
    DownloadNeededError,
    Fit,
    Larger,
    Live,
    Load,
    Loaded,
    Moved,
    Offer,
    Progress,
    Reading,
    Report,
    Watch,
)
from eftlocal_tui.engine.thread import StoppedError
from eftlocal_tui.history import Figures

ROLES = ("base", "tuned", "reference")


def chances(*values: float) -> dict[str, float]:
    """Of a token, under each role and the combination."""
    return dict(zip((*ROLES, "combination"), values, strict=True))


PATIENCE = 120.0  # seconds after which what does not come is an error, on a busy machine too
SIDES = ("tuned", "base")
TOKENS = (  # of every inspection: probabilities, whose first choice, distance from either side
    ("Braga", chances(0.6, 0.7, 0.5, 0.85), "btrc", (0.0, 0.0)),
    (" is", chances(0.3, 0.9, 0.4, 0.8), "tc", (0.2, 0.5)),
    (" in", chances(0.6, 0.1, 0.2, 0.7), "bc", (0.4, 0.2)),
    ("\n", chances(0.2, 0.3, 0.6, 0.1), "r", (0.05, 0.05)),
    (" Portugal", chances(0.41, 0.03, 0.02, 0.88), "bc", (0.9, 0.5)),
)
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
    marks: Marks | None = None
    go: threading.Event = field(default_factory=threading.Event)


class ScriptedEngine:
    """See `eftlocal_tui.engine.local.LocalEngine`. `heard` is what it was asked."""

    def __init__(self, *scripts: Script | str) -> None:
        self.scripts = [s if isinstance(s, Script) else Script(_words(s)) for s in scripts]
        self.given = tuple(self.scripts)
        self.heard: list[tuple[list[Message], Dials, bool]] = []
        self.loads: list[str | None] = []
        self.refuses: dict[str | None, EftlocalError] = {}
        self.missing: dict[str | None, DownloadNeededError] = {}
        self.downloads: list[str | None] = []  # that were agreed to
        self.loaded: Loaded | None = None
        self.gives_up = False  # what was loaded, before a load fails
        self.offers: dict[str, Offer] = {}
        self.progress: list[Progress] = [Progress("weights", "base", 0.5, 1.0)]
        self.load_waits, self.prepare_waits = threading.Event(), threading.Event()
        self.load_waits.set()
        self.prepare_waits.set()
        self.n_ctx_most = 0  # of a larger context; 0 is none
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
        self.n_ctx = 4096
        self.counted = 0
        self.files = {role: f"Toy-{role}.Q8_0" for role in ROLES}

    def prepare(self, preset: str | None, report: Report, *, download: bool = False) -> Load:
        self.loads.append(preset)
        if preset in self.missing and not download:
            raise self.missing[preset]
        self.downloads += [preset] * download
        self._report(report, ("waiting", "download", "checking"))
        assert self.prepare_waits.wait(PATIENCE)
        if preset in self.refuses and not self.gives_up:
            raise self.refuses[preset]
        return partial(self._load, preset, self.n_ctx)

    def _report(self, report: Report, stages: Sequence[str]) -> None:
        for progress in self.progress:
            if progress.stage in stages:
                report(progress)

    def larger(self, fit: Fit) -> Larger | None:
        n_ctx = min(2 * self.n_ctx, self.n_ctx_most)
        if not fit.with_sizes(dict.fromkeys(self.roles, n_ctx)).enough:
            return None
        load = partial(self._load, self.name, n_ctx)
        return Larger(2_500_000_000, 0, load, dict.fromkeys(self.roles, n_ctx))

    def also(self, recipe: Recipe) -> Again:
        def load(report: Report) -> Loaded:
            self.roles = tuple(dict.fromkeys((*self.roles, *recipe.roles)))
            return self._load(None, self.n_ctx, report)

        return Again(2_500_000_000, 0, load)

    def _load(self, preset: str | None, n_ctx: int, report: Report) -> Loaded:
        self._report(report, ("weights", "measuring"))
        assert self.load_waits.wait(PATIENCE)
        report(Progress("weights", "base", 1.0, 1.0))
        if preset in self.refuses:
            raise self.refuses[preset]
        self.n_ctx = n_ctx
        self.loaded = Loaded(preset or self.name, self.roles, DIALS, self.notes, self.files)
        return self.loaded

    def restore(self, report: Report) -> Loaded | None:
        if self.loaded is not None and self.gives_up:
            report(Progress("weights", "base", 1.0, 1.0))
            self.loaded = replace(self.loaded)  # another object, of the same models
        return self.loaded

    def look(self, preset: str) -> Offer:
        return self.offers.get(preset, Offer(preset))

    def fits(self, messages: Sequence[Message], dials: Dials) -> Fit:
        """A token a word, and one more a message in the base."""
        self.counted += 1
        words = sum(len(message["content"].split()) for message in messages)
        tokens = {role: words + (role == "base") * len(messages) for role in self.roles}
        if PERSONA in tokens:
            tokens[PERSONA] += len(dials.recipe.persona_prompt.split())
        return Fit(tokens, dict.fromkeys(self.roles, self.n_ctx), dict.fromkeys(self.roles, 0))

    def answer(
        self,
        messages: Sequence[Message],
        dials: Dials,
        watch: Watch | None = None,
        *,
        continue_last: bool = False,
    ) -> ScriptedAnswer:
        self.heard.append((list(messages), dials, continue_last))
        script = self.scripts.pop(0) if self.scripts else Script(["A", "gain."])
        if script.at_once is not None:
            raise script.at_once
        self._read(watch)
        answer = ScriptedAnswer(script, dials, watch)
        self.answering.append(answer)
        return answer

    def _read(self, watch: Watch | None) -> None:
        for reading in self.readings if watch is not None else ():
            watch.put(reading)

    def answers(
        self, messages: Sequence[Message], dials: Sequence[Dials], watch: Watch | None = None
    ) -> ScriptedAnswers:
        begun: list[ScriptedAnswer | EftlocalError] = []
        for one in dials:
            try:
                begun.append(self.answer(messages, one, watch))
            except EftlocalError as error:
                begun.append(error)
        return ScriptedAnswers(begun, watch, self.broken)

    def inspect(
        self,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        dials: Dials,
        watch: Watch | None = None,
    ) -> Moved:
        self.inspected.append(answer)
        self._read(watch)
        waiting(self.inspects, watch)
        return Moved(tuple(token(i, *told) for i, told in enumerate(TOKENS)), SIDES)

    def go(self) -> None:
        """Ends all waiting of the scripts that it was made with."""
        for script in self.given:
            script.go.set()

    def held(self) -> int:
        return 0

    def keep(self, path: Path, fits: Callable[[int], bool], check: Callable[[], None]) -> None:
        raise AssertionError("nothing is held")

    def resume(self, path: Path) -> None:
        raise AssertionError("nothing was kept")

    def close(self) -> None:
        self.closed = True


class ScriptedAnswer:
    """See `LocalAnswering`."""

    seed = 7

    def __init__(self, script: Script, dials: Dials, watch: Watch | None = None) -> None:
        self.dials = dials
        self._watch = watch
        self.closed = False
        self._script = script
        self._given = 0
        self.followed: list[Dials] = []

    def __iter__(self) -> ScriptedAnswer:
        return self

    def __next__(self) -> Step:
        script = self._script
        if self._given == script.wait_at:
            waiting(script.go, None if self._given else self._watch)
        if self._given == len(script.pieces):
            if script.error is not None:
                raise script.error
            raise StopIteration
        last = self._given == len(script.pieces) - 1 and script.error is None
        self._given += 1
        self.followed.append(self.dials)
        text = script.pieces[self._given - 1]
        return Step(self._given - 1, self._given, text, finish_reason="stop" if last else None)

    @property
    def marks(self) -> Marks | None:
        return self._script.marks

    def live(self) -> Live:
        figures = Figures(
            tokens=self._given,
            seconds=1.5 if self._given else 0.0,
            first_token=0.25 if self._given else 0.0,
            tokens_per_second=20.0 if self._given else 0.0,
            acceptance=0.5 if self._given else None,
            prompt_tokens=9,
        )
        return Live(figures, 3.0, 9 + self._given, 4096)

    def close(self) -> None:
        self.closed = True


class ScriptedAnswers:
    """See `LocalAnswers`: a piece of each in turn."""

    def __init__(
        self,
        begun: Sequence[ScriptedAnswer | EftlocalError],
        watch: Watch | None,
        broken: EftlocalError | None,
    ) -> None:
        self._answers = begun
        self._watch = watch
        self._came = self._rounds(broken)

    def __iter__(self) -> ScriptedAnswers:
        return self

    def __next__(self) -> Came:
        if self._watch is not None:
            self._watch.check()
        return next(self._came)

    @property
    def marks(self) -> Marks | None:
        begun = [answer for answer in self._answers if isinstance(answer, ScriptedAnswer)]
        return begun[0].marks if begun else None

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


def waiting(go: threading.Event, watch: Watch | None) -> None:
    """Waits for the word to go on, as long as the check lets it."""
    for _ in range(round(PATIENCE * 100)):
        if go.wait(0.01):
            return
        if watch is not None:
            watch.check()
    raise AssertionError("a test forgot to say go")


def with_recipe(recipe: Recipe) -> Dials:
    return replace(DIALS, recipe=recipe)


def _words(text: str) -> list[str]:
    return [part for word in text.split(" ") for part in (word, " ")][:-1]


def token(
    index: int, text: str, chances: Mapping[str, float], first: str, distances: tuple[float, float]
) -> InspectedToken:
    """A token of these probabilities, the first choice of the models named by their letters."""
    return InspectedToken(
        index=index,
        token=0,
        text=text,
        label=text,
        control=False,
        logprobs={name: math.log(chance) for name, chance in chances.items()},
        ranks={name: 1 if name[0] in first else 3 for name in chances},
        distances={("combination", side): d for side, d in zip(SIDES, distances, strict=True)},
        candidates={
            name: tuple(
                sorted(
                    (
                        Candidate(0, text, chance),
                        Candidate(1, f" [{name}]", chance + (-0.02 if name[0] in first else 0.05)),
                    ),
                    key=lambda candidate: -candidate.probability,
                )
            )
            for name, chance in chances.items()
        },
        won="",
    )
