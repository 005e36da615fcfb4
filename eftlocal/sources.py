"""What is to be loaded: a preset's roles or files, with the defaults that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlocal import hub
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.emulator import Emulator
from eftlocal.loading import Progress
from eftlocal.presets.reading import find
from eftlocal.recipe import Recipe
from eftlocal.roles import RoleSource, file_sources, preset_sources, with_engine


@dataclass(frozen=True)
class Sources:
    """Roles that can be loaded together, or the base by itself.

    Attributes:
        engine: n_ctx, threads and gpu_layers for every role; None leaves one as it is.
    """

    roles: Mapping[str, RoleSource]
    defaults: Defaults
    vocabulary_exceptions: tuple[int, ...] = ()
    name: str = ""

    @classmethod
    def of_preset(
        cls,
        name: str,
        *,
        offline: bool,
        progress: hub.Progress | None = None,
        **engine: Any,
    ) -> Sources:
        """Downloads what is missing; the errors are those of `eftlocal.load`."""
        preset = find(name)
        roles = preset_sources(
            preset, lambda file: hub.resolve(file, offline=offline, progress=progress)
        )
        exceptions = tuple(preset.vocabulary_exceptions)
        return cls(with_engine(roles, **engine), preset_defaults(preset), exceptions, name)

    @classmethod
    def of_files(cls, files: Mapping[str, Path], **engine: Any) -> Sources:
        """Files for roles, with the program's defaults."""
        return cls(with_engine(file_sources(files), **engine), Defaults())

    def load(
        self, *, force: bool, n_seq_max: int | None = 1, progress: Progress | None = None
    ) -> Emulator:
        """All roles."""
        return Emulator.from_sources(
            self.roles,
            defaults=self.defaults,
            vocabulary_exceptions=self.vocabulary_exceptions,
            n_seq_max=n_seq_max,
            force=force,
            progress=progress,
            name=self.name,
        )

    def load_base(self, *, force: bool, progress: Progress | None = None) -> Emulator:
        """The base by itself, as if the program knew no other model."""
        return Emulator.from_sources(
            {"base": replace(self.roles["base"], prompt="plain")},
            defaults=Defaults(Recipe.single("base")),
            force=force,
            progress=progress,
        )
