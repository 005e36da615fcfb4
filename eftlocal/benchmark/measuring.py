"""Runs the modes in turn, prompt by prompt, and keeps what each run took.

Noise of a shared machine comes and goes over seconds to minutes. Modes that take turns on the same
prompt with the same seed meet it alike, so that ratios within a turn tell more than absolute times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from eftlocal.benchmark.energy import Meter
from eftlocal.benchmark.modes import Mode
from eftlocal.benchmark.prompts import BUILT_IN
from eftlocal.emulator import Emulator
from eftlocal.errors import UsageError
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.settings import Totals

_PREFILLED = 512  # tokens of the prompt that prefill is measured on, or half a context
_WARM_UP = 8  # tokens answered by each mode before anything counts


@dataclass(frozen=True)
class Run:
    """One answer, from empty caches.

    Attributes:
        turn: index of the prompt and repetition; equal for the modes to be compared.
        first_token: seconds from the call to the first token.
        rate: tokens a second after the first round; 0 where the first round brought all.
        joules: of the whole run; None where the machine does not tell.
        totals: what became of the drafts.
        text: the answer.
    """

    mode: str
    turn: int
    tokens: int
    first_token: float
    rate: float
    joules: float | None
    totals: Totals
    text: str


@dataclass(frozen=True)
class Prefill:
    """A prompt of given length decoded from empty caches; rate in prompt tokens a second."""

    mode: str
    turn: int
    rate: float


@dataclass(frozen=True)
class Measured:
    """Everything that was run."""

    prompt_tokens: int
    runs: list[Run]
    prefills: list[Prefill]


def prefill_length(emulator: Emulator, asked: int | None) -> int:
    """Tokens of the prompt that prefill is measured on.

    Raises:
        UsageError: what was asked for does not fit a context.
    """
    n_ctx = emulator.ensemble.n_ctx
    if asked is not None and not 1 <= asked < n_ctx - 1:
        raise UsageError(
            f"--prompt-tokens {asked}: a context holds {n_ctx} tokens; give 1 to {n_ctx - 2}, or "
            "raise --n-ctx"
        )
    return min(_PREFILLED, n_ctx // 2) if asked is None else asked


def measure(
    emulator: Emulator,
    modes: Sequence[Mode],
    prompts: Sequence[str],
    *,
    sampling: Sampling,
    repeat: int,
    max_tokens: int,
    prompt_tokens: int,
    meters: Sequence[Meter] = (),
    advance: Callable[[], object] = lambda: None,
) -> Measured:
    """Every mode on every prompt, `repeat` times, one prefill of each mode a turn.

    The mode that begins changes from turn to turn. A first, short answer of each does not count:
    it brings the weights into memory.

    Args:
        sampling: its seed is replaced: that of a repetition is the same for every mode.
        advance: called after each prefill and after each answer that counts.
    """
    for mode in modes:
        _answer(emulator, mode, prompts[0], -1, replace(sampling, seed=0), _WARM_UP, ())
    measured = Measured(prompt_tokens, [], [])
    for turn in range(repeat * len(prompts)):
        repetition, at = divmod(turn, len(prompts))
        seeded = replace(sampling, seed=repetition)
        first = turn % len(modes)
        for mode in [*modes[first:], *modes[:first]]:
            rate = prompt_tokens / prefill(emulator, mode.recipe, prompt_tokens)
            measured.prefills.append(Prefill(mode.name, turn, rate))
            advance()
            measured.runs.append(
                _answer(emulator, mode, prompts[at], turn, seeded, max_tokens, meters)
            )
            advance()
    return measured


def prefill(emulator: Emulator, recipe: Recipe, length: int) -> float:
    """Seconds from a prompt of so many tokens, and empty caches, to the first token."""
    clear(emulator)
    ids = {}
    for role, model in emulator.models.items():
        tokens = model.tokenize(" ".join(BUILT_IN), add_bos=True)
        ids[role] = (tokens * (length // len(tokens) + 1))[:length]
    sequence = emulator.ensemble.open(ids, recipe=recipe, sampling=Sampling(temperature=0.0))
    try:
        began = time.perf_counter()
        emulator.rounds([sequence])
        return time.perf_counter() - began
    finally:
        emulator.ensemble.close(sequence)


def clear(emulator: Emulator) -> None:
    """Empties every cache."""
    for context in emulator.ensemble.contexts.values():
        for slot in range(context.n_seq_max):
            context.clear(slot)


def _answer(
    emulator: Emulator,
    mode: Mode,
    prompt: str,
    turn: int,
    sampling: Sampling,
    max_tokens: int,
    meters: Sequence[Meter],
) -> Run:
    clear(emulator)
    before = sum(meter.joules() for meter in meters)
    answer = emulator.generate(
        prompt,
        recipe=mode.recipe,
        sampling=sampling,
        speculation=mode.speculation,
        max_tokens=max_tokens,
        ignore_end=mode.endless,
    )
    spent = sum(meter.joules() for meter in meters) - before
    return Run(
        mode=mode.name,
        turn=turn,
        tokens=len(answer.tokens),
        first_token=answer.timing.first_token,
        rate=answer.timing.tokens_per_second,
        joules=spent if meters else None,
        totals=answer.speculation,
        text=answer.text,
    )
