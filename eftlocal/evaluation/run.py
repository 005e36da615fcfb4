"""The answers of an evaluation: each item under every point of a grid, as rows on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.answer import Answer
from eftlocal.bases import Closing
from eftlocal.batch.lines import Line
from eftlocal.batch.runner import answer_lines
from eftlocal.decoding.score import TextLogprobs
from eftlocal.emulator import Emulator
from eftlocal.errors import EftlocalError, PromptError
from eftlocal.evaluation.grid import Point, plain_dials
from eftlocal.evaluation.task import Item, Metric, Task
from eftlocal.journal.journal import SYNC_SECONDS, Journal, Kind, Row
from eftlocal.journal.manifest import Manifest, of_roles, of_versions
from eftlocal.request import Request
from eftlocal.sources import Sources

OF_ANSWERS = {
    "stopped": Metric("answers that ended by themselves", True),
    "loops": Metric("answers that were stopped for repeating themselves", True),
    "logprob": Metric("mean log-probability of the answer's tokens, nats"),
    "tokens": Metric("length of the answer"),
    "distinct_1": Metric("distinct tokens, of all in an answer (Li et al. 2016)", True),
    "distinct_2": Metric("distinct pairs of neighbouring tokens, of all", True),
    "tokens_per_second": Metric("decoding, without the prompt"),
    "acceptance": Metric("draft tokens accepted, of those judged", True),
}
"""What is measured of every answer, whatever the task."""
FIRST = ("stopped", "tokens", "tokens_per_second", "acceptance")
"""Those that are shown unless others are asked for."""

_EVAL = Kind("evaluation", "a result of an evaluation", "give another --out")
SCORED = "scored"
"""In place of a reason why an answer ended: none was generated."""


def spread(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """At most so many, evenly spread over all."""
    if limit is None or limit >= len(items):
        return tuple(items)
    return tuple(items[i * len(items) // limit] for i in range(limit))


def digest(items: Sequence[Item]) -> str:
    """Of everything that the answers and what is judged of them depend on, in their order."""
    told = [vars(item) for item in items]
    text = json.dumps(told, ensure_ascii=True, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_of(seed: int, index: int, sample: int = 0) -> int:
    """The seed of one prompt's sample, at every point the same: points differ in their dials."""
    which = [seed, index, sample] if sample else [seed, index]
    return int(np.random.SeedSequence(which).generate_state(1, np.uint64)[0] >> 1)


def metrics_of(task: Task, *, roles: Collection[str], drafts: bool) -> dict[str, Metric]:
    """What can be measured, by name: the task's own first."""
    usual = OF_ANSWERS if task.generates else {}
    return {
        **{n: of for n, of in task.metrics.items() if not of.role or of.role in roles},
        **{n: of for n, of in usual.items() if drafts or n != "acceptance"},
    }


def of_answer(answer: Answer) -> dict[str, float]:
    """What the answer shows by itself."""
    found = {
        "stopped": float(answer.finish_reason == "stop"),
        "loops": float(answer.finish_reason == "repetition"),
        "tokens": float(len(answer.tokens)),
    }
    if answer.logprobs:
        found["logprob"] = sum(answer.logprobs) / len(answer.logprobs)
    for n in (1, 2):
        grams = list(zip(*(answer.tokens[i:] for i in range(n)), strict=False))
        if grams:
            found[f"distinct_{n}"] = len(set(grams)) / len(grams)
    if rate := answer.timing.tokens_per_second:
        found["tokens_per_second"] = rate
    if (accepted := answer.speculation.acceptance) is not None:
        found["acceptance"] = accepted
    return found


def manifest(
    sources: Sources,
    task: Task,
    items: Sequence[Item],
    seed: int,
) -> Manifest:
    """What the answers depend on. The points are no part of it: some may be added, or left out.

    Args:
        sources: the models; of their defaults the limits and the drafts.

    Raises:
        ModelFileError: a model file cannot be read.
    """
    limits = sources.defaults
    return {
        **of_versions(),
        "task": task.name,
        "preset": sources.name or "none",
        "prompts": f"{len(items)}, sha256 {digest(items)}",
        "samples": str(task.samples),
        "seed": str(seed),
        "max-tokens": "none" if limits.max_tokens is None else str(limits.max_tokens),
        "stop": repr(list(limits.stop)),
        "loop-guard": str(limits.loop_guard or "off"),
        "speculative": "off" if limits.speculation.off else str(limits.speculation),
        **of_roles(sources.roles),
    }


