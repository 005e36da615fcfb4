"""Many inspections together: which tokens, and which classes of token, were moved most.

A class is given by a simple, written-down rule. Proxy-tuning's analysis (Liu et al. 2024, section
6) sets numbers against the words around them in worked sums, and finds words of style and caution
moved most elsewhere. The word lists here are English and short on purpose: they are samples of a
kind, not dictionaries. Other languages get the classes that need no list.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group

from eftlocal.errors import PromptError
from eftlocal.prompt.messages import read_records, text_of
from eftlocal.study.inspection import (
    AGREED,
    COMBINATION,
    NOBODY,
    SHARED,
    Inspection,
    measure_of,
    measures_of,
    texts_of,
)
from eftlocal.study.plot import bars, panels, save
from eftlocal.study.report import interval, table, titled
from eftlocal.study.statistics import ratios_of_sums
from eftlocal.study.view import quoted, winner_label

CLASSES = {
    "end": "a control token, which ends the answer as a rule",
    "newline": "white space with a line break in it",
    "white space": "other white space",
    "number": "digits, with or without a sign, separators or a space before them",
    "punctuation": "no letter and no digit",
    "continuation": "the rest of a word that an earlier token began",
    "reasoning": "begins a word such as because, so, therefore, if, first, total",
    "caution": "begins a word such as may, might, however, important, unfortunately",
    "style": "begins a word such as here, sure, please, certainly, overall, great",
    "name": "begins a word with a capital that does not begin a sentence",
    "word": "begins any other word",
}

_WORDS = {
    "reasoning": """because so therefore thus hence since if then first second third next finally
        let suppose given assume consider means implies follows conclude total sum equals each per
        step""",
    "caution": """may might could perhaps possibly probably likely seems generally typically often
        however although though but while not no cannot never unfortunately sorry apologize
        important note worth careful depends depending respect respectful evidence please""",
    "style": """here sure certainly absolutely course great good well glad happy thank thanks
        welcome hope overall additionally moreover furthermore also summary conclusion example
        hello hi dear let's feel free""",
}
_KIND = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_NUMBER = re.compile(r"\s*[+\-−]?\d[\d.,:/]*\s*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n*\-•\"“(])\s*$")


class SurveyPrompt(NamedTuple):
    """One prompt, and its answer; None is one to generate."""

    prompt: str
    answer: str | None = None


def read_prompts(path: Path) -> tuple[SurveyPrompt, ...]:
    """The prompts of a file; a line of a .jsonl file may have an "answer".

    Raises:
        UsageError, PromptError: as `read_records`, or an answer is no text.
    """
    return tuple(_prompt(*line) for line in read_records(path, ("id", "prompt", "answer")))


def _prompt(where: str, record: dict[str, Any]) -> SurveyPrompt:
    answer = record.get("answer")
    if answer is not None and not (isinstance(answer, str) and answer):
        raise PromptError(f'{where}: "answer" must be a text; leave it out to have one generated')
    return SurveyPrompt(text_of(where, record), answer)


class _One(NamedTuple):
    """One token of one of the answers."""

    answer: int
    label: str
    context: str
    value: float
    won: str


def survey(
    inspections: Sequence[Inspection], measure: str | None = None, *, least: int = 5
) -> dict[str, Any]:
    """Figures of many answers, as in the papers' analyses of influence.

    Intervals are bootstrapped over answers, not tokens (the tokens of one answer are not
    independent): the 2.5 and 97.5 percentile of the mean over answers drawn anew.

    Args:
        inspections: of the same models; at least one.
        measure: by name; None is the first of the inspections.
        least: a token that occurs less often is not listed.

    Returns:
        "measure", "about", "answers", "tokens" (a count), "all" (a group), "classes" (name to
        group, of those that occur), "most" (groups of single tokens, most moved first, each with
        its "token" id, "label" and most frequent "context"). A group has "n", "mean" (of the
        measure, `Interval`), and "won" (share of its tokens by winner, each a `Interval`).
    """
    chosen = measure_of(measures_of(inspections[0]), measure)
    every: list[_One] = []
    by_kind: dict[str, list[_One]] = defaultdict(list)
    by_token: dict[int, list[_One]] = defaultdict(list)
    for answer, found in enumerate(inspections):
        texts = texts_of([found.pieces[token] for token in found.ids])
        kinds = classes_of(texts, [token in found.controls for token in found.ids])
        for i, value in enumerate(chosen.values(found).tolist()):
            if not math.isnan(value):
                token, context = found.ids[i], "".join(texts[max(0, i - 1) : i + 3])
                one = _One(answer, found.label(token), context, value, found.won[i])
                for group in (every, by_kind[kinds[i]], by_token[token]):
                    group.append(one)
    winners = list(dict.fromkeys([AGREED, *inspections[0].sides, SHARED, COMBINATION, NOBODY]))
    if len(inspections[0].sides) < 3:
        winners.remove(SHARED)

    def figures(group: Sequence[_One]) -> dict[str, Any]:
        """n, the mean of the measure, the share that each winner won."""
        sums = np.zeros((len(inspections), 1 + len(winners)))
        for one in group:
            sums[one.answer, 0] += one.value
            sums[one.answer, 1 + winners.index(one.won)] += 1
        mean, *shares = ratios_of_sums(sums[:, 1:].sum(axis=1), sums)
        return {"n": len(group), "mean": mean, "won": dict(zip(winners, shares, strict=True))}

    def size(group: dict[str, Any]) -> float:
        return abs(float(group["mean"].value))

    classes = {kind: figures(group) for kind, group in by_kind.items()}
    most = [
        {
            "token": token,
            "label": group[0].label,
            "context": Counter(one.context for one in group).most_common(1)[0][0],
            **figures(group),
        }
        for token, group in by_token.items()
        if len(group) >= least
    ]
    return {
        "measure": chosen.name,
        "about": chosen.about,
        "answers": len(inspections),
        "tokens": len(every),
        "least": least,
        "all": figures(every),
        "classes": dict(sorted(classes.items(), key=lambda of: size(of[1]), reverse=True)),
        "most": sorted(most, key=size, reverse=True),
    }


