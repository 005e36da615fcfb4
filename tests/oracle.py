"""The method once more, in float64 with full softmaxes and full sorts, to test the real one by.

Written from the formulas alone. Where a float32 sum or ratio may fall on either side of a
threshold, both answers are right: functions here return what is certain and what may be either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def repaired(row: NDArray[np.floating], size: int) -> Floats:
    """The first `size` logits without NaN (impossible) and +inf (certain)."""
    x = row[:size].astype(np.float64)
    x[np.isnan(x)] = -np.inf
    if np.isposinf(x).any():
        x = np.where(np.isposinf(x), 0.0, -np.inf)
    return x


def log_softmax(x: Floats) -> Floats:
    """log p of every token; all -inf when no token is possible."""
    best = x.max()
    if best == -np.inf:
        return x.copy()
    return x - (best + math.log(np.exp(x - best).sum()))


def softmax(x: Floats) -> Floats:
    return np.exp(log_softmax(x))


@dataclass(frozen=True)
class Membership:
    """`chosen`: a set of tokens; `either`: those for which rounding may decide otherwise."""

    chosen: Bools
    either: Bools


def top_p(x: Floats, p: float, tolerance: float) -> Membership:
    """The smallest set of most probable tokens reaching p; equal logits go to the lower id.

    A token is in it when those before it do not reach p. `tolerance`: relative error of a
    probability, and absolute error of a sum of them.
    """
    n = len(x)
    probability = softmax(x)
    possible = probability > 0
    if p >= 1.0:
        return Membership(x > -np.inf, np.zeros(n, bool))
    order = np.lexsort((np.arange(n), -x))
    before = np.zeros(n)
    before[order] = np.cumsum(probability[order]) - probability[order]
    # Among tokens whose logits are nearly equal, but not equal, rounding may change the order.
    ascending = np.sort(probability)
    sums = np.concatenate([[0.0], np.cumsum(ascending)])
    total = sums[-1]
    above = np.searchsorted(ascending, probability * (1 + tolerance), "right")
    below = np.searchsorted(ascending, probability * (1 - tolerance), "left")
    least, most = total - sums[above], total - sums[below] - probability
    equals = np.searchsorted(np.sort(x), x, "right") - np.searchsorted(np.sort(x), x, "left")
    only_equals = equals == above - below
    least, most = np.where(only_equals, before, least), np.where(only_equals, before, most)
    chosen = possible & (before < p)
    certain = (most < p - tolerance) | (least > p + tolerance)
    return Membership(chosen, possible & ~certain)


def top_k(x: Floats, k: int, tolerance: float) -> Membership:
    """The k largest possible logits; equal ones go to the lower id."""
    n = len(x)
    chosen = np.zeros(n, bool)
    chosen[np.lexsort((np.arange(n), -x))[:k]] = True
    chosen &= x > -np.inf
    edge = x[chosen].min()
    inexact = (np.abs(x - edge) <= tolerance) & (x != edge)
    # When a near neighbour stands at the edge, which of the equal ones go in is open as well.
    return Membership(chosen, inexact | ((x == edge) & inexact.any()))


def at_least(x: Floats, fraction: float, tolerance: float) -> Membership:
    """Tokens of at least `fraction` of the best one's probability."""
    if fraction == 0.0 or x.max() == -np.inf:
        return Membership(x > -np.inf, np.zeros(len(x), bool))
    margin = x - (x.max() + math.log(fraction))
    return Membership(margin >= 0, np.abs(margin) <= tolerance)


@dataclass(frozen=True)
class Combined:
    """What a step's rows become, by the formulas.

    Attributes:
        row: (n,) the combined log-probabilities, up to a constant.
        others: (m, n) rows that are as right where rounding decides; the first is `row`.
        uncut: (m, n) the same before the plausibility cut.
    """

    row: Floats
    others: Floats
    uncut: Floats


