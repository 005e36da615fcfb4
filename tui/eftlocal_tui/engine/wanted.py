"""Models that are asked for: found, fetched, checked and planned before anything is given up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eftlocal import hub
from eftlocal.arguments import split_load_options
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.emulator import Emulator
from eftlocal.errors import DoesNotFitError, PromptError
from eftlocal.gguf_file.check import checked_model
from eftlocal.kinds import REST
from eftlocal.loading.loader import Prepared, UpTo
from eftlocal.loading.placement import Held
from eftlocal.presets.reading import find
from eftlocal.presets.schema import FileRef, Preset
from eftlocal.prompt.render import template_problem
from eftlocal.settings import CONTEXT
from eftlocal.sources import Sources
from eftlocal_tui.engine import DownloadNeededError, Progress, Report

PLACES = 4  # sequences: three that are compared, and the conversation's own beside them

Adjust = Callable[[Defaults, Collection[str]], tuple[Defaults, Sequence[str]]]
"""The defaults of models, and their roles; with what the person set, as far as it goes with them,
and a note on each setting that does not."""


def unadjusted(defaults: Defaults, _roles: Collection[str]) -> tuple[Defaults, Sequence[str]]:
    return defaults, ()


@dataclass(frozen=True)
class Start:
    """What the program was started with.

    Attributes:
        models: a preset's name, or role to file.
        offline: never download.
        adjust: the options that were given, and the settings file; they are checked here.
        engine: n_ctx, n_seq_max, threads and others, as in `eftlocal.load`; prompts are for these
            models only, and what is by role is for the roles that are there.
        call: what every answer is given beside its dials: max_tokens, stop, loop_guard.
    """

    models: str | Mapping[str, Path]
    offline: bool = False
    adjust: Adjust = unadjusted
    engine: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """Models that are asked for, and how they are to be loaded.

    Attributes:
        preset: None where files were given.
        files: by role, where no preset is.
        own: what the preset says by itself.
        defaults: with a person's options and settings.
        notes: on settings that do not go with them.
        of_roles, loading: as `split_load_options` divides them.
    """

    preset: Preset | None
    files: Mapping[str, Path]
    offline: bool
    own: Defaults
    defaults: Defaults
    notes: tuple[str, ...]
    of_roles: Mapping[str, Any]
    loading: Mapping[str, Any]

    @classmethod
    def of(cls, start: Start, preset: str | None) -> Wanted:
        """A preset, or what the program was started with.

        Raises:
            UsageError: there is no such preset, or its file is wrong.
        """
        models = start.models if preset is None else preset
        found = find(models) if isinstance(models, str) else None
        files = {} if isinstance(models, str) else models
        roles = tuple(found.roles if found else files)
        options: dict[str, Any] = {"n_seq_max": UpTo(PLACES), **start.engine}
        if preset is not None:  # it may have other roles
            options.pop("prompts", None)
            options.pop("adapters", None)
        for name in ("rpc", *CONTEXT):
            if isinstance(options.get(name), Mapping):
                there = (*roles, REST)
                options[name] = {r: v for r, v in options[name].items() if r in there}
        own = preset_defaults(found) if found else Defaults()
        defaults, notes = start.adjust(own, roles)
        of_roles, loading = split_load_options(options)
        return cls(found, files, start.offline, own, defaults, tuple(notes), of_roles, loading)

    @property
    def name(self) -> str:
        files = dict.fromkeys(Path(path).name for path in self.files.values())
        models = ", ".join(files) if self.preset is None else self.preset.name
        adapters = self.of_roles.get("adapters", {}).values()
        return models + "".join(f" + {path.name}" for path, _scale in adapters)

    @property
    def missing(self) -> hub.Missing:
        adapters = [path for path, _scale in self.of_roles.get("adapters", {}).values()]
        files = map(FileRef.at, (*self.files.values(), *adapters))
        return hub.Missing.of((*files, *(self.preset.files().values() if self.preset else ())))

    def ask_first(self) -> None:
        """Raises DownloadNeededError where files are to be downloaded, and DownloadError where the
        disk has no room for them. Where the program is offline, fetching refuses."""
        missing = self.missing
        if missing and not (self.offline or hub.is_offline()):
            if missing.size is not None:
                hub.check_room(missing.size)
            raise DownloadNeededError(self.name, missing.size, missing.begun, hub.free_space())

    def fetched(self, report: Report) -> Sources:
        """The files, downloaded where they are missing.

        Raises:
            DownloadError, ModelFileError: they cannot be had.
            PromptError: one cannot be chatted with.
        """

        def progress(file: str, done: int, total: int, /) -> None:
            report(Progress("download", Path(file).name, done, total))

        more: Any = {"offline": self.offline, "progress": progress, **self.of_roles}
        with hub.while_waiting(lambda: report(Progress("waiting", "the hub", 0.0, 0.0))):
            if self.preset is None:
                sources = Sources.of_files(self.files, **more)
            else:
                sources = Sources.of_preset(self.preset, **more)
        for role, source in sources.roles.items():
            if source.prompt == "chat":
                _check_template(role, source.path)
        return replace(sources, defaults=self.defaults, trust=self.loading.get("trust", False))

    def planned(self, sources: Sources, freed: Held | None, *, force: bool = False) -> Prepared:
        """Checked and placed, where models that hold so much are closed first; no file is tried.

        Raises:
            EftlocalError: they cannot be loaded.
        """
        forced = force or self.loading.get("force", False)
        return sources.prepare(freed, **{**self.loading, "trust": True, "force": forced})

    def check(self, sources: Sources, freed: Held, report: Report) -> None:
        """Refuses what cannot take the place of loaded models, while these are still loaded.

        Raises:
            EftlocalError: a file is wrong or fails its trial, the vocabularies differ, or there is
                not enough memory.
        """
        self.planned(sources, freed)
        try:
            checking = shares("checking", report)
            sources.prepare(None, **{**self.loading, "force": False, "checking": checking})
        except DoesNotFitError:  # beside the others, that is; without them it is tried again
            return

    def load(self, sources: Sources, report: Report) -> Emulator:
        """Loads and measures them. On an error nothing stays loaded.

        Raises:
            EftlocalError: they cannot be loaded.
        """
        checking, weights = shares("checking", report), shares("weights", report)
        emulator = sources.load(**{**self.loading, "progress": weights, "checking": checking})
        try:
            if not self.defaults.speculation.off:
                emulator.measure(shares("measuring", report))
        except BaseException:
            emulator.close()
            raise
        return emulator


def _check_template(role: str, path: Path) -> None:
    if problem := template_problem(checked_model(path).chat_template):
        raise PromptError(
            f"{role}: {problem}, which a chat needs; start it with --chat-template {role}=plain, "
            f"or a template's file ({role}=FILE), or the name of a format ({role}=chatml)"
        )


def shares(stage: Any, report: Report) -> Callable[[str, float], None]:
    return lambda role, share: report(Progress(stage, role, share, 1.0))