def tables(figures: dict[str, Any], top: int) -> Iterator[Group]:
    """The classes of token; the tokens that were moved most."""
    winners, measure = list(figures["all"]["won"]), figures["measure"]

    def cells(group: dict[str, Any], names: Sequence[str]) -> list[str]:
        shares = (f"{group['won'][name].value:.0%}" for name in names)
        return [f"{group['n']:,}", interval(group["mean"]), *shares]

    groups = {**figures["classes"], "all": figures["all"]}
    yield titled(
        f"{figures['tokens']:,} tokens of {figures['answers']:,} answers: mean {measure}, and "
        "whose first choice they were",
        table(
            ["token class", "n", f"{measure} [95%]", *map(winner_label, winners)],
            ([kind, *cells(group, winners)] for kind, group in groups.items()),
        ),
    )
    roles = [name for name in winners if name not in (AGREED, SHARED, COMBINATION, NOBODY)]
    yield titled(
        f"Most moved tokens, seen at least {figures['least']} times",
        table(
            ["token", "n", f"{measure} [95%]", *roles, "often in"],
            (
                [quoted(group["label"]), *cells(group, roles), quoted(group["context"])]
                for group in figures["most"][:top]
            ),
            texts=(0, 3 + len(roles)),
        ),
    )


def plot(figures: dict[str, Any], path: Path, *, top: int = 20) -> None:
    """Means of classes and of single tokens with their intervals, in the file's format."""
    classes, most = figures["classes"], figures["most"][:top]
    rows = max(len(classes), len(most), 4)
    picture, (left, right) = panels(2, height=1.2 + 0.27 * rows)
    names = [f"{kind} ({of['n']:,})" for kind, of in classes.items()]
    bars(left, names, [of["mean"] for of in classes.values()])
    tokens = [f"{of['label']!r} ({of['n']:,})" for of in most]
    bars(right, tokens, [of["mean"] for of in most])
    left.set(title="token classes", xlabel=f"mean {figures['measure']} [95%]")
    right.set(title="most moved tokens", xlabel=figures["about"])
    save(picture, path)


def classes_of(texts: Sequence[str], controls: Sequence[bool]) -> list[str]:
    """The class of every token of an answer, from its text and what stands around it.

    Args:
        texts: (n,) what each token completes (`InspectedToken.text`).
        controls: (n,) whether it is a control token.
    """
    whole, found, at = "".join(texts), [], 0
    for text, control in zip(texts, controls, strict=True):
        found.append("end" if control else _class(whole, at, at + len(text)))
        at += len(text)
    return found


def _class(whole: str, start: int, end: int) -> str:
    text = whole[start:end]
    if not text:
        return "continuation"  # a part of a character
    if text.isspace():
        return "newline" if "\n" in text else "white space"
    if _NUMBER.fullmatch(text):
        return "number"
    first = next((i for i in range(start, end) if whole[i].isalpha()), None)
    if first is None:
        return "number" if any(c.isdigit() for c in text) else "punctuation"
    if first == start > 0 and (whole[start - 1].isalpha() or whole[start - 1] in "'’"):
        return "continuation"
    word = _WORD.match(whole, first)
    kind = _KIND.get(word.group().lower().replace("’", "'")) if word else None
    if kind is not None:
        return kind
    if whole[first].isupper() and not _SENTENCE_END.search(whole[:first][-8:]):
        return "name"
    return "word"