def combine(
    rows: Mapping[str, NDArray[np.float32]],
    recipe: Recipe,
    size: int,
    *,
    unusable: Sequence[int] = (),
    stop_tokens: Sequence[int] = (),
    foreign: Sequence[int] = (),
    tolerance: float = 1e-5,
) -> Combined:
    """z = anchor + delta, the delta as the recipe's stabilisers leave it; then the cut.

    Li et al. 2023 (contrastive decoding) cut before they subtract, so a token that is cut takes
    no part and the others' scores are what they were. It leaves something: a cut that would
    leave nothing possible is not made. Where a schedule says that the delta does
    not apply there is nothing to stabilise: the anchor stands as it is, cut by nothing.

    `tolerance`: of log-probabilities in nats, at the thresholds.
    """
    weights = {role: w for role, w in recipe.weights.items() if w != 0.0}
    anchor_weights = {role: a for role, a in recipe.anchor.items() if a != 0.0}
    judge_weights = {role: j for role, j in recipe.judge.items() if j != 0.0}
    never = np.zeros(size, bool)
    never[list(unusable)] = True
    lp = {}
    for role in recipe.roles:
        lp[role] = log_softmax(repaired(np.where(never, -np.inf, rows[role][:size]), size))
    impossible = np.zeros((2, size), bool)  # by a role of positive, of negative weight
    delta, anchor = np.zeros(size), np.zeros(size)
    for role, x in lp.items():
        w, a = weights.get(role, 0.0), anchor_weights.get(role, 0.0)
        finite = np.where(x == -np.inf, 0.0, x)
        delta += (w - a) * finite
        if a != 0.0:
            anchor += a * x
        if w != 0.0:
            impossible[int(w < 0)] |= x == -np.inf
    if recipe.delta_clip < math.inf:
        delta = np.clip(delta, -recipe.delta_clip, recipe.delta_clip)
    inside_z = np.where(impossible[1], anchor, anchor + delta)
    inside_z[impossible[0]] = -np.inf

    judge = np.zeros(size)
    judged = judge_weights.keys() <= lp.keys()  # else it is not decoded, and not needed
    for role, j in judge_weights.items() if judged else ():
        judge += j * lp[role]
    judge = np.round(judge, 10)  # tokens that are equal stay so, whatever float64 made of them
    everything = Membership(np.ones(size, bool), np.zeros(size, bool))
    inside = top_p(judge, recipe.delta_top_p, tolerance) if recipe.delta_top_p < 1.0 else everything
    kept = at_least(judge, recipe.plausibility, tolerance) if recipe.plausibility else everything
    always = np.zeros(size, bool)
    always[list(stop_tokens)] = True

    def finished(z: Floats) -> Floats:
        """Without what may never be chosen, and with the judge's word on foreign ids."""
        z = np.where(never, -np.inf, z)
        if len(foreign) and len(lp) > 1 and judged:
            z[list(foreign)] = -np.inf
            if z.max() > -np.inf and judge.max() > -np.inf:
                own = log_softmax(judge)[list(foreign)]
                foreign_share = np.exp(own).sum()
                rest = max(1.0 - foreign_share, 1e-7 * foreign_share)  # some is left to the others
                others = np.log(np.exp(z - z.max()).sum()) + z.max()
                z[list(foreign)] = own - math.log(rest) + others
        return np.where(never, -np.inf, z)

    found = []
    for nucleus in (inside.chosen, inside.chosen ^ inside.either):
        z = finished(np.where(nucleus, inside_z, anchor))
        for plausible in (kept.chosen, kept.chosen ^ kept.either):
            cut = np.where(plausible | always, z, -np.inf)
            found.append((cut if cut.max() > -np.inf else z, z))
    if recipe.unsure_below < 1.0 and all((x > -np.inf).any() for x in lp.values()):
        alone = np.where(never, -np.inf, anchor)
        if not np.isnan(alone).any() and alone.max() > -np.inf:
            best, least = log_softmax(alone).max(), math.log(recipe.unsure_below)
            alone = finished(anchor)
            if abs(best - least) <= tolerance:
                found.append((alone, alone))
            elif best > least:
                found = [(alone, alone)]
    return Combined(
        found[0][0], np.array([cut for cut, _ in found]), np.array([z for _, z in found])
    )


