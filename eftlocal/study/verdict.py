"""Whose doing a token was, in words: one verdict for a token, one line for an answer.

The words claim what `Verdict.kind` is defined by and nothing else: whose first choice the token
is, under which distribution. Roles that take no part in the recipe decide nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eftlocal.logits.recipe import BASE, PERSONA, REFERENCE, TUNED, UNGUIDED, Recipe
from eftlocal.study.inspection import COMBINATION, InspectedToken, Inspection
from eftlocal.terminal_text import one_line

Kind = Literal["agreed", "own", "decided", "compromise", "subtraction", "sampled", "given"]

_THE = {
    BASE: "the base",
    TUNED: "the tuned model",
    REFERENCE: "the reference",
    UNGUIDED: "the model without instructions",
    PERSONA: "the persona",
}
_SHORT = {UNGUIDED: "without instructions"}


@dataclass(frozen=True)
class Verdict:
    """Whose doing a token was.

    Attributes:
        kind: of these, where "first" means the most probable token of a distribution, and a
            speaker is a role of positive weight:
            - "agreed": first in the combination and in all speakers, of which there are several.
            - "own": first in the combination and in the only speaker.
            - "decided": first in the combination and in some of the speakers, not in all.
            - "compromise": first in the combination and in no speaker, and first also where no
              role is subtracted.
            - "subtraction": first in the combination and in no speaker, and no longer first where
              the roles of negative weight are left out.
            - "sampled": not first in the combination, which made the answer.
            - "given": not first in the combination, which did not make the answer.
        by: the speakers in which it is first; of a subtraction, the roles that are subtracted.
        cause: what decided, as a noun; empty where nothing moved the token.
        numbers: its probability under each of them and together, in words.
        words: what decided, in words.
    """

    kind: Kind
    by: tuple[str, ...]
    cause: str
    numbers: str
    words: str

    def __str__(self) -> str:
        return f"{self.numbers}: {self.words}"


def speakers(recipe: Recipe) -> tuple[str, ...]:
    """The roles of positive weight; those that the delta is added to come first."""
    found = [role for role, weight in recipe.weights.items() if weight > 0.0]
    return tuple(sorted(found, key=lambda role: not recipe.anchor.get(role)))


def subtracted(recipe: Recipe) -> tuple[str, ...]:
    """The roles of negative weight."""
    return tuple(role for role, weight in recipe.weights.items() if weight < 0.0)


def unsubtracted(recipe: Recipe) -> Recipe | None:
    """The recipe without the roles that it subtracts; None where that changes or leaves nothing."""
    weights = {role: weight for role, weight in recipe.weights.items() if weight > 0.0}
    if not weights or not subtracted(recipe):
        return None
    plain = Recipe(weights, any_sum=True, anchor=recipe.anchor, judge=recipe.judge)
    return plain.limited_as(recipe)


def verdict(token: InspectedToken, recipe: Recipe, *, made: bool) -> Verdict:
    """Whose doing a token was.

    Args:
        recipe: of the combination at this token (`Recipe.at`).
        made: the combination made the answer; otherwise it only read it.
    """
    speaking = speakers(recipe)
    by = tuple(role for role in speaking if _first(token, role))
    shown, cause = speaking, ""
    if not _first(token, COMBINATION):
        kind: Kind = "sampled" if made else "given"
        words = _against(kind, by, token, speaking)
    elif by and len(by) == len(speaking):
        kind, words = "agreed", "both agreed" if len(by) == 2 else "all agreed"
        if len(by) == 1:
            kind, words = "own", f"the first choice of {_all(by)}"
    elif by:
        kind, cause = "decided", _subject(by, recipe)
        words = f"{cause} decided"
    elif token.subtracted:
        kind, by = "subtraction", subtracted(recipe)
        cause = "the instructions" if by == (UNGUIDED,) else f"subtracting {_all(by)}"
        words, shown = f"{cause} decided", (*speaking, *by)
    else:
        kind, cause = "compromise", "compromise"
        words = f"a compromise, the first choice of {'neither' if len(speaking) == 2 else 'none'}"
    return Verdict(kind, by, cause, _numbers(token, shown), words)


def verdicts(found: Inspection, *, made: bool | None = None) -> tuple[Verdict, ...]:
    """(n,) verdicts of an answer; `made` as above, None where the inspection generated it."""
    generated = found.seed is not None if made is None else made
    return tuple(
        verdict(token, found.recipe.at(token.index), made=generated) for token in found.tokens
    )


def tally(said: Sequence[Verdict]) -> str:
    """An answer in one line: `12 of 80 tokens moved: 9 by the base's knowledge, 3 by the tuning`.

    A token is moved where the speakers disagree, or where a role that is subtracted decides.
    """
    of = f"{len(said)} token{'s' * (len(said) != 1)}"
    causes = Counter(one.cause for one in said if one.cause)
    own = [one for one in said if one.kind == "own"]
    if causes:
        why = ", ".join(f"{times} by {cause}" for cause, times in causes.most_common())
        line = f"{causes.total()} of {of} moved: {why}"
    elif own:
        line = f"{len(own)} of {of} {'is' if len(own) == 1 else 'are'} {own[0].words}"
    else:
        line = f"none of {of} moved"
    kinds = Counter(one.kind for one in said)
    if kinds["sampled"]:
        line += f"; {kinds['sampled']} sampled, not the first choice"
    if kinds["given"]:
        line += f"; at {kinds['given']} the emulation prefers another"
    return line


def percent(probability: float) -> str:
    """`41%`; below 1% and above 99% only that is said."""
    if 0.0 < probability < 0.01:
        return "<1%"
    return ">99%" if 0.99 < probability < 1.0 else f"{probability:.0%}"


def named(label: str, limit: int = 24) -> str:
    """A token in a sentence: in quotes, line breaks shown, one leading blank left out."""
    text = label[1:] if label[:1] == " " and label.strip() else label
    return f"“{one_line(text.replace(chr(10), '↵'), limit) or '␣'}”"


def pieces_of(token: InspectedToken) -> str:
    """The pieces that a token is in other vocabularies; empty where it is one token in all."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for role, pieces in token.spelled.items():
        if len(pieces) > 1:
            kinds.setdefault(pieces, []).append(role)
    return "; ".join(
        f"to {' and '.join(roles)} {' '.join(map(named, pieces))}"
        for pieces, roles in kinds.items()
    )


