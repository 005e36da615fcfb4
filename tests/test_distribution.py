"""Top sets against their definitions, on rows with ties, impossible tokens and one token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.logits.distribution import log_sum_exp, nucleus, top_k

logits = st.lists(
    st.sampled_from([-np.inf, -3.0, -1.0, 0.0, 0.5, 0.5, 2.0, 7.0]), min_size=1, max_size=60
).map(lambda values: np.array(values, dtype=np.float32))


def by_rank(values: np.ndarray) -> list[int]:
    """Ids from the greatest value to the least, ties to the lower id."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


@given(logits, st.integers(1, 80))
def test_top_k(row: np.ndarray, k: int) -> None:
    expected = sorted(i for i in by_rank(row)[:k] if row[i] > -np.inf)
    assert top_k(row, k).tolist() == expected


@given(logits, st.floats(0.01, 0.99))
def test_nucleus(row: np.ndarray, p: float) -> None:
    if row.max() == -np.inf:
        return
    weights = np.exp(row - row.max())
    total = float(weights.sum())
    expected, reached = [], 0.0
    for i in by_rank(weights):
        expected.append(i)
        reached += float(weights[i])
        if reached >= p * total:
            break
    assert nucleus(weights, total, p).tolist() == sorted(expected)


@pytest.mark.parametrize("k", [1, 40, 600, 5000, 20_000])
def test_top_k_of_a_large_row(k: int) -> None:
    row = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    row[:3000] = -np.inf
    ids = top_k(row, k)
    assert len(ids) == min(k, 17_000)
    assert row[ids].min() >= np.delete(row, ids).max(initial=-np.inf)


def test_log_sum_exp_of_huge_logits() -> None:
    row = np.array([1e4, 1e4, -np.inf], dtype=np.float32)
    assert log_sum_exp(row, np.empty_like(row)) == pytest.approx(1e4 + np.log(2), rel=1e-6)
