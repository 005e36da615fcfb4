"""Which numbers of rows give the very bits that one row at a time gives: measured, kept.

Kernels are chosen by how many rows a call has, and quantized ones round differently. Where calls
keep to these numbers, a row depends on the tokens before it and on nothing else: not on drafts, on
neighbours in a batch, or on what a cache already held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eftlocal.disk import cache_folder, replace_text
from eftlocal.llama import Context, Span
from eftlocal.speculation.costs import LONGEST
from eftlocal.speculation.measurement import rows_for

_READS = (32, 64, 128, 256)  # tokens of a call that reads a prompt, beyond LONGEST
# Tokens that stand before the compared ones. From 257 on, llama.cpp's CPU kernels divide the
# attention of a single row among their threads.
_PASTS = (33, 289)
_FORMAT = 1
_Rows = NDArray[np.float32]


class Widths(NamedTuple):
    """Numbers of rows of a call that give the bits of one row.

    rows: in calls that give logits, however many sequences share them. 1 is one of them.
    reads: in calls of one sequence that only fill its cache. 1 is one of them.
    """

    rows: frozenset[int]
    reads: frozenset[int]


def measured(
    contexts: Mapping[str, Context],
    key: str,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Widths]:
    """The widths of each role: those kept under the key, or measured now and kept.

    Args:
        contexts: of an ensemble that nothing uses yet; measuring empties their caches. Their
            models can rewind.
        key: of the files, settings and machine.
        progress: called with a role and the share done.
    """
    path = cache_folder() / "widths" / f"{key}.json"
    with suppress(OSError, ValidationError):
        kept = _WidthsFile.model_validate_json(path.read_bytes())
        if set(kept.rows) == set(kept.reads) == set(contexts):
            return {
                r: Widths(frozenset({1, *kept.rows[r]}), frozenset({1, *kept.reads[r]}))
                for r in contexts
            }
    found = {role: measure(context, _told(progress, role)) for role, context in contexts.items()}
    kept = _WidthsFile(
        format=_FORMAT,
        rows={role: sorted(widths.rows) for role, widths in found.items()},
        reads={role: sorted(widths.reads) for role, widths in found.items()},
    )
    with suppress(OSError):  # a folder that cannot be written is no reason to fail
        replace_text(path, kept.model_dump_json())
    return found


def _told(progress: Callable[[str, float], None] | None, role: str) -> Callable[[float], None]:
    return lambda share: progress(role, share) if progress is not None else None


class _WidthsFile(BaseModel):
    """A file of measured widths."""

    model_config = ConfigDict(extra="forbid")
    format: int = Field(ge=_FORMAT, le=_FORMAT)
    rows: dict[str, list[int]]
    reads: dict[str, list[int]]


def measure(context: Context, progress: Callable[[float], None] = lambda _: None) -> Widths:
    """Compares calls with one row at a time, bit for bit, after few tokens and after many.

    What a call leaves in the cache is compared by the row of a token after it. Of several
    sequences, every other one has fewer tokens before it.
    """
    most = max(1, context.n_ctx - LONGEST - 1)
    pasts = sorted({min(past, most) for past in _PASTS})
    reads = {n for n in (*range(1, LONGEST + 1), *_READS) if n <= context.n_batch}
    rows = {n for n in rows_for(context.n_seq_max) if n <= context.n_rows}
    for i, past in enumerate(pasts):
        test = _Comparison(context, past)
        reads = test.reads(reads)
        rows = {n for n in rows if n in reads or n > LONGEST}
        if context.n_seq_max > 1:
            test.spread()
            rows = {n for n in rows if n == 1 or test.shared(n)}
        progress((i + 1) / len(pasts))
    for slot in range(context.n_seq_max):
        context.clear(slot)
    return Widths(frozenset(rows), frozenset(reads))


class _Comparison:
    """Calls after so many tokens, each beside what one row at a time gives."""

    def __init__(self, context: Context, past: int) -> None:
        self.context = context
        count = past + max(_READS) + 1
        ids = np.random.default_rng(past).integers(0, context.model.vocab_size, count).tolist()
        self.past, self.next = past, ids[past:]
        for slot in range(context.n_seq_max):
            context.clear(slot)
        for start in range(0, past, context.n_batch):
            context.decode([Span(0, ids[start : min(past, start + context.n_batch)], 0)])
        self.starts = [past]
        self.alone = [self._one_by_one(0)]

    def _one_by_one(self, slot: int) -> _Rows:
        """(LONGEST + 1, vocab) float32; leaves the slot as it was."""
        held = len(self.context.tokens(slot))
        room = min(LONGEST + 1, self.context.n_ctx - held)
        rows = [self._row(slot, token) for token in self.next[:room]]
        self.context.rewind(slot, held)
        return np.stack(rows)

    def _row(self, slot: int, token: int) -> _Rows:
        row: _Rows = self.context.decode([Span(slot, [token], 1)])[0].copy()
        return row

    def reads(self, counts: Collection[int]) -> set[int]:
        """Which of these numbers of tokens of one sequence are alike.

        Long calls are compared with shorter ones that are, where these are not all very short.
        """
        alike = {1}
        for count in sorted(counts):
            if count > 1 and self._read(count, max(alike)):
                alike.add(count)
        return alike

    def _read(self, count: int, step: int) -> bool:
        context = self.context
        if self.past + count >= context.n_ctx:
            return False
        if count <= LONGEST:
            got = context.decode([Span(0, self.next[:count], count)])
            same = np.array_equal(got, self.alone[0][:count])
            same = same and np.array_equal(self._row(0, self.next[count]), self.alone[0][count])
            context.rewind(0, self.past)
            return same
        if step < LONGEST // 2:
            return False
        found: list[_Rows] = []
        for width in (step, count):
            for start in range(0, count, width):
                context.decode([Span(0, self.next[start : min(count, start + width)], 0)])
            found.append(self._row(0, self.next[count]))
            context.rewind(0, self.past)
        return np.array_equal(found[0], found[1])

    def spread(self) -> None:
        """Fills the other slots, every other one with half as many tokens."""
        context, half = self.context, self.past // 2
        for slot in range(1, context.n_seq_max):
            context.copy(0, slot)
            if slot % 2:
                context.rewind(slot, half)
        self.starts = [half if slot % 2 else self.past for slot in range(context.n_seq_max)]
        alone = (self.alone[0], self._one_by_one(1))
        self.alone = [alone[slot % 2] for slot in range(context.n_seq_max)]

    def shared(self, count: int) -> bool:
        """Whether calls of so many rows are alike that several sequences share."""
        shapes = _shapes(count, self.context.n_seq_max)
        return all(self._shared(*each) for each in shapes) if shapes else count <= LONGEST

    def _shared(self, sequences: int, tokens: int) -> bool:
        context, slots = self.context, range(sequences)
        got = context.decode([Span(slot, self.next[:tokens], tokens) for slot in slots])
        want = [self.alone[slot][:tokens] for slot in slots]
        same = np.array_equal(got, np.concatenate(want))
        last = slots[-1]
        after = self._row(last, self.next[tokens])
        same = same and np.array_equal(after, self.alone[last][tokens])
        for slot in slots:
            context.rewind(slot, self.starts[slot])
        return same


def _shapes(count: int, n_seq_max: int) -> list[tuple[int, int]]:
    """How many sequences can share so many rows, the most and the fewest, and tokens of each."""
    fit = [(n, count // n) for n in range(2, n_seq_max + 1) if count % n == 0]
    fit = [shape for shape in fit if shape[1] <= LONGEST]
    return sorted({fit[0], fit[-1]}) if fit else []
