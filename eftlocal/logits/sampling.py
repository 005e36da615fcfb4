"""How a token is chosen from a combined row: the dials of sampling, and what penalties do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from eftlocal.bases import Frozen, FrozenMapping
from eftlocal.errors import UsageError
from eftlocal.logits.distribution import Row, mean_of_possible
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
