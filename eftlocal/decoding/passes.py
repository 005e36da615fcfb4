"""Which sequences one call of llama.cpp decodes together.

Each sequence has a cache of its own, and llama.cpp decodes sequences in one pass over the weights
only where their slots are neighbours and each brings as many tokens; others it takes one after
another, whatever call they stand in (`split_equal` in its llama-batch.cpp). So a gap is filled,
and a shorter span made longer, with padding that is dropped afterwards, where that is cheaper by
the costs of decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eftlocal.llama import Span

LONGEST = 17  # tokens of a span that may share a pass; longer ones fill a pass by themselves


def most_rows(n_seq_max: int) -> int:
    """Rows of logits that one call should be able to give where so many sequences may run.

    llama.cpp holds memory for each from the start. 64 fit where the hidden rows of a prompt's
    tokens are; beyond that, more than eight a sequence are no cheaper together than apart.
    """
    return max(64, 8 * n_seq_max)


def passes(
    spans: Sequence[Span],
    *,
    n_batch: int,
    n_rows: int,
    reach: Callable[[int], int],
    seconds: Callable[[int], float],
) -> list[list[Span]]:
    """Divides spans into calls, padded so that each is one pass, at the least total cost.

    Args:
        spans: one a slot, none longer than n_batch, none with more than n_rows rows.
        n_batch: most tokens of a call.
        n_rows: most tokens of a call that several slots share: each may want a row.
        reach: tokens that a slot can take, padding included; 0 where it can take no padding.
        seconds: of a pass by its tokens.

    Returns:
        calls, each in the order of slots, with a span of padding alone where a slot is idle.
    """
    ordered = sorted(spans, key=lambda span: span.sequence)
    counts = [len(span.tokens) for span in ordered]
    slots = [span.sequence for span in ordered]
    neighbours = slots[-1] - slots[0] + 1 == len(slots)
    alike = min(counts) == max(counts) <= (LONGEST if len(slots) > 1 else n_batch)
    total = len(slots) * counts[0]
    most = n_rows if len(slots) > 1 else n_batch
    # Two rows can cost more than one does twice: kernels have tiles of several rows.
    if neighbours and alike and total <= most and seconds(total) <= sum(map(seconds, counts)):
        return [ordered]
    calls = []
    for start, end in _cheapest(slots, counts, n_rows, reach, seconds):
        longest = max(counts[start:end])
        call, slot = [], slots[start]
        for span in ordered[start:end]:
            call += [Span(idle, (), 0, longest) for idle in range(slot, span.sequence)]
            call.append(span._replace(padding=longest - len(span.tokens)))
            slot = span.sequence + 1
        calls.append(call)
    return calls


def _cheapest(
    slots: Sequence[int],
    counts: Sequence[int],
    n_rows: int,
    reach: Callable[[int], int],
    seconds: Callable[[int], float],
) -> list[tuple[int, int]]:
    """The ranges of spans that share a pass: the best way to cut, by dynamic programming."""
    least, cut = [0.0], [0]
    for end in range(1, len(slots) + 1):
        best, at = least[end - 1] + seconds(counts[end - 1]), end - 1
        longest = counts[end - 1]
        most = max(longest, reach(slots[end - 1]))
        for start in range(end - 2, -1, -1):
            longest = max(longest, counts[start])
            tokens = (slots[end - 1] - slots[start] + 1) * longest
            for idle in range(slots[start] + 1, slots[start + 1]):
                most = min(most, reach(idle))
            most = min(most, max(counts[start], reach(slots[start])))
            if longest > LONGEST or tokens > n_rows or most < longest:
                break  # wider ranges are longer, and reach no further
            cost = least[start] + seconds(tokens)
            if cost < best:
                best, at = cost, start
        least.append(best)
        cut.append(at)
    ranges, end = [], len(slots)
    while end:
        ranges.append((cut[end], end))
        end = cut[end]
    return ranges[::-1]
