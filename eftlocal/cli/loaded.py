"""The models that a person's options ask for: a preset by name, or files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eftlocal.cli.bars import LoadingProgress
    from eftlocal.defaults import Defaults
    from eftlocal.emulator import Emulator
    from eftlocal.sources import Sources


def chosen_sources(
    models: str | Mapping[str, Path],
    bars: LoadingProgress,
    *,
    offline: bool,
    force: bool = False,
    **engine: Any,
) -> Sources:
    """What `options.chosen_models` gave, with its own defaults; a preset's files are downloaded.

    Args:
        engine: as `options.engine` gives it; `force` of it is for loading.
    """
    from eftlocal.sources import Sources

    del force
    if isinstance(models, str):
        return Sources.of_preset(models, offline=offline, progress=bars.download, **engine)
    return Sources.of_files(models, **engine)


def load_chosen(
    models: str | Mapping[str, Path],
    defaults: Defaults,
    bars: LoadingProgress,
    *,
    offline: bool,
    force: bool,
    **engine: Any,
) -> Emulator:
    """Loads what `options.chosen_models` gave, with the options' defaults."""
    sources = chosen_sources(models, bars, offline=offline, **engine)
    sources = replace(sources, defaults=defaults)
    return sources.load(force=force, progress=bars.weights, checking=bars.checking)
