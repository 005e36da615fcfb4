"""Many answers at once on one ensemble, as token ids: what texts are compared by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eftlocal import Emulator
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.score import text_rows
from eftlocal.decoding.sequence import RunningSequence, Source
from eftlocal.llama import Context, Span
from eftlocal.logits.candidates import Candidates
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.speculation.measurement import ROWS
from eftlocal.speculation.settings import OFF, Speculation, Totals

SETTINGS = {
    "temperature 0.7, top-p 0.95": Sampling(temperature=0.7, top_p=0.95),
    "temperature 1, unfiltered": Sampling(temperature=1.0, top_p=1.0),
    "temperature 1.2, all filters": Sampling(
        temperature=1.2,
        top_k=20,
        top_p=1.0,
        min_p=0.02,
        repeat_penalty=1.1,
        presence_penalty=0.3,
        logit_bias={5: 1.0, 300: 0.5, 40: -2.0},
    ),
}
GREEDY = Sampling(temperature=0.0)
LENGTHS = (1, 2, 4, 8)
UNSURE = 2.5  # nats


class FixedCosts(Costs):
    """Costs that no clock corrects, so that draft lengths are the same at every run.

    They have the steps of kernels that work on four rows at once, so calls are padded.
    """

    def __init__(self, roles: Iterable[str]) -> None:
        seconds = {n: 1.0 + 0.5 * (n // 4) + 0.2 * (n % 4) for n in ROWS}
        super().__init__({role: Curve(seconds) for role in roles})

    def observe(self, role: str, rows: int, seconds: float) -> None:
        """Learns nothing."""


@dataclass(frozen=True)
class Job:
    """One answer to make."""

    prompts: Mapping[str, Sequence[int]]
    sampling: Sampling
    seed: int
    speculation: Speculation = OFF
    recipe: Recipe = Recipe.upscale()  # noqa: RUF009
    max_tokens: int = 24


@dataclass(frozen=True)
class Text:
    """An answer: its tokens up to an end token, where they came from, and its drafts."""

    tokens: tuple[int, ...]
    sources: tuple[Source, ...]
    totals: Totals


def answers(rounds: Rounds, jobs: Iterable[Job], width: int = 0) -> list[Text]:
    """The answers to all jobs, in their order, at most `width` side by side (0: as many as fit)."""
    ensemble, waiting = rounds.ensemble, enumerate(jobs)
    running: dict[RunningSequence, int] = {}
    done: dict[int, Text] = {}
    try:
        while True:
            while len(running) < (width or ensemble.n_seq_max):
                index, job = next(waiting, (-1, None))
                if job is None:
                    break
                sequence = ensemble.open(
                    job.prompts,
                    recipe=job.recipe,
                    sampling=job.sampling,
                    seed=job.seed,
                    max_tokens=job.max_tokens,
                    speculation=job.speculation,
                )
                running[sequence] = index
            if not running:
                return [done[i] for i in sorted(done)]
            rounds(list(running))
            for sequence in [s for s in running if _ended(ensemble, s)]:
                done[running.pop(sequence)] = _text(ensemble, sequence)
                ensemble.close(sequence)
    finally:
        for sequence in running:
            ensemble.close(sequence)


def uncertain_beginning(emulator: Emulator, questions: Iterable[str]) -> dict[str, list[int]]:
    """Prompts that go up to where greedy answers are unsure of their next token, not at a loss.

    Answers from there differ from seed to seed, but not all of them, and their rest is short.
    """
    highest, found = -1.0, dict[str, list[int]]()
    for question in questions:
        prompts = emulator.tokenize(question)
        (text,) = answers(Rounds(emulator.ensemble), [Job(prompts, GREEDY, 0)])
        scored = text_rows(emulator.ensemble, prompts, text.tokens[:-4], recipe=Recipe.upscale())
        for i, (_, row, _) in enumerate(scored):
            p = Candidates(None, row).probabilities()[1]
            entropy = -float(p @ np.log(np.maximum(p, 1e-30)))
            if highest < entropy < UNSURE:
                begun = text.tokens[:i]
                highest = entropy
                found = {role: [*ids, *begun] for role, ids in prompts.items()}
    return found


def _ended(ensemble: Ensemble, sequence: RunningSequence) -> bool:
    assert sequence.max_tokens is not None
    return (
        len(sequence.choices) >= sequence.max_tokens
        or sequence.choices[-1].token in ensemble.stop_tokens
        or ensemble.room(sequence) < 1
    )


def _text(ensemble: Ensemble, sequence: RunningSequence) -> Text:
    if any(choice.token in ensemble.stop_tokens for choice in sequence.choices[:-1]):
        raise AssertionError("a round went on after an end token")
    return Text(
        tuple(sequence.tokens()),
        tuple(choice.source for choice in sequence.choices),
        sequence.drafting.totals,
    )


def other_bits(
    context: Context, prompt: Sequence[int], tokens: Sequence[int], widths: Iterable[int] = (1,)
) -> dict[tuple[int, int], float]:
    """Where kernels give other bits than one row at a time does.

    Returns:
        (sequences, rows of each) -> largest difference of a logit, for 1 to MAX_DRAFT + 1 rows
        after the prompt and after one token more; nothing where all bits agree.
    """
    context.clear(0)
    context.decode([Span(0, prompt, 1)])
    alone = [context.decode([Span(0, [token], 1)])[0].copy() for token in tokens]
    found: dict[tuple[int, int], float] = {}
    for width in widths:
        for rows in range(1, min(MAX_DRAFT + 1, len(tokens), context.n_rows // width) + 1):
            for slot in range(width):
                context.clear(slot)
                context.decode([Span(slot, prompt, 1)])
            most = 0.0
            for start in range(0, len(tokens) - rows + 1, rows):
                part = tokens[start : start + rows]
                got = context.decode([Span(slot, part, rows) for slot in range(width)])
                want = np.stack(alone[start : start + rows] * width)
                most = max(most, float(np.abs(got - want).max()))
            if most > 0.0:
                found[width, rows] = most
    for slot in range(context.n_seq_max):
        context.clear(slot)
    return found
