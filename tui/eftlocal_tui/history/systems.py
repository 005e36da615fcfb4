"""Which system prompt holds where: an answer keeps the one that it was given under."""

from __future__ import annotations

from collections.abc import Sequence

from eftlocal_tui.history.records import Turn


def systems(path: Sequence[Turn], now: str) -> dict[int | None, str]:
    """The system prompts of a branch, each by the id of the first turn that it holds for; None
    stands for what follows the last one.

    Answers of older versions say nothing of it; before the first that does, its prompt held.

    Args:
        now: what holds for the next answer.
    """
    said = [turn.settings.system for turn in path if turn.settings]
    held = next((system for system in said if system is not None), now)
    found: dict[int | None, str] = {path[0].id if path else None: held} if held else {}
    begin: int | None = None  # the question of the answer that is looked at
    for turn in path:
        if turn.role == "user":
            begin = turn.id
        elif turn.settings and turn.settings.system not in (None, held):
            held = found[begin] = turn.settings.system or ""
    if now != held:
        found[None] = now
    return found
