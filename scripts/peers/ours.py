"""This program: one answer at a time, with drafts or without, or all at once."""

from __future__ import annotations

from typing import Any

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.scheduler import Scheduler
from eftlocal.speculation.settings import OFF, Speculation
from peers.table import Asked, Heard


def emulator(asked: Asked) -> Emulator:
    """The three roles, greedy."""
    return Emulator.from_files(
        **asked.files,
        adapters=dict(asked.adapters),
        n_ctx=asked.n_ctx,
        n_seq_max=asked.places,
        threads=asked.threads,
        trust=True,
    )


class Ours:
    """An `Emulator`, and a `Scheduler` where answers are given together."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._emulator = asked, emulator(asked)
        drafts = Speculation() if asked.kind == "drafts" else OFF
        if not drafts.off:
            self._emulator.measure()
        self._options: dict[str, Any] = {
            "recipe": Recipe.proxy(asked.alpha),
            "sampling": Sampling(temperature=0.0),
            "speculation": drafts,
            "max_tokens": asked.tokens,
            "loop_guard": "off",
        }
        self._drafted = self._accepted = 0

    def answer(self, prompts: list[list[int]]) -> Heard:
        self._emulator.ensemble.clear()
        if self._asked.kind == "together":
            return self._together(prompts)
        (prompt,) = prompts
        began = self._asked.now()
        stream = self._emulator.stream(prompt, **self._options)
        times = [self._asked.now() for _ in stream]
        answer = stream.answer()
        self._drafted += sum(answer.speculation.tried)
        self._accepted += sum(answer.speculation.accepted)
        first, last, at_first = times[0] - began, times[-1] - began, answer.timing.at_first
        return Heard([list(answer.tokens)], first, at_first, last)

    def _together(self, prompts: list[list[int]]) -> Heard:
        began, first = self._asked.now(), 0.0
        scheduler = Scheduler(self._emulator, parallel=len(prompts))
        calls = [scheduler.add(prompt, **self._options) for prompt in prompts]
        while scheduler:
            if scheduler.step() and not first:
                first = self._asked.now() - began
        seconds = self._asked.now() - began
        return Heard([list(call.answer().tokens) for call in calls], first, 1, seconds)

    def facts(self) -> dict[str, Any]:
        return {"drafted": self._drafted, "accepted": self._accepted}


open_way = Ours
