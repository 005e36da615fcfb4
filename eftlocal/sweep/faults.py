"""Everything that is wrong with a sweep's options, together: one line each."""

from __future__ import annotations

from collections.abc import Sequence

from eftlocal.errors import UsageError

_SHOWN = 20


def refuse(faults: Sequence[str]) -> None:
    """Raises UsageError when there are faults; equal ones are said once, with their number."""
    counts: dict[str, int] = {}
    for fault in faults:
        counts[fault] = counts.get(fault, 0) + 1
    if not counts:
        return
    lines = [f"{fault} ({n} points)" if n > 1 else fault for fault, n in counts.items()]
    if len(lines) > _SHOWN:
        lines = [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more faults"]
    raise UsageError("\n".join(lines))
