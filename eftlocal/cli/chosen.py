"""What a verb's options ask for together, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlocal.cli import options as opt

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults


@dataclass(frozen=True)
class Chosen:
    """Models and settings.

    Attributes:
        models: a preset's name, or files.
        roles: of these models.
        defaults: the preset's or the program's, with the options.
        engine: how the roles are loaded, as `eftlocal.load` takes it: prompts, n_ctx and others.
    """

    models: str | Mapping[str, Path]
    roles: tuple[str, ...]
    defaults: Defaults
    engine: dict[str, Any]


def choose(given: Mapping[str, Any]) -> Chosen:
    """The meaning of a verb's options.

    Args:
        given: the verb's parameters by their names; those of models, recipe, max_tokens, stop
            and engine are needed, those of sampling and speculation may be.

    Raises:
        UsageError: an option is wrong, or does not go with another; the line names it.
    """
    from eftlocal.arguments import checked
    from eftlocal.defaults import Defaults, preset_defaults
    from eftlocal.generation import TextStream
    from eftlocal.presets.reading import find

    models = opt.chosen_models(given)
    found = find(models) if isinstance(models, str) else None
    checked("max_tokens", given["max_tokens"])
    TextStream(given["stop"] or ())  # refuses what cannot be a stop string
    defaults = opt.chosen_defaults(preset_defaults(found) if found else Defaults(), given)
    roles = tuple(found.roles if found else models)
    opt.check_roles(defaults.recipe, None, roles)
    return Chosen(models, roles, defaults, opt.engine(given, roles))
