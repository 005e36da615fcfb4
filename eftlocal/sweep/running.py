"""Answers every prompt at every point, one emulator for all.

Prompt by prompt, so that a sweep that is stopped has compared its points on the same prompts, and
a prompt is decoded once for all points. What a cache held before a prompt is dropped: kernels may
give other last bits for another number of rows, and a resumed sweep must say what an uninterrupted
one says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from eftlocal.decoding.sequence import Wanted
from eftlocal.emulator import Emulator
from eftlocal.errors import PromptError
from eftlocal.evaluate.questions import Question
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.settings import Speculation
from eftlocal.sweep.grid import Point, plain_dials
from eftlocal.sweep.journal import Journal, Record
from eftlocal.sweep.measures import losses, of_answer
from eftlocal.sweep.prompts import Item, seed_of


def remaining(points: Sequence[Point], items: Sequence[Item], journal: Journal) -> int:
    """Answers still to be generated."""
    keys = {point.key for point in points}
    return sum((key, i) not in journal.records for key in keys for i in range(len(items)))


def run_sweep(
    em: Emulator,
    points: Sequence[Point],
    items: Sequence[Item],
    journal: Journal,
    *,
    seed: int,
    max_tokens: int | None,
    stop: Sequence[str],
    loop_guard: int,
    speculation: Speculation,
    advance: Callable[[], object] = lambda: None,
) -> None:
    """Generates what the journal lacks, and adds it answer by answer.

    Args:
        em: with no sequence open, and the roles of every point.
        stop: beside the emulator's own.
        advance: called after each answer.

    Raises:
        PromptError: a prompt does not fit a context; said before any answer is generated.
    """
    distinct = list({point.key: point for point in points}.values())
    lacking = {
        index: missing
        for index in range(len(items))
        if (missing := [p for p in distinct if (p.key, index) not in journal.records])
    }
    for index in lacking:
        _check_fits(em, items[index], index)
    for index, missing in lacking.items():
        item = items[index]
        _prefill(em, item, distinct)
        costs = losses(em, item, {point.key: point.recipe for point in missing})
        for point in missing:
            drawn = replace(point.sampling, seed=seed_of(seed, index))
            answer = em.generate(
                item.prompt,
                raw=item.raw,
                special=item.special,
                recipe=point.recipe,
                sampling=drawn,
                max_tokens=max_tokens,
                stop=stop,
                loop_guard=loop_guard,
                logprobs=True,
                speculation=speculation,
            )
            journal.add(
                Record(
                    point=point.key,
                    prompt=index,
                    dials=plain_dials(point),
                    seed=answer.seed,
                    text=answer.text,
                    finish_reason=str(answer.finish_reason),
                    values=of_answer(answer, item, em.roles) | costs[point.key],
                )
            )
            advance()


def _check_fits(em: Emulator, item: Item, index: int) -> None:
    gold = [*item.gold[:1], *(q.answers["warm"][0] for q in _questions(item))]
    for role, ids in em.tokenize(item.prompt, raw=item.raw, special=item.special).items():
        holds = em.ensemble.contexts[role].n_ctx
        model = em.models[role]
        answers = (model.tokenize(f" {text}", continues=True) for text in gold)
        scored = max((len(answer) + 1 for answer in answers), default=1)
        if len(ids) + scored > holds:
            raise PromptError(
                f"prompt {index + 1} has {len(ids)} tokens under {role}, its answer {scored} or "
                f"more, and the context holds {holds}; raise --n-ctx or leave it out"
            )


def _prefill(em: Emulator, item: Item, points: Sequence[Point]) -> None:
    """Decodes the prompt afresh under every role that some point needs."""
    for context in em.ensemble.contexts.values():
        for slot in range(context.n_seq_max):
            context.clear(slot)
    roles = dict.fromkeys(role for point in points for role in point.recipe.roles)
    needed = Recipe(dict.fromkeys(roles, 1.0), name="all roles", any_sum=True)
    ids = em.tokenize(item.prompt, raw=item.raw, special=item.special)
    sequence = em.ensemble.open(ids, recipe=needed, sampling=Sampling(temperature=0.0))
    try:
        em.ensemble.decode({role: [Wanted(sequence)] for role in roles})
    finally:
        em.ensemble.close(sequence)


def _questions(item: Item) -> Sequence[Question]:
    return item.asked.questions if item.asked else ()
