"""The answers of a sweep: what is asked, what is measured of each, and the rows on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eftlocal.answer import Answer
from eftlocal.bases import Closing
from eftlocal.batch.lines import Line
from eftlocal.batch.runner import answer_lines
from eftlocal.emulator import Emulator
from eftlocal.errors import EftlocalError, PromptError
from eftlocal.journal.journal import Journal, Kind, Row
from eftlocal.journal.manifest import Manifest, of_roles, of_versions
from eftlocal.logits.recipe import Recipe
from eftlocal.prompt.messages import (
    Message,
    read_records,
    transcript,
    validate_messages,
    validate_prompt,
)
from eftlocal.request import Prompt, Request
from eftlocal.sources import Sources
from eftlocal.study.answers import GreedyAnswer, judge, mentions, score
from eftlocal.study.grid import Point, plain_dials
from eftlocal.study.questions import WARM, QuestionSet, read


class Metric(NamedTuple):
    """What a metric is, in words, what prompts and roles it needs, whether it is a share of 1."""

    about: str
    needs: str = ""
    is_share: bool = False


METRICS = {
    "exact": Metric("answers that are a right one word for word, and stop", "right", True),
    "format": Metric("answers in the form of the demo's tuned model", "questions", True),
    "plain_exact": Metric("as exact, in the demo's plain form", "questions plain", True),
    "plain_format": Metric("answers in the demo's plain form", "questions plain", True),
    "fact": Metric("answers with the fact, or a right answer, as whole words", "right", True),
    "stopped": Metric("answers that ended by themselves", "", True),
    "loops": Metric("answers that were stopped for repeating themselves", "", True),
    "fact_nll": Metric(
        "negative log-likelihood of the right answer's fact, nats", "questions tuned"
    ),
    "format_nll": Metric("that of its other tokens and its end, nats", "questions tuned"),
    "gold_nll": Metric("negative log-likelihood of a right answer, nats", "gold"),
    "logprob": Metric("mean log-probability of the answer's tokens, nats"),
    "tokens": Metric("length of the answer"),
    "distinct_1": Metric("distinct tokens, of all in an answer (Li et al. 2016)", "", True),
    "distinct_2": Metric("distinct pairs of neighbouring tokens, of all", "", True),
    "tokens_per_second": Metric("decoding, without the prompt"),
    "acceptance": Metric("draft tokens accepted, of those judged", "drafts", True),
}
"""By their names, in the order in which they are shown."""

_KEYS = ("id", "prompt", "messages", "gold")
_SWEEP = Kind("sweep", "a result of a sweep", "give another --out")


@dataclass(frozen=True)
class Item:
    """One prompt.

    Attributes:
        prompt: what the models are asked.
        text: the same for people.
        gold: right answers, the first one scored; empty where none is known.
        asked: the demo's question by itself, with its styles; None for other prompts.
        raw: the prompt is text to go on with, without a chat template.
        special: special tokens' texts in it are those tokens.
    """

    prompt: Prompt
    text: str
    gold: tuple[str, ...] = ()
    asked: QuestionSet | None = None
    raw: bool = False
    special: bool = False

    @property
    def has_system(self) -> bool:
        """Whether the conversation has a system message."""
        return any(isinstance(part, dict) and part["role"] == "system" for part in self.prompt)

    @property
    def right(self) -> tuple[str, ...]:
        """Right answers, the demo's too."""
        questions = self.asked.questions if self.asked else ()
        return (*self.gold, *(question.answers[WARM][0] for question in questions))


def demo_items(path: Path, split: str) -> tuple[Item, ...]:
    """The questions of one split of a file of questions."""
    asked = read(path, split)
    return tuple(
        Item(question.text, question.text, asked=QuestionSet(split, (question,), asked.forms))
        for question in asked.questions
    )


def file_items(
    path: Path, *, system: str | None = None, raw: bool = False, special: bool = False
) -> tuple[Item, ...]:
    """One prompt a line; of a .jsonl file, one object a line; empty lines do not count.

    An object has "prompt" (a string) or "messages" (a conversation), and may have "gold" (a right
    answer, or a list of them) and "id", which is not looked at.

    Args:
        system: a system prompt before each.
        raw: continue each prompt as it is.
        special: special tokens' texts in it are those tokens.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, holds no prompt, or a line is something else; which one.
    """

    def item(where: str, record: dict[str, Any]) -> Item:
        try:
            return _item(record, system, raw, special)
        except EftlocalError as error:
            raise PromptError(f"{where}: {error}") from None

    return tuple(item(*line) for line in read_records(path, _KEYS))