def penalise(row: Floats, sampling: Sampling, counts: Mapping[int, int]) -> Floats:
    """Penalties and bias on a combined row that nothing was cut from, token by token.

    Repeat penalty: CTRL (Keskar et al. 2019, arXiv 1909.05858, section 4.1) divides the score of
    a token that was generated before by theta. A score below 0 is multiplied, as the
    implementations of it do, so that theta above 1 always means less probable. A combination's
    scores are known up to a constant; 0 is put at their mean over the tokens that it holds
    possible. Which of them are later cut or masked has no part in that.

    Presence and frequency penalty and bias: OpenAI's API reference,
    mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, plus the bias.
    """
    z = row.copy()
    possible = [token for token in range(len(row)) if row[token] > -np.inf]
    zero = math.fsum(row[possible]) / len(possible) if possible else 0.0
    for token, count in counts.items():
        if count <= 0 or row[token] == -np.inf:
            continue
        score = row[token] - zero
        theta = sampling.repeat_penalty
        score = score / theta if score > 0 else score * theta
        z[token] = zero + score - sampling.presence_penalty - count * sampling.frequency_penalty
    for token, bias in sampling.logit_bias.items():
        z[token] += bias
    return z


def step(
    combined: Combined,
    recipe: Recipe,
    sampling: Sampling,
    counts: Mapping[int, int],
    mask: Bools | None = None,
    tolerance: float = 1e-5,
) -> list[Filtered]:
    """What the next token may be drawn from; several where rounding decides, none where nothing
    is possible. What a mask or a ban leaves is cut, unless the cut would leave nothing of it."""
    found = []
    for cut, uncut in zip(combined.others, combined.uncut, strict=True):
        z = penalise(uncut, sampling, counts)
        if mask is not None:
            z = np.where(mask, z, -np.inf)
        left = np.where(cut > -np.inf, z, -np.inf)
        if recipe.plausibility and left.max() == -np.inf:
            left = z
        if left.max() > -np.inf:
            found.append(filtered(left, sampling, tolerance))
    return found


@dataclass(frozen=True)
class Filtered:
    """What may be drawn: `kept`, with `either`; `logits` (n,) with the temperature applied."""

    kept: Bools
    either: Bools
    logits: Floats

    def probabilities(self, kept: Bools) -> Floats:
        """(n,), 0 outside `kept`."""
        return softmax(np.where(kept, self.logits, -np.inf))


def filtered(row: Floats, sampling: Sampling, tolerance: float = 1e-5) -> Filtered:
    """Temperature, then top-k, top-p and min-p, each on what the one before it left."""
    if sampling.temperature == 0.0:
        best = np.zeros(len(row), bool)
        best[int(np.argmax(row))] = True
        return Filtered(best, np.zeros(len(row), bool), row)
    x = row / sampling.temperature
    tolerance = tolerance / min(1.0, sampling.temperature)
    left, either = x, np.zeros(len(row), bool)
    stages = [
        lambda z: top_k(z, sampling.top_k or len(z), tolerance),
        lambda z: top_p(z, sampling.top_p, tolerance),
        lambda z: at_least(z, sampling.min_p, tolerance),
    ]
    for stage in stages:
        step = stage(left)
        either |= step.either
        left = np.where(step.chosen, left, -np.inf)
    return Filtered(left > -np.inf, either, x)


def chi_square_bound(freedom: int, sigmas: float = 4.0) -> float:
    """What a chi-square statistic stays below but for chance (Wilson and Hilferty 1931)."""
    spread = 2.0 / (9.0 * freedom)
    return freedom * (1.0 - spread + sigmas * math.sqrt(spread)) ** 3


def chi_square(counts: Floats, expected: Floats) -> tuple[float, int]:
    """The statistic and its degrees of freedom; tokens expected fewer than 8 times are pooled."""
    rare = expected < 8.0
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    return float(((observed - wanted) ** 2 / wanted).sum()), len(wanted) - 1
