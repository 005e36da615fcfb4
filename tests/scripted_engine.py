"""An engine that says what a test tells it to, and waits where a test wants it to wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eftlocal import Message, Recipe, Sampling, Speculation
from eftlocal.errors import EftlocalError
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine.protocol import (
    Candidate,
    Live,
    Loaded,
    Moved,
    MovedToken,
    Piece,
    Progress,
    Report,
)
from eftlocal_tui.history import Figures

ROLES = ("base", "tuned", "reference")
PATIENCE = 20.0  # seconds after which a test that forgot to say `go` fails
DIALS = Dials(Recipe.upscale(1.0), Sampling(temperature=0.7), Speculation(length=0))


@dataclass
class Script:
    """One answer: its pieces, after how many of them it waits for `go`, and how it fails."""

    pieces: Sequence[str]
    wait_at: int | None = None
    error: EftlocalError | None = None
    at_once: EftlocalError | None = None
    go: threading.Event = field(default_factory=threading.Event)


class ScriptedEngine:
    """See `eftlocal_tui.engine.protocol.Engine`. `heard` is what it was asked."""

    def __init__(self, *scripts: Script | str) -> None:
        self.scripts = [s if isinstance(s, Script) else Script(_words(s)) for s in scripts]
        self.heard: list[tuple[list[Message], Dials, bool]] = []
        self.loads: list[str | None] = []
        self.refuses: dict[str | None, EftlocalError] = {}
        self.progress: list[Progress] = [Progress("weights", "base", 0.5, 1.0)]
        self.load_waits = threading.Event()
        self.load_waits.set()
        self.answering: list[ScriptedAnswer] = []
        self.inspected: list[str | Sequence[int]] = []
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
        return Loaded(preset or self.name, self.roles, DIALS, 4096, self.notes)

    def answer(
        self, messages: Sequence[Message], dials: Dials, *, continue_last: bool = False
    ) -> ScriptedAnswer:
        self.heard.append((list(messages), dials, continue_last))
        script = self.scripts.pop(0) if self.scripts else Script(["A", "gain."])
        if script.at_once is not None:
            raise script.at_once
        answer = ScriptedAnswer(script, dials)
        self.answering.append(answer)
        return answer

    def inspect(
        self, messages: Sequence[Message], answer: str | Sequence[int], dials: Dials
    ) -> Moved:
        self.inspected.append(answer)
        texts = ["Braga", " is", " in", "\n", " Portugal"]
        moved = [0.0, 0.2, 0.4, 0.05, 0.9]
        return Moved(
            "tv-base: total variation between combination and base",
            tuple(_moved(text, value) for text, value in zip(texts, moved, strict=True)),
        )

    def close(self) -> None:
        self.closed = True


class ScriptedAnswer:
    """See `eftlocal_tui.engine.protocol.Answering`."""

    seed = 7

    def __init__(self, script: Script, dials: Dials) -> None:
        self.dials = dials
        self.closed = False
        self._script = script
        self._given = 0
        self.followed: list[Dials] = []

    def __iter__(self) -> ScriptedAnswer:
        return self

    def __next__(self) -> Piece:
        script = self._script
        if self._given == script.wait_at:
            assert script.go.wait(PATIENCE)
        if self._given == len(script.pieces):
            if script.error is not None:
                raise script.error
            raise StopIteration
        last = self._given == len(script.pieces) - 1 and script.error is None
        self._given += 1
        self.followed.append(self.dials)
        text = script.pieces[self._given - 1]
        return Piece(text, self._given, "plain", "stop" if last else None)

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


def with_recipe(recipe: Recipe) -> Dials:
    return replace(DIALS, recipe=recipe)


def _words(text: str) -> list[str]:
    return [part for word in text.split(" ") for part in (word, " ")][:-1]


def _moved(text: str, value: float) -> MovedToken:
    names = (*ROLES, "combination")
    return MovedToken(
        text,
        value,
        "agreed" if value < 0.1 else "combination",
        dict.fromkeys(names, 0.5),
        {name: (Candidate(text, 0.5), Candidate(f" [{name}]", 0.25)) for name in names},
    )
