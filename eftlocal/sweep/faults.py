"""Everything that is wrong with a sweep's options, told together in one line."""

from __future__ import annotations

from collections.abc import Sequence

from eftlocal.errors import UsageError

_SHOWN = 6


def refuse(faults: Sequence[str]) -> None:
    """Raises UsageError when there are faults; equal ones are said once, with their number."""
    counts: dict[str, int] = {}
    for fault in faults:
        counts[fault] = counts.get(fault, 0) + 1
    if not counts:
        return
    told = [f"{fault} ({n} points)" if n > 1 else fault for fault, n in counts.items()]
    if len(told) > _SHOWN:
        told = [*told[:_SHOWN], f"and {len(told) - _SHOWN} more faults"]
    raise UsageError(" | ".join(told))
