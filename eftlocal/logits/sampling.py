"""From a row of each role to one token: penalties, temperature, filters, and an exact draw.

The order is fixed, and it is `Step`:

1. combine     the roles' rows become one: weights, then the limits of the delta (`Combiner`)
2. cut         implausible tokens go; where the delta does not apply, nothing is cut
3. penalise    repeat, presence, frequency, bias, once, as if nothing had been cut (`penalise`)
4. mask        tokens that a grammar forbids go
5. filter      temperature, top-k, top-p, min-p, each on what the one before left (`Filters`)

and then the draw. Should a mask or a ban leave nothing of what was cut, the cut gives way.

Everything here is a pure function of its arguments. Chance enters only by `draw`, whose noise
depends on nothing but (seed, position, token): a text is the same however many sequences run
beside it and however its tokens are grouped into rounds, and rewinding needs no generator to be
rewound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.bases import Frozen, FrozenMapping
from eftlocal.errors import EngineError, UsageError
from eftlocal.logits.combine import Combiner
from eftlocal.logits.distribution import Ids, Row, mean_of_possible, nucleus, top_k
from eftlocal.logits.recipe import Recipe
from eftlocal.settings import RANGES, SAMPLING, SETTINGS, checked
from eftlocal.terminal_text import shown

_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Sampling(Frozen):
    """How a token is chosen from the combined distribution. Immutable.

    Ranges are those of `settings.RANGES`. What can be off may be given as the word "off".

    Attributes:
        temperature: logits are divided by it; 0 is greedy (the most probable token), and so is
            anything below 1e-6.
        top_k: only the k most probable tokens; 0 is all.
        top_p: only the smallest set whose probability reaches p; 1 is all. In (0, 1].
        min_p: only tokens of at least min_p times the best token's probability. In [0, 1).
        repeat_penalty: divides the logit of every token already in the answer (multiplies a
            negative one; CTRL, Keskar et al. 2019). A combined row is known up to a constant
            only, so its logits are taken about their mean over the tokens that are possible
            before the recipe's plausibility cut and any mask: neither changes how strongly a
            token is penalised. 1 is none.
        presence_penalty: subtracted once from every token already in the answer.
        frequency_penalty: subtracted once per occurrence in the answer.
        logit_bias: added to the logits of these token ids; -inf bans a token.
        seed: 0 or more; None (or off) draws a new one for each generation.

    Raises:
        UsageError: a value is out of its range; the line names it.
    """

    temperature: float = SETTINGS["temperature"].default
    top_k: int = SETTINGS["top_k"].default
    top_p: float = SETTINGS["top_p"].default
    min_p: float = SETTINGS["min_p"].default
    repeat_penalty: float = SETTINGS["repeat_penalty"].default
    presence_penalty: float = SETTINGS["presence_penalty"].default
    frequency_penalty: float = SETTINGS["frequency_penalty"].default
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in SAMPLING:
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        if not isinstance(self.logit_bias, Mapping):
            given = shown(self.logit_bias)
            raise UsageError(f"logit_bias is {given}; it must be a mapping of token ids to numbers")
        bias = {_token_id(token): _bias(token, value) for token, value in self.logit_bias.items()}
        object.__setattr__(self, "logit_bias", FrozenMapping(bias))

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-6

    @property
    def penalised(self) -> bool:
        """True when `penalise` would change a row once the answer has tokens."""
        return bool(self.logit_bias) or self.counting

    @property
    def counting(self) -> bool:
        """True when tokens already in the answer are penalised."""
        return bool(self.repeat_penalty != 1.0 or self.presence_penalty or self.frequency_penalty)


@dataclass(frozen=True)
class Candidates:
    """The distribution that a token is drawn from.

    Attributes:
        ids: (m,) ascending token ids; None means every id.
        logits: (m,) float32, log-probabilities up to a constant, temperature applied.
    """

    ids: Ids | None
    logits: Row

    def kept(self) -> Candidates:
        """The same, in memory of its own."""
        return Candidates(self.ids, self.logits.copy())

    @property
    def confidence(self) -> float:
        """The largest probability."""
        weights = np.exp(self.logits - self.logits.max())
        return 1.0 / float(weights.sum(dtype=np.float64))

    def probabilities(self) -> tuple[Ids, NDArray[np.float64]]:
        """Token ids (m,) and their probabilities (m,) float64, summing to 1."""
        ids = np.arange(len(self.logits)) if self.ids is None else self.ids
        weights = np.exp(self.logits.astype(np.float64) - float(self.logits.max()))
        return ids, weights / weights.sum()


def _token_id(token: Any) -> int:
    whole = isinstance(token, Integral) and not isinstance(token, bool)
    if not whole or int(token) < 0:
        raise UsageError(f"logit_bias: {shown(token)} is not a token id")
    return int(token)


def _bias(token: int, value: Any) -> float:
    if isinstance(value, Real) and value == -math.inf:
        return -math.inf
    bias: float = RANGES["logit_bias"].checked(f"logit_bias of token {token}", value)
    return bias


def penalise(
    row: Row, sampling: Sampling, counts: Mapping[int, int], *, mean: float | None = None
) -> None:
    """Applies penalties and bias to a combined row, in place. What is possible stays finite.

    Args:
        row: (vocab,) float32.
        counts: how often each token id occurs in the answer so far (the prompt not counted).
        mean: the logit about which `repeat_penalty` scales: the mean over the tokens that are
            possible before any cut. None: the row was not cut, so it is the row's own.

    Raises:
        UsageError: a biased token id is outside the vocabulary.
    """
    if counts and sampling.counting:
        ids = np.fromiter(counts.keys(), dtype=np.intp, count=len(counts))
        times = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
        values = row[ids].astype(np.float64)
        if sampling.repeat_penalty != 1.0:
            middle = mean_of_possible(row) if mean is None else mean
            about, penalty = values - middle, sampling.repeat_penalty
            values = middle + np.where(about > 0.0, about / penalty, about * penalty)
        values -= sampling.presence_penalty + sampling.frequency_penalty * times
        row[ids] = np.where(values == -np.inf, values, np.clip(values, -_MOST, _MOST))
    for token, bias in sampling.logit_bias.items():
        if token >= len(row):
            raise UsageError(f"logit_bias: token {token} is outside the vocabulary of {len(row)}")
        row[token] += np.float32(bias)


class Filters:
    """Temperature and top-k, top-p, min-p over rows of one size, with its own scratch memory."""

    def __init__(self, size: int) -> None:
        self._scaled = np.empty(size, dtype=np.float32)
        self._scratch = np.empty(size, dtype=np.float32)

    def __call__(self, row: Row, sampling: Sampling) -> Candidates:
        """The candidates of a combined and penalised row.

        Args:
            row: (size,) float32; not modified.

        Returns:
            Candidates, valid until the next call.

        Raises:
            EngineError: no token of the row is possible.
        """
        best = int(row.argmax())
        if not math.isfinite(row[best]):
            raise EngineError("no token is possible here: every candidate was masked out")
        if sampling.greedy:
            return Candidates(np.array([best], dtype=np.intp), row[best : best + 1].copy())
        ids: Ids | None = None
        if sampling.top_k and sampling.top_k < len(row):
            ids = top_k(row, sampling.top_k)
        chosen = row if ids is None else row[ids]
        scaled = self._scaled[: len(chosen)]
        # About the maximum, so that only tokens without a chance can overflow.
        with np.errstate(over="ignore"):
            np.subtract(chosen, row[best], out=scaled)
            if sampling.temperature != 1.0:
                scaled /= np.float32(sampling.temperature)
        if sampling.top_p < 1.0:
            weights = np.exp(scaled, out=self._scratch[: len(scaled)])
            inner = nucleus(weights, float(weights.sum()), sampling.top_p)
            ids, scaled = inner if ids is None else ids[inner], scaled[inner]
        if sampling.min_p > 0.0:
            inner = np.flatnonzero(scaled >= scaled.max() + np.float32(math.log(sampling.min_p)))
            ids, scaled = inner if ids is None else ids[inner], scaled[inner]
        return Candidates(ids, scaled)


_BLOCK = 64  # neighbouring token ids that race as one, so that few need noise of their own


def draw(candidates: Candidates, seed: int, position: int, *, stream: int = 0) -> int:
    """One token id, drawn from the candidates' distribution.

    Exponential races (the Gumbel-max trick): contestant i gets an independent Exp(1) time E_i
    hashed from (seed, position, i), and the least E_i / w_i wins, with probability proportional
    to its weight w_i. Blocks of neighbouring ids race first, then the tokens of the winner.

    Args:
        seed: of the generation, 0 <= seed < 2**63.
        position: index of the token in the answer, from 0.
        stream: uses of noise at one position that must be independent take streams of their own.
    """
    ids, logits = candidates.ids, candidates.logits
    if len(logits) == 1:
        return int(ids[0]) if ids is not None else 0
    weights = np.exp(logits - logits.max())
    if ids is None:
        starts: Ids = np.arange(0, len(weights), _BLOCK)
        blocks: Ids = starts // _BLOCK
    else:
        blocks = ids // _BLOCK
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        blocks = blocks[starts]
    won = _race(blocks, np.add.reduceat(weights, starts), _key(seed, position, 2 * stream))
    first = starts[won]
    end = starts[won + 1] if won + 1 < len(starts) else len(weights)
    inside = np.arange(first, end) if ids is None else ids[first:end]
    return int(inside[_race(inside, weights[first:end], _key(seed, position, 2 * stream + 1))])


def uniform(seed: int, position: int, stream: int) -> float:
    """A number in (0, 1), hashed from its arguments; the streams are those of `draw`."""
    bits = np.array([_key(seed, position, 2 * stream)], dtype=np.uint64)
    _mix(bits)
    return float(bits[0] >> np.uint64(11)) * 2.0**-53 + 2.0**-54


def _race(contestants: Ids, weights: Row, key: int) -> int:
    """Index of the winner, with probability proportional to the weights (m,)."""
    bits = contestants.astype(np.uint64)
    bits += np.uint64(1)
    bits *= np.uint64(_GOLDEN)
    bits += np.uint64(key)
    _mix(bits)
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
    with np.errstate(divide="ignore"):
        return int((np.log1p(-uniform) / weights).argmax())


_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def _mix(bits: NDArray[np.uint64]) -> None:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), in place."""
    for shift, multiplier in _MIX:
        bits ^= bits >> np.uint64(shift)
        if multiplier != 1:
            bits *= np.uint64(multiplier)