def _item(record: dict[str, Any], system: str | None, raw: bool, special: bool) -> Item:
    if ("prompt" in record) == ("messages" in record):
        raise PromptError('give one of "prompt" and "messages"')
    given = record.get("gold", [])
    gold = [given] if isinstance(given, str) else given
    if not isinstance(gold, list) or not all(isinstance(g, str) and g.strip() for g in gold):
        raise PromptError("gold: give a right answer, or a list of them")
    for answer in gold:
        validate_prompt(answer)
    if "messages" in record:
        if raw:
            raise PromptError('--raw goes with "prompt", not with "messages"')
        messages = tuple(validate_messages(record["messages"]))
        if system is not None and any(m["role"] == "system" for m in messages):
            raise PromptError("it has a system message; leave out --system")
    else:
        if not isinstance(record["prompt"], str):
            raise PromptError("prompt: give a string")
        text = validate_prompt(record["prompt"])
        if raw:
            return Item(text, text, tuple(gold), raw=True, special=special)
        messages = (Message(role="user", content=text),)
    if system is not None:
        messages = (Message(role="system", content=system), *messages)
    return Item(messages, transcript(messages), tuple(gold))


def spread(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """At most so many, evenly spread over all."""
    if limit is None or limit >= len(items):
        return tuple(items)
    return tuple(items[i * len(items) // limit] for i in range(limit))


def digest(items: Sequence[Item]) -> str:
    """Of prompts, right answers and their order."""
    told = [
        [
            item.prompt,
            [item.raw, item.special] if item.special else item.raw,
            list(item.gold),
            [dict(q.answers) | {"value": q.value} for q in item.asked.questions]
            if item.asked
            else None,
        ]
        for item in items
    ]
    text = json.dumps(told, ensure_ascii=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seed_of(seed: int, index: int) -> int:
    """The seed of one prompt, at every point the same: points differ in their dials only."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


def possible(items: Sequence[Item], roles: Sequence[str], *, drafts: bool) -> tuple[str, ...]:
    """The metrics that these prompts and roles can have."""
    there = {
        "questions": any(item.asked for item in items),
        "gold": any(item.gold for item in items),
        "plain": "plain" in roles,
        "tuned": "tuned" in roles,
        "drafts": drafts,
    }
    there["right"] = there["questions"] or there["gold"]
    return tuple(n for n, of in METRICS.items() if all(there[need] for need in of.needs.split()))


def of_answer(answer: Answer, item: Item, roles: Sequence[str]) -> dict[str, float]:
    """What the answer shows by itself and beside the right ones."""
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
    return found | _judged(answer, item, roles)


def _judged(answer: Answer, item: Item, roles: Sequence[str]) -> dict[str, float]:
    text, stopped = answer.text.strip(), answer.finish_reason == "stop"
    if item.asked is None:
        if not item.gold:
            return {}
        gold = [right.strip() for right in item.gold]
        return {
            "exact": float(stopped and text in gold),
            "fact": float(any(mentions(text, right) for right in gold)),
        }
    given = [GreedyAnswer(text, stopped)]
    kept = judge(item.asked, given, WARM)
    found = {name: float(getattr(kept, name)[0]) for name in ("exact", "format", "fact")}
    if "plain" in roles:
        plain = judge(item.asked, given, "plain")
        found |= {"plain_exact": float(plain.exact[0]), "plain_format": float(plain.format[0])}
    return found


def losses(em: Emulator, item: Item, recipes: Mapping[str, Recipe]) -> dict[str, dict[str, float]]:
    """By the recipes' names, what the right answer costs; empty where none is known."""
    found: dict[str, dict[str, float]] = {name: {} for name in recipes}
    if item.asked is not None and "tuned" in em.roles:
        for name, scores in score(em, item.asked, recipes, WARM).items():
            parts = {part: getattr(scores, part) for part in ("fact_nll", "format_nll")}
            found[name] = {part: float(values[0]) for part, values in parts.items()}
    elif item.gold:
        for name, recipe in recipes.items():
            scored = em.logprobs(
                item.gold[0],
                prompt=item.prompt,
                raw=item.raw,
                special=item.special,
                recipe=recipe,
            )
            found[name]["gold_nll"] = -float(scored.logprobs.sum())
    return found


def manifest(sources: Sources, items: Sequence[Item], seed: int) -> Manifest:
    """What the answers depend on. The points are no part of it: some may be added, or left out.

    Args:
        sources: the models; of their defaults the limits and the drafts.

    Raises:
        ModelFileError: a model file cannot be read.
    """
    limits = sources.defaults
    return {
        **of_versions(),
        "preset": sources.name or "none",
        "prompts": f"{len(items)}, sha256 {digest(items)}",
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
        prompt: index of the prompt.
        dials: those of the point, as plain data, for whoever reads the file.
        values: metric to value; inf is null in the file.
    """

    point: str
    prompt: int
    dials: Mapping[str, Any]
    seed: int
    text: str
    finish_reason: str
    values: Mapping[str, float]


class Results(Closing):
    """Opens or creates the file of a sweep.

    Args:
        path: of the results; the manifest is path + ".manifest.json".
        manifest: of the sweep to run.

    Attributes:
        records: (point, prompt) to what is done.

    Raises:
        UsageError: the file holds another sweep (the line says what differs), something else, or
            is in use; or it cannot be written.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.records: dict[tuple[str, int], Record] = {}
        self._rows = Journal(path, manifest, kind=_SWEEP, take=self._take)

    def add(self, record: Record) -> None:
        """Appends an answer; once this returns, no crash loses it.

        Raises:
            EftlocalError: the disk refuses; what was done before is kept.
        """
        values = {n: v if math.isfinite(v) else None for n, v in record.values.items()}
        self._rows.add(vars(record) | {"dials": dict(record.dials), "values": values})
        self._rows.sync()
        self.records[record.point, record.prompt] = record

    @property
    def rows(self) -> int:
        """Answers in the file: an interrupt may come between the write and what follows it."""
        return self._rows.rows

    def close(self) -> None:
        self._rows.close()

    def _take(self, row: Row) -> None:
        record = Record(
            point=str(row["point"]),
            prompt=int(row["prompt"]),
            dials=dict(row["dials"]),
            seed=int(row["seed"]),
            text=str(row["text"]),
            finish_reason=str(row["finish_reason"]),
            values={n: math.inf if v is None else float(v) for n, v in row["values"].items()},
        )
        self.records[record.point, record.prompt] = record


def lacking(
    points: Sequence[Point], items: Sequence[Item], results: Results
) -> dict[int, list[Point]]:
    """The points without an answer, by the number of the prompt; points of one meaning once."""
    distinct = {point.key: point for point in points}
    found = {
        index: [p for p in distinct.values() if (p.key, index) not in results.records]
        for index in range(len(items))
    }
    return {index: missing for index, missing in found.items() if missing}


def run_sweep(
    em: Emulator,
    points: Sequence[Point],
    items: Sequence[Item],
    results: Results,
    *,
    seed: int,
    parallel: int = 1,
    on_tokens: Callable[[int], object] = lambda _count: None,
) -> Iterator[Record]:
    """Answers what the results lack, a prompt's points as the lines of a batch, and adds each.

    Prompt by prompt, so that a sweep that is stopped has compared its points on the same prompts,
    and a prompt is decoded once for all points. What the caches held before a prompt is dropped:
    kernels may give other last bits for another number of rows, and a resumed sweep must say what
    an uninterrupted one says (with one answer at a time: neighbours round, too).

    Args:
        em: with no sequence open, the roles of every point, and the sweep's limits as defaults.
        parallel: answers at once.

    Raises:
        PromptError: a prompt does not fit a context; said before any answer is generated.
        EftlocalError: an answer failed; those before it are kept.
    """
    missing = lacking(points, items, results)
    for index in missing:
        _check_fits(em, items[index], index)
    for index, of_prompt in missing.items():
        item, own = items[index], seed_of(seed, index)
        em.ensemble.clear()
        costs = losses(em, item, {point.key: point.recipe for point in of_prompt})
        lines = [
            Line(
                index,
                point.key,
                Request(
                    (item.prompt,),
                    raw=item.raw,
                    special=item.special,
                    recipe=point.recipe,
                    sampling=point.sampling,
                    seed=own,
                    logprobs=True,
                ),
            )
            for point in of_prompt
        ]
        dials = {point.key: plain_dials(point) for point in of_prompt}
        for line, outcome in answer_lines(
            em, lines, seed=seed, parallel=parallel, on_tokens=on_tokens
        ):
            if isinstance(outcome, EftlocalError):
                raise outcome
            (answer,) = outcome
            record = Record(
                point=line.custom_id,
                prompt=index,
                dials=dials[line.custom_id],
                seed=own,
                text=answer.text,
                finish_reason=str(answer.finish_reason),
                values=of_answer(answer, item, em.roles) | costs[line.custom_id],
            )
            results.add(record)
            yield record


def _check_fits(em: Emulator, item: Item, index: int) -> None:
    for role, ids in em.tokenize(item.prompt, raw=item.raw, special=item.special).items():
        holds = em.ensemble.contexts[role].n_ctx
        model = em.models[role]
        answers = (model.tokenize(f" {text}", continues=True) for text in item.right[:1])
        scored = max((len(answer) + 1 for answer in answers), default=1)
        if len(ids) + scored > holds:
            raise PromptError(
                f"prompt {index + 1} has {len(ids)} tokens under {role}, its answer {scored} or "
                f"more, and the context holds {holds}; raise --n-ctx or leave it out"
            )
