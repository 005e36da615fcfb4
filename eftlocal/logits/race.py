"""The draw: a race between candidates whose noise is hashed, so that nothing has to be rewound.

Chance enters the program here alone, and it depends on nothing but (seed, position, token): a text
is the same however many sequences run beside it and however its tokens are grouped into rounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eftlocal.logits.candidates import Candidates
from eftlocal.logits.distribution import Ids

_BLOCK = 64  # neighbouring token ids that race as one, so that few need noise of their own
_FEW = 512  # candidates whose noise is hashed in one go with that of their blocks
_SLACK = 1.0 + 1e-5  # what rounding may change in the sum of a block, and more


def draw(candidates: Candidates, seed: int, position: int, *, stream: int = 0) -> int:
    """One token id, drawn from the candidates' distribution.

    Exponential races (the Gumbel-max trick): contestant i gets an independent Exp(1) time E_i
    hashed from (seed, position, i), and the least E_i / w_i wins, with probability proportional
    to its weight w_i. Blocks of neighbouring ids race first, then the tokens of the winner.

    Loose candidates are settled only if it matters: a block is as fast as its tokens are heavy, so
    one that wins with its sure tokens against all tokens of each other block wins in any case; a
    token's own time depends on no other, so a sure one that wins against all wins in any case.

    Args:
        seed: of the generation, 0 <= seed < 2**63.
        position: index of the token in the answer, from 0.
        stream: uses of noise at one position that must be independent take streams of their own.
    """
    ids, logits, sure = candidates.ids, candidates.logits, candidates.sure
    if len(logits) == 1:
        return int(ids[0]) if ids is not None else 0
    best = logits.max()
    weights = np.exp(logits - best if best else logits)
    keys = _key(seed, position, 2 * stream), _key(seed, position, 2 * stream + 1)
    if ids is None:
        starts: Ids = np.arange(0, len(weights), _BLOCK)
        blocks: Ids = starts // _BLOCK
    else:
        blocks = ids // _BLOCK
        first_of_block = np.ones(len(blocks), dtype=bool)
        np.not_equal(blocks[1:], blocks[:-1], out=first_of_block[1:])
        starts = first_of_block.nonzero()[0]
        blocks = blocks[starts]
    times: NDArray[np.float64] | None = None
    if ids is not None and len(ids) <= _FEW:
        both = np.empty(len(blocks) + len(ids), dtype=np.uint64)
        both[: len(blocks)], both[len(blocks) :] = keys
        times = _times(np.concatenate((blocks, ids)), both)

    with np.errstate(divide="ignore"):
        of_blocks = _times(blocks, keys[0]) if times is None else times[: len(blocks)]
        speeds = np.add.reduceat(weights, starts)
        if sure is None:
            won = int((of_blocks / speeds).argmax())
        else:
            slowest = of_blocks / np.add.reduceat(np.where(sure, weights, np.float32(0.0)), starts)
            won = int(slowest.argmax())
            if np.count_nonzero(of_blocks / speeds > slowest[won] * _SLACK) > 1:
                return draw(candidates.settled, seed, position, stream=stream)
        first = starts[won]
        end = starts[won + 1] if won + 1 < len(starts) else len(weights)
        inside = np.arange(first, end) if ids is None else ids[first:end]
        if times is None:
            of_tokens = _times(inside, keys[1])
        else:
            of_tokens = times[len(blocks) + first : len(blocks) + end]
        token = int((of_tokens / weights[first:end]).argmax())
    if sure is not None and not sure[first + token]:
        return draw(candidates.settled, seed, position, stream=stream)
    return int(inside[token])


def uniform(seed: int, position: int, stream: int) -> float:
    """A number in (0, 1), hashed from its arguments; the streams are those of `draw`."""
    bits = np.array([_key(seed, position, 2 * stream)], dtype=np.uint64)
    _mix(bits)
    return float(bits[0] >> np.uint64(11)) * 2.0**-53 + 2.0**-54


def _times(contestants: Ids, key: int | NDArray[np.uint64]) -> NDArray[np.float64]:
    """The negated times (m,) of contestants at speed 1: -Exp(1)."""
    bits = contestants.astype(np.uint64)
    bits += _ONE
    bits *= _GOLDEN_BITS
    bits += np.uint64(key) if isinstance(key, int) else key
    _mix(bits)
    bits >>= _ELEVEN
    uniform = bits.astype(np.float64)
    uniform *= -(2.0**-53)
    uniform -= 2.0**-54
    return np.log1p(uniform, out=uniform)


_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_ONE, _ELEVEN, _GOLDEN_BITS = np.uint64(1), np.uint64(11), np.uint64(_GOLDEN)
_MIX_BITS = tuple((np.uint64(shift), np.uint64(multiplier)) for shift, multiplier in _MIX)


def _mix(bits: NDArray[np.uint64]) -> None:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), in place."""
    for shift, multiplier in _MIX_BITS:
        bits ^= bits >> shift
        if multiplier != _ONE:
            bits *= multiplier


def _key(*parts: int) -> int:
    """One 64-bit key from several numbers, each mixed in by a step of SplitMix64."""
    key = 0
    for part in parts:
        key = ((key ^ part) + _GOLDEN) & 0xFFFFFFFFFFFFFFFF
        for shift, multiplier in _MIX:
            key = ((key ^ (key >> shift)) * multiplier) & 0xFFFFFFFFFFFFFFFF
    return key