def _key(*parts: int) -> int:
    """One 64-bit key from several numbers, each mixed in by a step of SplitMix64."""
    key = 0
    for part in parts:
        key = ((key ^ part) + _GOLDEN) & 0xFFFFFFFFFFFFFFFF
        for shift, multiplier in _MIX:
            key = ((key ^ (key >> shift)) * multiplier) & 0xFFFFFFFFFFFFFFFF
    return key


class Step:
    """Steps 1 to 5 over rows of one vocabulary, in preallocated memory."""

    def __init__(self, combine: Combiner) -> None:
        self._combine = combine
        self._filter = Filters(combine.size)
        self._changed = np.empty(combine.size, dtype=np.float32)

    def __call__(
        self,
        rows: Mapping[str, Row],
        recipe: Recipe,
        sampling: Sampling,
        counts: Mapping[int, int],
        mask: NDArray[np.bool_] | None = None,
    ) -> tuple[Row, Candidates]:
        """The combined row of a position, and what its sampling leaves to draw from.

        Args:
            rows: (>= size,) float32 per role of `recipe.roles`; not modified.
            counts: how often each token occurs in the answer so far.
            mask: (>= size,) the tokens that may follow; None is all.

        Returns:
            The row of steps 1 and 2, (size,) float32, valid until the combiner's next one, and
            the candidates, valid until the next call.

        Raises:
            EngineError: no token is possible, or a role's logits are NaN.
            UsageError: a biased token id is outside the vocabulary.
        """
        scaled = sampling.repeat_penalty != 1.0 and len(counts) > 0
        row = changed = self._combine(rows, recipe, find_mean=scaled)
        if sampling.penalised or mask is not None:
            changed = self._changed
            changed[:] = row
            penalise(changed, sampling, counts, mean=self._combine.mean if scaled else None)
            if mask is not None:
                changed[~mask[: len(changed)]] = -np.inf
            if recipe.plausibility and np.isneginf(changed.max()):
                return self(rows, recipe.uncut, sampling, counts, mask)
        try:
            return row, self._filter(changed, sampling)
        except EngineError:
            if broken := [role for role in recipe.roles if np.isnan(rows[role]).any()]:
                raise EngineError(
                    f"the logits of {' and '.join(broken)} are not numbers (NaN): the model file "
                    "is damaged, or this device computes it wrongly; download it again, or try "
                    "it on the CPU (gpu_layers 0)"
                ) from None
            raise
