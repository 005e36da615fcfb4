"""What is to be loaded: a preset's roles or files, with the defaults that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlocal import hub
from eftlocal.arguments import LoadOptions, checked, checked_all, split_load_options, text
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.emulator import Emulator
from eftlocal.loading.loader import Prepared
from eftlocal.loading.placement import Held
from eftlocal.loading.roles import RoleSource, file_sources, preset_sources, with_settings
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.preparation import prepare_roles
from eftlocal.presets.reading import find
from eftlocal.presets.schema import Preset

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
        preset: str | Preset,
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
        if isinstance(preset, str):
            preset = find(preset)
        roles = preset_sources(
            preset, lambda file: hub.resolve(file, offline=offline, progress=progress)
        )
        engine = _with_adapters(engine, offline, progress)
        return cls(
            with_settings(roles, **engine),
            preset_defaults(preset),
            tuple(preset.vocabulary_exceptions),
            preset.name,
            trust,
        )

    @classmethod
    def of_files(
        cls,
        files: Mapping[str, Path],
        *,
        offline: bool = False,
        trust: bool = False,
        progress: hub.Progress | None = None,
        **engine: Any,
    ) -> Sources:
        """Files for roles (paths, or hf:owner/name/file.gguf), with the program's defaults.

        Downloads what is missing; the errors are those of `Emulator.from_files`.
        """
        found = {
            role: hub.fetched(file, offline=offline, progress=progress)
            for role, file in files.items()
        }
        engine = _with_adapters(engine, offline, progress)
        return cls(with_settings(file_sources(found), **engine), Defaults(), trust=trust)

    def load(self, **options: Unpack[LoadOptions]) -> Emulator:
        """All roles."""
        options.setdefault("trust", self.trust)
        return Emulator.from_sources(
            self.roles,
            defaults=self.defaults,
            vocabulary_exceptions=self.vocabulary_exceptions,
            name=self.name,
            **options,
        )

    def with_roles(self, roles: Mapping[str, RoleSource]) -> Sources:
        """These roles only; for one without the others, the recipe is that role alone."""
        only = next(iter(roles)) if len(roles) == 1 else ""
        recipe = Recipe.single(only) if only else self.defaults.recipe
        return replace(self, roles=roles, defaults=replace(self.defaults, recipe=recipe))

    def prepare(
        self,
        freed: Held | None = None,
        *,
        host_free: int | None = None,
        **options: Unpack[LoadOptions],
    ) -> Prepared:
        """All roles, checked and placed; nothing is loaded.

        Args:
            freed: memory of models that are closed before these are loaded.
            host_free: bytes of the host's memory that are free; None looks.
        """
        options.setdefault("trust", self.trust)
        recipe, exceptions = self.defaults.recipe, self.vocabulary_exceptions
        return prepare_roles(self.roles, recipe, exceptions, freed, host_free, **options)

    def load_base(self, **options: Unpack[LoadOptions]) -> Emulator:
        """The base by itself, as if the program knew no other model."""
        options.setdefault("trust", self.trust)
        return Emulator.from_sources(
            {"base": replace(self.roles["base"], prompt="plain", chat_template_kwargs={})},
            defaults=Defaults(Recipe.single("base")),
            **options,
        )


def _with_adapters(
    engine: dict[str, Any], offline: bool, progress: hub.Progress | None
) -> dict[str, Any]:
    """The settings with adapters that are on this machine."""
    found = {
        role: (hub.fetched(file, offline=offline, progress=progress), scale)
        for role, (file, scale) in (engine.get("adapters") or {}).items()
    }
    return {**engine, "adapters": found}


def load(
    preset: str | Preset,
    *,
    offline: bool = False,
    recipe: Recipe | str | None = None,
    sampling: Sampling | None = None,
    download_progress: hub.Progress | None = None,
    **options: Unpack[LoadOptions],
) -> Emulator:
    """Loads a preset by name, downloading what is missing.

    Args:
        preset: a name in models.toml or the user's presets file, or what was found there.
        offline: refuse to download.
        recipe, sampling: defaults instead of the preset's.
        download_progress: called while a missing file arrives.
        options: as in `Emulator.from_files`; prompts, system_in_user, chat_template_kwargs, n_ctx,
            threads, gpu_layers and rpc instead of the preset's, or on top of them.

    Raises:
        EftlocalError: see eftlocal.errors; nothing stays loaded.
    """
    of_roles, loading = split_load_options(options)
    default = checked_all(recipe=recipe, sampling=sampling)
    sources = Sources.of_preset(
        preset if isinstance(preset, Preset) else text("preset", preset),
        offline=checked("offline", offline),
        trust=loading.pop("trust", False),
        progress=checked("download_progress", download_progress),
        **of_roles,
    )
    defaults = replace(
        sources.defaults, **{name: value for name, value in default.items() if value is not None}
    )
    return replace(sources, defaults=defaults).load(**loading)
