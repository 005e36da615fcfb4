"""Between which distributions a token is contested, and which of them are compared."""

from __future__ import annotations

from collections.abc import Sequence

from eftlocal.logits.recipe import BASE, REFERENCE, TUNED, Recipe

COMBINATION = "combination"


def sides(roles: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The roles between which a token is contested.

    Base and tuned where they are loaded, and every further role of positive weight but the
    reference, which says what tuning changed and wants nothing. Where that leaves fewer than
    two, all loaded roles.
    """
    found = tuple(
        role
        for role in roles
        if role in (BASE, TUNED) or (role != REFERENCE and recipe.weights.get(role, 0.0) > 0.0)
    )
    return found if len(found) > 1 else tuple(roles)


def pairs(roles: Sequence[str], recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Whose distance is measured: the combination's from every side, the base's from the tuned
    model (how far they disagree), and the reference's from it (what tuning changed)."""
    found = [(COMBINATION, role) for role in sides(roles, recipe)]
    found += [(one, TUNED) for one in (BASE, REFERENCE) if one in roles and TUNED in roles]
    return tuple(found)
