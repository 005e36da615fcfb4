"""Answers of one placement beside those of the CPU alone: the same, parted at a near tie, or not.

A device rounds otherwise than the CPU, so two tokens that are nearly as probable may change places,
and the texts go their own ways from there. How near they were is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np

from eftlocal import Emulator, Sampling, llama
from eftlocal.loading import loader
from eftlocal.loading.placement import DeviceMemory
from eftlocal.scheduler import Scheduler

GREEDY = Sampling(temperature=0.0)
NEAR_TIE = 0.1
"""Nats between the two most probable tokens: closer than that, either may be chosen."""
FAR = 0.5
"""Nats by which a token's log-probability may differ, of tokens that greedy answers choose. The CPU
rounds activations to 8 bits and devices do not: 0.31 was measured on SmolLM2 in Q4_1."""


@dataclass(frozen=True)
class Text:
    """A greedy answer: its tokens, the log-probability of each, and how far the next one was."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """same: texts that are; apart: margin where each of the others parts; largest: difference of a
    log-probability before that."""

    same: int
    apart: tuple[float, ...]
    largest: float

    @property
    def fine(self) -> bool:
        return max(self.apart, default=0.0) <= NEAR_TIE and self.largest <= FAR

    def __str__(self) -> str:
        told = f"{self.same} of {self.same + len(self.apart)} texts the same"
        if self.apart:
            told += f", parted at margins of {', '.join(f'{m:.3f}' for m in self.apart)}"
        return f"{told}; log-probabilities within {self.largest:.4f}"


def texts(
    emulator: Emulator, prompts: Sequence[str], tokens: int, *, draft: int | None = 0, wide: int = 1
) -> list[Text]:
    """Greedy answers, so many side by side; draft as `Speculation.length`."""
    options = {
        "sampling": GREEDY,
        "max_tokens": tokens,
        "speculation": "auto" if draft is None else draft,
        "logprobs": True,
        "top_logprobs": 2,
    }
    with Scheduler(emulator, parallel=wide) as scheduler:
        calls = [scheduler.add(prompt, **options) for prompt in prompts]
        while scheduler:
            scheduler.step()
    found = []
    for call in calls:
        answer = call.answer()
        assert answer.logprobs is not None and answer.top_logprobs is not None
        margins = tuple(top[0][1] - top[1][1] for top in answer.top_logprobs)
        found.append(Text(answer.tokens, answer.logprobs, margins))
    return found


def compare(expected: Sequence[Text], found: Sequence[Text]) -> Verdict:
    apart, largest = [], 0.0
    for one, other in zip(expected, found, strict=True):
        pairs = zip(one.tokens, other.tokens, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if at is None and len(one.tokens) != len(other.tokens):
            at = min(len(one.tokens), len(other.tokens))
        if at is not None:
            apart.append(one.margins[at])
        before = slice(0, at)
        differences = np.subtract(one.logprobs[before], other.logprobs[before])
        largest = max(largest, float(np.abs(differences).max(initial=0.0)))
    return Verdict(len(expected) - len(apart), tuple(apart), largest)


@contextmanager
def devices_as(change: dict[str, int] | None) -> Iterator[None]:
    """llama.cpp's devices as the program sees them: None leaves the CPU alone; else free bytes
    by name, where they are to be others."""
    real, of_workers = llama.devices, loader.of_workers

    def seen() -> list[llama.Device]:
        found = real()
        if change is None:
            return [device for device in found if device.kind == "cpu"]
        return [replace(d, memory_free=change.get(d.name, d.memory_free)) for d in found]

    def seen_there(workers: Iterable[llama.Worker]) -> list[DeviceMemory]:
        return [replace(d, free=(change or {}).get(d.name, d.free)) for d in of_workers(workers)]

    with (
        patch.object(llama, "devices", seen),
        patch.object(loader, "of_workers", seen_there),
    ):
        yield
