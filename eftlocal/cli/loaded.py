"""The emulator that a person's options ask for: a preset by name, or files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eftlocal.cli.bars import LoadingProgress
    from eftlocal.defaults import Defaults
    from eftlocal.emulator import Emulator


def load_chosen(
    models: str | Mapping[str, Path],
    defaults: Defaults,
    bars: LoadingProgress,
    *,
    offline: bool,
    **engine: Any,
) -> Emulator:
    """Loads what `options.chosen_models` gave, with the options' own recipe and sampling.

    engine: as `options.engine` gives it.
    """
    from eftlocal.emulator import Emulator
    from eftlocal.sources import load

    if isinstance(models, str):
        return load(
            models,
            offline=offline,
            recipe=defaults.recipe,
            sampling=defaults.sampling,
            progress=bars.weights,
            checking=bars.checking,
            download_progress=bars.download,
            **engine,
        )
    files: Any = models
    return Emulator.from_files(
        defaults=defaults, progress=bars.weights, checking=bars.checking, **engine, **files
    )
