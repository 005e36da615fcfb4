"""Who won: whose first choice a token is. The one definition that everything here uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

AGREED, SHARED, NOBODY = "agreed", "shared", "nobody"


def won(first: Mapping[str, bool], between: Sequence[str], combination: str) -> str:
    """Whose first choice (most probable token, rank 1) the chosen token is.

    - "agreed": of all sides. Nobody had to move it.
    - a role: of this side alone. The other sides would have said something else.
    - "shared": of some sides, more than one, but not all (three sides or more).
    - "combination": of no side, and of the combination: none of the models by itself would have
      said it. Emulation at its most visible.
    - "nobody": of neither; it was drawn, or given.

    "agreed" against the rest is the share of first choices that the recipe could change at all;
    proxy-tuning's authors report how often base and combination differ there.

    Args:
        first: per distribution, whether the token is its first choice.
        between: the sides.
        combination: the combination's name.
    """
    holders = [role for role in between if first[role]]
    if len(holders) == len(between):
        return AGREED
    if len(holders) > 1:
        return SHARED
    if holders:
        return holders[0]
    return combination if first[combination] else NOBODY
