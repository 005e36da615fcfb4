"""Dials as a conversation keeps them, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.speculation.settings import Speculation
from eftlocal_tui.dials import Dials, recipe_from, recipe_values
from eftlocal_tui.history import Settings, values_of


def kept(preset: str, dials: Dials) -> Settings:
    """What is written beside an answer."""
    return Settings(
        preset=preset,
        recipe=recipe_values(dials.recipe),
        sampling=values_of(dials.sampling),
        speculation=values_of(dials.speculation),
    )


def restored(settings: Settings, default: Dials) -> Dials:
    """The dials that an answer had; the seed is each answer's own.

    Raises:
        UsageError: what was kept is not understood by this version.
    """
    try:
        recipe = recipe_from(settings.recipe) if settings.recipe else default.recipe
        sampling: dict[str, Any] = dict(settings.sampling)
        sampling.pop("logit_bias", None)
        sampling["seed"] = default.sampling.seed
        speculation: dict[str, Any] = dict(settings.speculation)
        return Dials(
            recipe,
            replace(default.sampling, **sampling),
            Speculation(**speculation) if speculation else default.speculation,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"the settings of that answer are not understood: {error}") from None