@dataclass(frozen=True)
class Record:
    """One answer.

    Attributes:
        point: key of the grid's point.
        prompt: index of the item.
        dials: those of the point, as plain data, for whoever reads the file.
        values: metric to value; inf is null in the file.
        sample: number of the answer, of several to one item.
    """

    point: str
    prompt: int
    dials: Mapping[str, Any]
    seed: int
    text: str
    finish_reason: str
    values: Mapping[str, float]
    sample: int = 0


class Results(Closing):
    """Opens or creates the file of an evaluation.

    Args:
        path: of the results; the manifest is path + ".manifest.json".
        manifest: of the evaluation to run.

    Attributes:
        records: (point, prompt, sample) to what is done.

    Raises:
        UsageError: the file holds another evaluation (the line says what differs), something else,
            or is in use; or it cannot be written.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.records: dict[tuple[str, int, int], Record] = {}
        self._rows = Journal(path, manifest, kind=_EVAL, take=self._take, sync_seconds=SYNC_SECONDS)

    def add(self, record: Record) -> None:
        """Appends an answer; once this returns, no killed process loses it.

        Raises:
            EftlocalError: the disk refuses; what was done before is kept.
        """
        values = {n: v if math.isfinite(v) else None for n, v in record.values.items()}
        self._rows.add(vars(record) | {"dials": dict(record.dials), "values": values})
        self._rows.sync()
        self._keep(record)

    @property
    def rows(self) -> int:
        """Answers in the file: an interrupt may come between the write and what follows it."""
        return self._rows.rows

    def close(self) -> None:
        self._rows.close()

    def _keep(self, record: Record) -> None:
        self.records[record.point, record.prompt, record.sample] = record

    def _take(self, row: Row) -> None:
        self._keep(
            Record(
                point=str(row["point"]),
                prompt=int(row["prompt"]),
                dials=dict(row["dials"]),
                seed=int(row["seed"]),
                text=str(row["text"]),
                finish_reason=str(row["finish_reason"]),
                values={n: math.inf if v is None else float(v) for n, v in row["values"].items()},
                sample=int(row["sample"]),
            )
        )


Missing = list[tuple[int, Point, int]]
"""Item, point and sample of answers that are not there yet."""


def lacking(
    points: Sequence[Point], items: Sequence[Item], samples: int, results: Results
) -> Missing:
    """What has no answer, item by item; points of one meaning once."""
    distinct = {point.key: point for point in points}
    return [
        (index, point, sample)
        for index in range(len(items))
        for point in distinct.values()
        for sample in range(samples)
        if (point.key, index, sample) not in results.records
    ]


def run(
    em: Emulator,
    task: Task,
    items: Sequence[Item],
    missing: Missing,
    results: Results,
    *,
    seed: int,
    parallel: int = 1,
    on_tokens: Callable[[int], object] = lambda _count: None,
) -> Iterator[Record]:
    """Answers what is missing, in its order, and adds each to the results.

    Item by item, so that a run that is stopped has compared its points on the same items, and a
    prompt is decoded once for all points. With one answer at a time, what the caches held before
    an item is dropped: kernels may give other last bits for another number of rows, and a resumed
    run must say what an uninterrupted one says. Side by side, neighbours round anyway, and all
    that is missing is one batch.

    Args:
        em: with no sequence open, the roles of every point, and the limits as defaults.
        parallel: answers at once.

    Raises:
        PromptError: a prompt does not fit a context; said before any answer is generated.
        EftlocalError: an answer failed; those before it are kept.
    """
    of_item: dict[int, Missing] = {}
    for one in missing:
        of_item.setdefault(one[0], []).append(one)
    for index in of_item:
        _check_fits(em, task, items[index], index)
    scores = any(items[index].texts for index in of_item)
    whole = [missing] if parallel > 1 and not scores else of_item.values()
    for batch in whole:
        if parallel == 1 or scores:
            em.ensemble.clear()
        points = {point.key: point for _, point, _ in batch}
        known = _of_texts(em, task, items[batch[0][0]], points) if scores else {}
        found = (
            _answers(em, task, items, batch, seed=seed, parallel=parallel, on_tokens=on_tokens)
            if task.generates
            else ((index, point, sample, "", SCORED, {}) for index, point, sample in batch)
        )
        for index, point, sample, text, reason, values in found:
            record = Record(
                point=point.key,
                prompt=index,
                dials=plain_dials(point),
                seed=seed_of(seed, index, sample),
                text=text,
                finish_reason=reason,
                values={**values, **known.get(point.key, {})},
                sample=sample,
            )
            results.add(record)
            yield record


_Found = tuple[int, Point, int, str, str, Mapping[str, float]]


def _answers(
    em: Emulator,
    task: Task,
    items: Sequence[Item],
    batch: Missing,
    *,
    seed: int,
    parallel: int,
    on_tokens: Callable[[int], object],
) -> Iterator[_Found]:
    """Generated answers, judged, as they end."""

    def line(number: int) -> Line:
        index, point, sample = batch[number]
        item = items[index]
        request = Request(
            (item.prompt,),
            raw=item.raw,
            special=item.special,
            recipe=point.recipe,
            sampling=point.sampling,
            seed=seed_of(seed, index, sample),
            logprobs=True,
        )
        return Line(number, str(number), request)

    lines = map(line, range(len(batch)))
    for done, outcome in answer_lines(em, lines, seed=seed, parallel=parallel, on_tokens=on_tokens):
        index, point, sample = batch[done.number]
        if isinstance(outcome, EftlocalError):
            raise outcome
        (answer,) = outcome
        values = {**of_answer(answer), **task.judge(items[index], answer)}
        yield index, point, sample, answer.text, str(answer.finish_reason), values


def _of_texts(
    em: Emulator, task: Task, item: Item, points: Mapping[str, Point]
) -> dict[str, Mapping[str, float]]:
    """By the points' keys, what the item's texts cost."""
    found: dict[str, list[TextLogprobs]] = {key: [] for key in points}
    personas: dict[str, list[str]] = {}
    for key, point in points.items():
        personas.setdefault(point.recipe.persona_prompt, []).append(key)
    for text in item.texts:
        for keys in personas.values():
            scored = em.logprobs_under(
                text,
                [points[key].recipe for key in keys],
                prompt=None if item.alone else item.prompt,
                raw=item.raw,
                special=item.special,
                ending=not item.alone,
            )
            for key, one in zip(keys, scored, strict=True):
                found[key].append(one)
    return {key: task.judge_texts(item, scored) for key, scored in found.items()}


def _check_fits(em: Emulator, task: Task, item: Item, index: int) -> None:
    """With room for an answer as long as the task's answers may be: one cut short is no answer."""
    longest = (em.defaults.max_tokens or 1) if task.generates and task.max_tokens else 1
    scored = [em.text_model.tokenize(text, continues=not item.alone) for text in item.texts]
    answer = max([longest, *(len(ids) + 1 for ids in scored)])
    prompts: Mapping[str, Sequence[int]] = dict.fromkeys(em.ensemble.contexts, ())
    if not item.alone:
        prompts = em.tokenize(item.prompt, raw=item.raw, special=item.special)
    for role, ids in prompts.items():
        holds, needed = em.ensemble.contexts[role].n_ctx, len(ids) + answer
        if needed > holds:
            what = f"{len(ids)} tokens under {role}, its answer up to {answer}"
            what = f"{answer} tokens" if item.alone else what
            less = ", or lower --max-tokens" if answer == longest > 1 else ""
            raise PromptError(
                f"prompt {index + 1} has {what}, and the context holds {holds}; raise --n-ctx to "
                f"{needed}{less}, or leave the prompt out"
            )
