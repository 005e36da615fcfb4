"""Pearson's chi-square tests of counts: against given probabilities, of two samples, of a table.

Cells that expect too little for the chi-square approximation are pooled into one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

LEAST = 5.0  # expected count of a cell
Floats = NDArray[np.float64]


def goodness_of_fit(counts: Iterable[int], probabilities: Iterable[float]) -> float:
    """P-value of counts (cells,) under probabilities (cells,); 0.0 where one was impossible."""
    seen, p = np.array(list(counts), float), np.array(list(probabilities), float)
    if seen[p == 0.0].any():
        return 0.0
    seen, p = seen[p > 0.0], p[p > 0.0]
    table = _pooled(np.stack([seen, p / p.sum() * seen.sum()]), by=1)
    expected = table[1]
    if len(expected) < 2:
        return 1.0
    return survival(float(((table[0] - expected) ** 2 / expected).sum()), len(expected) - 1)


def same_distribution(
    first: Mapping[Hashable, int], second: Mapping[Hashable, int]
) -> tuple[float, int]:
    """P-value of two samples of one distribution, and the number of cells after pooling."""
    cells = sorted({*first, *second}, key=repr)
    table = np.array([[sample.get(cell, 0) for cell in cells] for sample in (first, second)], float)
    expected = table.sum(axis=0) * (table.sum(axis=1).min() / table.sum())
    rare = expected < LEAST
    pooled = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    pooled = pooled[:, pooled.sum(axis=0) > 0.0]
    return independent(pooled), pooled.shape[1]


def joint(pairs: Iterable[tuple[Hashable, Hashable]]) -> Floats:
    """How often each pair occurred, as a table."""
    counts = Counter(pairs)
    rows, columns = ({key: i for i, key in enumerate(sorted({p[s] for p in counts}, key=repr))}
                     for s in (0, 1))  # fmt: skip
    table = np.zeros((len(rows), len(columns)))
    for (a, b), count in counts.items():
        table[rows[a], columns[b]] = count
    return table


def independent(table: Floats) -> float:
    """P-value of independent rows and columns (r, c)."""
    table = table[table.sum(axis=1) > 0.0][:, table.sum(axis=0) > 0.0]
    rows, columns = table.shape
    if rows < 2 or columns < 2:
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return survival(float(((table - expected) ** 2 / expected).sum()), (rows - 1) * (columns - 1))


def survival(statistic: float, freedom: int) -> float:
    """P(chi-square of that many degrees of freedom > statistic).

    The regularised upper incomplete gamma function Q(a, x), by its series and its continued
    fraction (Lentz), as in Abramowitz and Stegun 6.5.29 and 6.5.31.
    """
    a, x = freedom / 2.0, statistic / 2.0
    if x <= 0.0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1.0:
        term = total = 1.0 / a
        n = a
        while term > total * 1e-15:
            n += 1.0
            term *= x / n
            total += term
        return max(0.0, 1.0 - front * total)
    b = x + 1.0 - a
    c, d = math.inf, 1.0 / b
    value = d
    for i in range(1, 10_000):
        step = -i * (i - a)
        b += 2.0
        d = 1.0 / (b + step * d)
        c = b + step / c
        value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return front * value


def _pooled(table: Floats, by: int) -> Floats:
    """The table with the columns whose row `by` is below LEAST as one, joined on if still so."""
    order = np.argsort(-table[by], kind="stable")
    table = table[:, order]
    enough = int((table[by] >= LEAST).sum())
    if enough == table.shape[1]:
        return table
    rest = table[:, enough:].sum(axis=1, keepdims=True)
    kept = table[:, :enough]
    if rest[by, 0] < LEAST and enough:
        kept = kept.copy()
        kept[:, -1:] += rest
        return kept
    return np.hstack([kept, rest])
