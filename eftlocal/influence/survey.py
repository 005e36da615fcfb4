"""Many inspections together: which tokens, and which classes of token, were moved most."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.influence.classes import classes_of
from eftlocal.influence.inspection import Inspection, texts_of
from eftlocal.influence.measures import measure_of, measures_of
from eftlocal.influence.sides import COMBINATION
from eftlocal.influence.winner import AGREED, NOBODY, SHARED

_RESAMPLES = 2000


class Mean(NamedTuple):
    """A mean over tokens and the ends of its 95% interval; NaN where it has none."""

    value: float
    low: float
    high: float


class _One(NamedTuple):
    """One token of one of the answers."""

    answer: int
    token: int
    label: str
    kind: str
    value: float
    won: str
    context: str


def survey(
    inspections: Sequence[Inspection], measure: str | None = None, *, least: int = 5, seed: int = 0
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
        measure, `Mean`), and "won" (share of its tokens by winner, each a `Mean`).
    """
    chosen = measure_of(measures_of(inspections[0]), measure)
    tokens = [
        one
        for answer, inspection in enumerate(inspections)
        for one in _tokens(answer, inspection, chosen.values(inspection))
        if not math.isnan(one.value)
    ]
    winners = list(dict.fromkeys([AGREED, *inspections[0].sides, SHARED, COMBINATION, NOBODY]))
    winners = [name for name in winners if name != SHARED or len(inspections[0].sides) > 2]
    figures = _Figures(len(inspections), winners, seed)
    by_kind = _grouped(tokens, lambda one: one.kind)
    by_token = _grouped(tokens, lambda one: one.token)
    most = []
    for token, some in by_token.items():
        if len(some) >= least:
            context = Counter(one.context for one in some).most_common(1)[0][0]
            entry = {"token": token, "label": some[0].label, "context": context}
            most.append(entry | figures.of(some))
    most.sort(key=lambda entry: -abs(entry["mean"].value))
    kinds = sorted(by_kind, key=lambda kind: -abs(float(np.mean([o.value for o in by_kind[kind]]))))
    return {
        "measure": chosen.name,
        "about": chosen.about,
        "answers": len(inspections),
        "tokens": len(tokens),
        "least": least,
        "all": figures.of(tokens),
        "classes": {kind: figures.of(by_kind[kind]) for kind in kinds},
        "most": most,
    }


def _tokens(answer: int, inspection: Inspection, values: NDArray[np.float64]) -> Iterator[_One]:
    texts = texts_of([inspection.pieces[token] for token in inspection.ids])
    controls = [token in inspection.controls for token in inspection.ids]
    kinds = classes_of(texts, controls)
    numbers = values.tolist()
    for i, token in enumerate(inspection.ids):
        context = "".join(texts[max(0, i - 1) : i + 3])
        label = inspection.label(token)
        yield _One(answer, token, label, kinds[i], numbers[i], inspection.won[i], context)


def _grouped(tokens: Sequence[_One], key: Callable[[_One], Hashable]) -> dict[Any, list[_One]]:
    groups: dict[Any, list[_One]] = defaultdict(list)
    for one in tokens:
        groups[key(one)].append(one)
    return groups


class _Figures:
    """Means of groups of tokens with intervals over answers, all from the same resamples."""

    def __init__(self, answers: int, winners: Sequence[str], seed: int) -> None:
        share = np.full(answers, 1.0 / answers)
        self._drawn = np.random.default_rng(seed).multinomial(answers, share, size=_RESAMPLES)
        self._answers = answers
        self._winners = winners

    def of(self, some: Sequence[_One]) -> dict[str, Any]:
        """n, the mean of the measure, the share that each winner won."""
        which = np.array([one.answer for one in some], dtype=np.intp)
        columns = [np.array([one.value for one in some], dtype=np.float64)]
        columns += [np.array([one.won == name for one in some], float) for name in self._winners]
        sums = np.stack([np.bincount(which, c, self._answers) for c in columns])
        counts = np.bincount(which, minlength=self._answers)
        drawn = self._drawn @ counts
        usable = drawn > 0
        resampled = (self._drawn[usable] @ sums.T) / drawn[usable, None]
        means = sums.sum(axis=1) / max(1, len(some))
        # One answer is no sample: every resample is the same, and the interval unknown.
        known = np.count_nonzero(counts) > 1
        ends = np.percentile(resampled, (2.5, 97.5), axis=0) if known else None
        found = [
            Mean(float(mean), *(map(float, ends[:, i]) if ends is not None else (math.nan,) * 2))
            for i, mean in enumerate(means)
        ]
        won = dict(zip(self._winners, found[1:], strict=True))
        return {"n": len(some), "mean": found[0], "won": won}