def _first(token: InspectedToken, name: str) -> bool:
    return token.ranks[name] == 1 and token.logprobs[name] > -math.inf


def _numbers(token: InspectedToken, roles: Sequence[str]) -> str:
    chances, parts = token.probabilities, list[str]()
    for role in roles:
        name = _SHORT.get(role, role) + " alone" * (not parts)
        parts.append(f"{name} {percent(chances[role])}")
    if len(roles) != 1 or chances[COMBINATION] != chances[roles[0]]:
        parts.append(f"together {percent(chances[COMBINATION])}")
    return ", ".join(parts)


def _against(kind: Kind, by: Sequence[str], token: InspectedToken, speaking: Sequence[str]) -> str:
    """Where another token is the first choice of the combination."""
    best = token.candidates[COMBINATION][:1]
    other = "".join(f"{named(one.label)} ({percent(one.probability)})" for one in best)
    whose = ""
    if by and len(speaking) > 1:
        whose = "everybody's" if len(by) == len(speaking) else f"{_all(by)}'s"
        whose += " first choice, but "
    if kind == "given":
        return f"{whose}the emulation prefers {other or 'nothing'}"
    if not other:
        return "sampled"
    if whose:
        return f"sampled; {whose}together {other} was likelier"
    against = "against all; together" if len(speaking) > 1 else "though"
    return f"sampled {against} {other} was likelier"


def _subject(by: Sequence[str], recipe: Recipe) -> str:
    """What decided, where these roles would have said it themselves."""
    weights = recipe.weights
    if tuple(by) == (BASE,) and weights.get(REFERENCE, 0.0) < 0.0 and recipe.name != "downscale":
        return "the base's knowledge"
    if tuple(by) == (TUNED,) and weights.get(REFERENCE) and not recipe.lambdas:
        return "the tuning"
    return _all(by)


def _all(roles: Sequence[str]) -> str:
    return " and ".join(_THE.get(role, role) for role in roles)
