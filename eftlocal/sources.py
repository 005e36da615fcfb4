"""What is to be loaded: a preset's roles or files, with the defaults that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlocal import hub
from eftlocal.arguments import checked, checked_all, text
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.emulator import Emulator
from eftlocal.loading.loader import Progress, UpTo
from eftlocal.loading.roles import RoleSource, file_sources, preset_sources, with_settings
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.presets.reading import find


@dataclass(frozen=True)
class Sources:
    """Roles that can be loaded together, or the base by itself.

    Attributes:
        trust: new files are not tried in a child process first.
    """

    roles: Mapping[str, RoleSource]
    defaults: Defaults
    vocabulary_exceptions: tuple[int, ...] = ()
    name: str = ""
    trust: bool = False

    @classmethod
    def of_preset(
        cls,
        name: str,
        *,
        offline: bool,
        trust: bool = False,
        progress: hub.Progress | None = None,
        **engine: Any,
    ) -> Sources:
        """Downloads what is missing; the errors are those of `eftlocal.load`.

        Args:
            engine: as `loading.roles.with_settings` takes it: prompts, n_ctx, threads and others.
        """
        preset = find(name)
        roles = preset_sources(
            preset, lambda file: hub.resolve(file, offline=offline, progress=progress)
        )
        exceptions = tuple(preset.vocabulary_exceptions)
        return cls(with_settings(roles, **engine), preset_defaults(preset), exceptions, name, trust)

    @classmethod
    def of_files(cls, files: Mapping[str, Path], *, trust: bool = False, **engine: Any) -> Sources:
        """Files for roles, with the program's defaults."""
        return cls(with_settings(file_sources(files), **engine), Defaults(), trust=trust)

    def load(
        self,
        *,
        force: bool,
        n_seq_max: int | UpTo = 1,
        progress: Progress | None = None,
        checking: Progress | None = None,
    ) -> Emulator:
        """All roles."""
        return Emulator.from_sources(
            self.roles,
            defaults=self.defaults,
            vocabulary_exceptions=self.vocabulary_exceptions,
            n_seq_max=n_seq_max,
            force=force,
            trust=self.trust,
            progress=progress,
            checking=checking,
            name=self.name,
        )

    def load_base(
        self,
        *,
        force: bool,
        progress: Progress | None = None,
        checking: Progress | None = None,
    ) -> Emulator:
        """The base by itself, as if the program knew no other model."""
        return Emulator.from_sources(
            {"base": replace(self.roles["base"], prompt="plain", chat_template_kwargs={})},
            defaults=Defaults(Recipe.single("base")),
            force=force,
            trust=self.trust,
            progress=progress,
            checking=checking,
        )


def load(
    preset: str,
    *,
    offline: bool = False,
    recipe: Recipe | str | None = None,
    sampling: Sampling | None = None,
    prompts: Mapping[str, str] | None = None,
    system_in_user: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    n_ctx: int | None = None,
    n_seq_max: int | UpTo = 1,
    threads: int | None = None,
    gpu_layers: int | None = None,
    force: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
    checking: Progress | None = None,
    download_progress: hub.Progress | None = None,
) -> Emulator:
    """Loads a preset by name, downloading what is missing.

    Args:
        preset: a name in models.toml or the user's presets file.
        offline: refuse to download.
        recipe, sampling: defaults instead of the preset's.
        prompts, system_in_user, chat_template_kwargs, n_ctx, threads, gpu_layers: instead of the
            preset's, or on top of them, as in `Emulator.from_files`.
        download_progress: called while a missing file arrives.

    The other arguments are those of `Emulator.from_files`.

    Raises:
        EftlocalError: see eftlocal.errors; nothing stays loaded.
    """
    own = checked_all(
        prompts=prompts,
        system_in_user=system_in_user,
        chat_template_kwargs=chat_template_kwargs,
        n_ctx=n_ctx,
        threads=threads,
        gpu_layers=gpu_layers,
    )
    default = checked_all(recipe=recipe, sampling=sampling)
    checked_all(n_seq_max=n_seq_max, force=force, progress=progress, checking=checking)
    sources = Sources.of_preset(
        text("preset", preset),
        offline=checked("offline", offline),
        trust=checked("trust", trust),
        progress=checked("download_progress", download_progress),
        **own,
    )
    defaults = replace(
        sources.defaults, **{name: value for name, value in default.items() if value is not None}
    )
    return replace(sources, defaults=defaults).load(
        n_seq_max=n_seq_max, force=force, progress=progress, checking=checking
    )
