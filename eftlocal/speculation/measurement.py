"""The costs of decodes, measured on a role's own context, and kept for the next start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, wait
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eftlocal.disk import cache_folder, replace_text
from eftlocal.llama import Context, Span
from eftlocal.speculation.costs import LONGEST, Costs, Curve

ROWS = tuple(range(1, LONGEST + 1))  # all of them: the steps are what is looked for
_WIDE = (24, 32, 48, 64)  # where so many sequences are decoded together
_SECONDS_EACH, _SECONDS_MOST = 1.5, 6.0  # of measuring a role, beyond the first times round
_LEAST_TIMES, _MOST_TIMES = 2, 7
_SETTLED = 0.9  # of what was least before: a round that finds less than this calls for another
_STEP = 1.25  # times what more rows take is the most that rows really take, by the steps of kernels
_PAST = 32  # tokens that stand before the timed ones
_PARALLEL_ROWS = 5
_PARALLEL_GAIN = 0.95  # of the time in turn: parallel decodes must take less
_FORMAT = 4  # by CPU time where that tells it


def measure(
    contexts: Mapping[str, Context],
    slot: int,
    *,
    pool: Executor | None = None,
    rows: Sequence[int] = ROWS,
    progress: Callable[[str, float], None] | None = None,
) -> Costs:
    """Times decodes of each role in a free slot, whose cache it empties.

    Every number of rows is timed in turn, and that again until 1.5 s are over and the figures
    have settled (6 s at most), twice at least and 7 times at most; the least of each counts, since
    other programs only ever add time (and none to CPU time, see `Context.clock`). What is left of
    that shows where more rows take less.

    Args:
        contexts: of an ensemble, none of them in use, and `measurable`.
        pool: threads in which the roles could decode side by side.
        progress: called with a role and the share done.
    """
    curves = {}
    for role, context in contexts.items():
        most = _most(context)
        counts = [n for n in rows if n <= most]
        past = _prepare(context, slot)
        least: dict[int, float] = {}
        began = time.perf_counter()
        for again in range(_MOST_TIMES):
            settled = True
            for at, n in enumerate(counts):
                if progress is not None:  # the first time round alone may take long
                    progress(role, _share(again + at / len(counts), time.perf_counter() - began))
                start = context.clock()
                context.decode([Span(slot, [0] * n, n)])
                took = context.clock() - start
                settled = settled and took >= _SETTLED * least.get(n, took)
                least[n] = min(took, least.get(n, took))
                context.rewind(slot, past)
            spent = time.perf_counter() - began
            enough = _SECONDS_EACH if settled else _SECONDS_MOST
            if again + 1 >= _LEAST_TIMES and spent > enough:
                break
        if progress is not None:
            progress(role, 1.0)
        context.clear(slot)
        curves[role] = Curve(plausible(least))
    return Costs(curves, None if pool is None else _parallel_is_faster(contexts, slot, pool))


def _share(times: float, seconds: float) -> float:
    """What is done of a role that was measured so many times round, in so many seconds."""
    done = min(seconds / _SECONDS_EACH, times / _LEAST_TIMES)
    return min(1.0, max(done, times / _MOST_TIMES))


def plausible(seconds: Mapping[int, float]) -> dict[int, float]:
    """Times by rows without those that something else has lengthened."""
    found: dict[int, float] = {}
    bound = float("inf")
    for n in sorted(seconds, reverse=True):
        found[n] = min(seconds[n], _STEP * bound)
        bound = min(bound, seconds[n])
    return found


def rows_for(n_seq_max: int) -> tuple[int, ...]:
    """Numbers of rows that are worth timing where so many sequences may run together."""
    return (*ROWS, *(n for n in _WIDE if n <= n_seq_max))


def measurable(contexts: Mapping[str, Context]) -> bool:
    """Whether every context has the room for drafts, and so for measuring them."""
    return all(_most(context) >= 2 for context in contexts.values())


def _most(context: Context) -> int:
    return min(context.n_rows, context.n_ctx - _PAST)


def _prepare(context: Context, slot: int) -> int:
    """Puts some tokens into a slot; returns how many."""
    context.clear(slot)
    # Repeated tokens cost what others do, and any vocabulary has the first ids.
    past = min(_PAST, context.n_batch)
    context.decode([Span(slot, [0] * past, 0)])
    return past


def _parallel_is_faster(contexts: Mapping[str, Context], slot: int, pool: Executor) -> bool:
    """Whether all roles decode a few rows sooner side by side than one after the other."""
    past = {role: _prepare(context, slot) for role, context in contexts.items()}
    span = Span(slot, [0] * _PARALLEL_ROWS, _PARALLEL_ROWS)
    best = {True: float("inf"), False: float("inf")}
    for beside in (True, False) * _MOST_TIMES:
        began = time.perf_counter()
        if beside:
            wait([pool.submit(context.decode, [span]) for context in contexts.values()])
        else:
            for context in contexts.values():
                context.decode([span])
        best[beside] = min(best[beside], time.perf_counter() - began)
        for role, context in contexts.items():
            context.rewind(slot, past[role])
    for context in contexts.values():
        context.clear(slot)
    return best[True] < _PARALLEL_GAIN * best[False]


class _File(BaseModel):
    """A file of measured costs."""

    model_config = ConfigDict(extra="forbid")
    format: int = Field(ge=_FORMAT, le=_FORMAT)
    roles: dict[str, dict[int, float]]
    side_by_side: bool | None = None


def remember(costs: Costs, key: str) -> None:
    """Keeps costs for the next start; a folder that cannot be written is no reason to fail."""
    kept = _File(
        format=_FORMAT,
        roles={
            role: dict(zip(curve.rows, curve.seconds, strict=True))
            for role, curve in costs.curves.items()
        },
        side_by_side=costs.side_by_side,
    )
    with suppress(OSError):
        replace_text(_path(key), kept.model_dump_json())


def recall(key: str, roles: Sequence[str]) -> Costs | None:
    """Costs kept under the key; None where there are none that fit."""
    try:
        kept = _File.model_validate_json(_path(key).read_bytes())
    except (OSError, ValidationError):
        return None
    fits = set(kept.roles) == set(roles) and all(
        len(times) > 1 and all(n > 0 and s > 0 for n, s in times.items())
        for times in kept.roles.values()
    )
    curves = {role: Curve(times) for role, times in kept.roles.items()}
    return Costs(curves, kept.side_by_side) if fits else None


def _path(key: str) -> Path:
    return cache_folder() / "costs" / f"{key}.json"
