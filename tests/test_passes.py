"""Dividing sequences into passes: against all ways to cut, and on a real engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.decoding.passes import LONGEST, passes
from eftlocal.errors import EngineError
from eftlocal.llama import Context, Model, Span

N_BATCH, N_ROWS = 40, 32


def cost(tokens: int) -> float:
    """With steps, as kernels have."""
    return 5.0 + 4.0 * math.ceil(tokens / 4)


def price(spans: Sequence[Span], reach: Sequence[int]) -> float:
    """The cost of one pass over these spans; inf where they cannot share one."""
    if len(spans) == 1:
        return cost(len(spans[0].tokens))
    counts = {span.sequence: len(span.tokens) for span in spans}
    longest = max(counts.values())
    first, last = min(counts), max(counts)
    tokens = (last - first + 1) * longest
    padded = [s for s in range(first, last + 1) if counts.get(s, 0) < longest]
    if longest > LONGEST or tokens > N_ROWS or any(reach[s] < longest for s in padded):
        return math.inf
    return cost(tokens)


@given(st.data())
def test_the_cheapest_of_all_cuts(data: st.DataObject) -> None:
    slots = sorted(data.draw(st.sets(st.integers(0, 9), min_size=1, max_size=6)))
    spans = [
        Span(slot, [7] * data.draw(st.integers(1, 20)), data.draw(st.integers(0, 1)))
        for slot in slots
    ]
    reach = [data.draw(st.sampled_from([0, 3, 25])) for _ in range(10)]
    calls = passes(
        data.draw(st.permutations(spans)),
        n_batch=N_BATCH,
        n_rows=N_ROWS,
        reach=reach.__getitem__,
        seconds=cost,
    )
    total = 0.0
    for call in calls:
        real = [span for span in call if span.tokens]
        lengths = {len(span.tokens) + span.padding for span in call}
        assert len(lengths) == 1  # each is one pass
        assert [span.sequence for span in call] == list(
            range(call[0].sequence, call[-1].sequence + 1)
        )
        total += price(real, reach)
    found = [span._replace(padding=0) for call in calls for span in call if span.tokens]
    assert found == spans
    ways = [
        [spans[a:b] for a, b in pairwise([0, *cuts, len(spans)])]
        for count in range(len(spans))
        for cuts in combinations(range(1, len(spans)), count)
    ]
    assert total == min(sum(price(part, reach) for part in way) for way in ways)


def test_rows_that_cost_more_together_are_decoded_one_by_one() -> None:
    measured = {1: 19.0, 2: 40.0, 3: 41.0, 4: 31.0}
    for count, calls in ((1, 1), (2, 2), (3, 1), (4, 1)):
        spans = [Span(slot, [7]) for slot in range(count)]
        found = passes(
            spans,
            n_batch=N_BATCH,
            n_rows=N_BATCH,
            reach=lambda _: 25,
            seconds=measured.__getitem__,
        )
        assert len(found) == calls
        assert [span._replace(padding=0) for call in found for span in call] == spans


@pytest.fixture(scope="module")
def model(tiny_files: dict[str, Path]) -> Model:
    return Model(tiny_files["base"])


def test_padding_leaves_nothing_behind(model: Model) -> None:
    with Context(model, n_ctx=64, n_batch=32, n_seq_max=4) as context:
        context.decode([Span(2, [5, 6, 7], 0)])
        padded = context.decode(
            [Span(0, [9], 1, 2), Span(1, (), 0, 3), Span(2, [8, 9, 10], 2)]
        ).copy()
        assert [list(context.tokens(s)) for s in range(4)] == [[9], [], [5, 6, 7, 8, 9, 10], []]
        assert padded.shape == (3, model.vocab_size)
        after = context.decode([Span(0, [4])]).copy()
    with Context(model, n_ctx=64, n_batch=32, n_seq_max=4) as context:
        alone = context.decode([Span(0, [9])]).copy()
        np.testing.assert_allclose(padded[:1], alone, atol=0.03)
        np.testing.assert_allclose(after, context.decode([Span(0, [4])]), atol=0.03)
        other = context.decode([Span(2, [5, 6, 7, 8, 9, 10], 2)])
        np.testing.assert_allclose(padded[1:], other, atol=0.03)


def test_padding_that_does_not_fit_is_refused_and_changes_nothing(model: Model) -> None:
    with Context(model, n_ctx=256, n_batch=256, n_seq_max=2) as context:
        context.decode([Span(1, [5] * 255, 0)])
        with pytest.raises(EngineError, match="257 tokens do not fit n_ctx = 256"):
            context.decode([Span(0, [5, 6]), Span(1, (), 0, 2)])
        assert [len(context.tokens(s)) for s in range(2)] == [0, 255]


def test_a_copy_is_the_other_sequence_and_its_own(model: Model) -> None:
    with Context(model, n_ctx=64, n_batch=32, n_seq_max=3) as context:
        context.decode([Span(0, [5, 6, 7, 8], 0)])
        context.decode([Span(2, [1, 2], 0)])
        context.copy(0, 2)
        context.rewind(2, 3)
        context.decode([Span(0, [11], 0)])  # what the source does next is its own business
        row = context.decode([Span(2, [9])]).copy()
        assert [list(context.tokens(s)) for s in (0, 2)] == [[5, 6, 7, 8, 11], [5, 6, 7, 9]]
        np.testing.assert_allclose(row, context.decode([Span(1, [5, 6, 7, 9])]), atol=0.03)
