"""Dividing sequences into passes: against all ways to cut, and on a real engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.decoding.passes import passes
from eftlocal.errors import EngineError
from eftlocal.llama import Context, Model, Span
from eftlocal.speculation.costs import LONGEST, Curve

N_ROWS, N_SLOTS = 40, 10


def cost(tokens: int) -> float:
    """With steps, as kernels have: blocks of four rows, and each row left over by itself."""
    return 5.0 + 4.0 * (tokens // 4) + 3.5 * (tokens % 4)


COSTS = {n: cost(n) for n in range(1, N_ROWS + 1)}
CURVE = Curve(COSTS)


def price(spans: Sequence[Span], reach: Sequence[int]) -> float:
    """The least cost of one pass over these spans, however padded; inf where there is none."""
    counts = {span.sequence: len(span.tokens) for span in spans}
    slots, longest = range(min(counts), max(counts) + 1), max(counts.values())
    if len(spans) == 1 and longest > LONGEST:
        return cost(longest)
    least = math.inf
    whole = all(span.rows == len(span.tokens) for span in spans)
    for first, end in product(range(slots[0] + 1), range(slots[-1] + 1, N_SLOTS + 1)):
        beside = [s for s in range(first, end) if s not in slots]
        for length in range(longest, LONGEST + 1):
            padded = [s for s in slots if counts.get(s, 0) < length]
            if (
                (end - first) * length <= N_ROWS
                and all(reach[s] >= length for s in padded)
                and all(reach[s] >= LONGEST for s in beside)
                and (whole or (not beside and length == longest))
            ):
                least = min(least, cost((end - first) * length))
    return least


@given(st.data())
def test_the_cheapest_of_all_cuts(data: st.DataObject) -> None:
    slots = sorted(data.draw(st.sets(st.integers(0, N_SLOTS - 1), min_size=1, max_size=5)))
    long = data.draw(st.sampled_from([1, 2, 20]))
    counts = [data.draw(st.integers(1, long)) for _ in slots]
    spans = [
        Span(slot, [7] * n, data.draw(st.sampled_from([0, 1, n, n])))
        for slot, n in zip(slots, counts, strict=True)
    ]
    reach = [data.draw(st.sampled_from([0, 3, 25])) for _ in range(N_SLOTS)]
    for span in spans:
        reach[span.sequence] = max(reach[span.sequence], len(span.tokens))
    calls = passes(
        data.draw(st.permutations(spans)),
        n_rows=N_ROWS,
        n_slots=N_SLOTS,
        reach=reach.__getitem__,
        cost=Curve(COSTS),
    )
    total = 0.0
    for call in calls:
        (length,) = {len(span.tokens) + span.padding for span in call}  # each is one pass
        assert [span.sequence for span in call] == list(
            range(call[0].sequence, call[-1].sequence + 1)
        )
        assert all(reach[span.sequence] >= length for span in call if span.padding)
        assert length * len(call) <= N_ROWS
        total += cost(length * len(call))
    found = [span._replace(padding=0) for call in calls for span in call if span.tokens]
    assert found == spans
    ways = [
        [spans[a:b] for a, b in pairwise([0, *cuts, len(spans)])]
        for count in range(len(spans))
        for cuts in combinations(range(1, len(spans)), count)
    ]
    # Gains of less than 5% are left alone, by padding and by dividing.
    best = min(sum(price_beside(part, spans, reach) for part in way) for way in ways)
    assert best - 1e-9 <= total <= 1.11 * best


def price_beside(part: Sequence[Span], spans: Sequence[Span], reach: Sequence[int]) -> float:
    """The price of a part; slots of the other spans are not idle."""
    others = {span.sequence for span in spans} - {span.sequence for span in part}
    return price(part, [0 if slot in others else r for slot, r in enumerate(reach)])


def test_a_sequence_alone_is_padded_where_more_rows_cost_less() -> None:
    def lengths(rows: int, reach: int, *, given: int | None = None, curve: Curve = CURVE) -> int:
        span = Span(0, [7] * rows, rows if given is None else given)
        ((padded,),) = passes([span], n_rows=N_ROWS, n_slots=1, reach=lambda _: reach, cost=curve)
        assert padded.tokens == span.tokens
        return rows + padded.padding

    to = [1, 4, 4, 4, 5, 8, 8, 8, 9, 12, 12, 12, 13, 16, 16, 16, 17]
    assert [lengths(n, 25) for n in range(1, 18)] == to
    assert lengths(3, 3) == 3  # no room
    assert lengths(3, 0) == 3  # a cache that cannot drop it
    assert lengths(3, 25, given=1) == 3  # a prompt
    assert lengths(3, 25, curve=Curve({1: 1.0, 2: 1.1, 17: 2.0})) == 3  # cheaper as it is
    narrow = Curve({n: cost(n) for n in range(1, 18)})
    narrow.usable = frozenset({1, 2, 8})
    assert [lengths(n, 25, curve=narrow) for n in (1, 2, 3, 4, 8)] == [1, 2, 8, 8, 8]


def test_idle_slots_beside_a_pass_are_padding_too() -> None:
    def slots(of: Sequence[int], reach: Sequence[int]) -> list[list[int]]:
        spans = [Span(slot, [7]) for slot in of]
        calls = passes(
            spans, n_rows=N_ROWS, n_slots=len(reach), reach=reach.__getitem__, cost=CURVE
        )
        return [[span.sequence for span in call] for call in calls]

    assert slots([0, 1, 2], [25] * 8) == [[0, 1, 2, 3]]
    assert slots([1, 2, 3], [25] * 4) == [[0, 1, 2, 3]]
    assert slots([0, 1, 2], [25, 25, 25, 3]) == [[0, 1, 2]]  # its context is nearly full
    assert slots([0, 1, 2, 4, 5, 6, 7], [25] * 8) == [[*range(8)]]


def test_rows_that_cost_more_together_are_decoded_one_by_one() -> None:
    measured = {1: 19.0, 2: 40.0, 3: 41.0, 4: 50.0, 5: 85.0}
    for count, calls in ((1, [1]), (2, [1, 1]), (3, [3]), (4, [4]), (5, [4, 1])):
        spans = [Span(slot, [7]) for slot in range(count)]
        found = passes(spans, n_rows=N_ROWS, n_slots=10, reach=lambda _: 25, cost=Curve(measured))
        assert sorted(map(len, found)) == sorted(calls)
        assert [span._replace(padding=0) for call in found for span in call] == spans


@pytest.fixture(scope="module")
def model(tiny_files: dict[str, Path]) -> Model:
    return Model(tiny_files["base"])


def test_padding_leaves_nothing_behind(model: Model) -> None:
    with Context(model, n_ctx=64, n_batch=32, n_seq_max=4, n_threads=1) as context:
        context.decode([Span(2, [5, 6, 7], 0)])
        padded = context.decode(
            [Span(0, [9], 1, 2), Span(1, (), 0, 3), Span(2, [8, 9, 10], 2)]
        ).copy()
        assert [list(context.tokens(s)) for s in range(4)] == [[9], [], [5, 6, 7, 8, 9, 10], []]
        assert padded.shape == (3, model.vocab_size)
        after = context.decode([Span(0, [4])]).copy()
    with Context(model, n_ctx=64, n_batch=32, n_seq_max=4, n_threads=1) as context:
        alone = context.decode([Span(0, [9])]).copy()
        np.testing.assert_allclose(padded[:1], alone, atol=0.03)
        np.testing.assert_allclose(after, context.decode([Span(0, [4])]), atol=0.03)
        other = context.decode([Span(2, [5, 6, 7, 8, 9, 10], 2)])
        np.testing.assert_allclose(padded[1:], other, atol=0.03)


def test_rows_beside_padding_are_those_of_as_many_real_rows(model: Model) -> None:
    """In every kernel, the head's too: padding is computed to the end."""
    with Context(model, n_ctx=64, n_batch=32, n_seq_max=3, n_threads=1) as context:

        def rows(*spans: Span) -> np.ndarray:
            for slot in range(3):
                context.clear(slot)
                context.decode([Span(slot, [5, 6, 7], 0)])
            return context.decode(spans).copy()

        real = rows(Span(0, [9, 8, 0, 0, 0], 5))
        assert (rows(Span(0, [9, 8], 2, 3)) == real[:2]).all()
        real = rows(Span(0, [9, 8, 4], 3), Span(1, [0, 0, 0], 3), Span(2, [3, 0, 0], 3))
        padded = rows(Span(0, [9, 8, 4], 3), Span(1, (), 0, 3), Span(2, [3], 1, 2))
        assert (padded == real[[0, 1, 2, 6]]).all()


def test_padding_that_does_not_fit_is_refused_and_changes_nothing(model: Model) -> None:
    with Context(model, n_ctx=256, n_batch=256, n_seq_max=2, n_threads=1) as context:
        context.decode([Span(1, [5] * 255, 0)])
        with pytest.raises(EngineError, match="257 tokens do not fit n_ctx = 256"):
            context.decode([Span(0, [5, 6]), Span(1, (), 0, 2)])
        assert [len(context.tokens(s)) for s in range(2)] == [0, 255]


def test_a_copy_is_the_other_sequence_and_its_own(model: Model) -> None:
    with Context(model, n_ctx=64, n_batch=32, n_seq_max=3, n_threads=1) as context:
        context.decode([Span(0, [5, 6, 7, 8], 0)])
        context.decode([Span(2, [1, 2], 0)])
        context.copy(0, 2)
        context.rewind(2, 3)
        context.decode([Span(0, [11], 0)])  # what the source does next is its own business
        row = context.decode([Span(2, [9])]).copy()
        assert [list(context.tokens(s)) for s in (0, 2)] == [[5, 6, 7, 8, 11], [5, 6, 7, 9]]
        np.testing.assert_allclose(row, context.decode([Span(1, [5, 6, 7, 9])]), atol=0.03)
