"""The models and settings that a verb's options select, checked, and then loaded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlocal.cli import option_rules as rules
from eftlocal.cli.options import tell_left_out
from eftlocal.cli.streams import tell
from eftlocal.disk import readable
from eftlocal.logits.recipe import BASE, TUNED
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal import hub
    from eftlocal.cli.screen import LoadingBars
    from eftlocal.defaults import Defaults
    from eftlocal.emulator import Emulator
    from eftlocal.presets.schema import Preset
    from eftlocal.sources import Sources

A_MOMENT = 0.5  # seconds of loading that pass without a bar


@dataclass(frozen=True)
class Selection:
    """Models and settings.

    Attributes:
        models: a preset, or files.
        roles: of these models.
        given: the options, without what the user's settings say that these models cannot do.
        defaults: the preset's or the program's, with the options.
        engine: how the roles are loaded, as `eftlocal.load` takes it: prompts, n_ctx and others.
        offline: nothing may be downloaded.
    """

    models: Preset | Mapping[str, Path]
    roles: tuple[str, ...]
    given: Given
    defaults: Defaults
    engine: dict[str, Any]
    offline: bool

    def lies_in(self, folder: Path) -> bool:
        """Whether this is a preset whose base and tuned model lie in a folder."""
        if isinstance(self.models, Mapping):
            return False
        files = [self.models.roles[role] for role in (BASE, TUNED) if role in self.roles]
        return all(not file.repo and Path(file.file).parent == folder for file in files)

    def sources(self, progress: LoadingProgress) -> Sources:
        """The files, with their own defaults; those of the hub are downloaded."""
        from eftlocal.sources import Sources

        engine = {name: value for name, value in self.engine.items() if name != "force"}
        more: Any = {"offline": self.offline, "progress": progress.download, **engine}
        if isinstance(self.models, Mapping):
            return Sources.of_files(self.models, **more)
        return Sources.of_preset(self.models, **more)

    def load(self, progress: LoadingProgress) -> Emulator:
        """The models, loaded with the defaults selected here."""
        sources = replace(self.sources(progress), defaults=self.defaults)
        return sources.load(
            force=self.engine["force"], progress=progress.weights, checking=progress.checking
        )


def select(given: Given, *, has_grid: bool = False) -> Selection:
    """The meaning of a verb's options, before anything is loaded.

    Args:
        has_grid: the recipes are those of a grid, which looks for their roles itself.
        given: the verb's parameters by their names; those of models, recipe, stop and engine are
            needed, those of sampling, speculation and length may be.

    Raises:
        UsageError: an option is wrong, or does not go with another; the line names it.
    """
    from eftlocal.prompt.template import start_worker

    if not given.get("raw"):
        start_worker()  # while everything else is imported and loaded

    from eftlocal.defaults import Defaults, preset_defaults
    from eftlocal.generation import TextStream

    models = rules.chosen_models(given)
    roles = tuple(models if isinstance(models, dict) else models.roles)
    default = Defaults() if isinstance(models, dict) else preset_defaults(models)
    given, lost = rules.fitting(given, default, roles)
    tell_left_out(lost, "these models")
    TextStream(given["stop"] or ())  # refuses what cannot be a stop string
    defaults = rules.chosen_defaults(default, given)
    if not has_grid:
        rules.check_roles(defaults.recipe, None, roles)
    return Selection(models, roles, given, defaults, rules.engine(given, roles), given["offline"])


@dataclass(frozen=True)
class LoadingProgress:
    """What loading calls as it goes on; None where nobody would see it."""

    download: hub.Progress | None = None
    checking: Callable[[str, float], None] | None = None
    weights: Callable[[str, float], None] | None = None
    measuring: Callable[[str, float], None] | None = None


def _told_once() -> hub.Progress:
    told: set[tuple[str, int]] = set()

    def download(file: str, done: int, total: int, /) -> None:
        if (file, total) not in told:
            told.add((file, total))
            tell(f"downloading {file}, {readable(total)}")

    return download


@contextmanager
def loading_bars(clock: Callable[[], float] = time.monotonic) -> Iterator[LoadingProgress]:
    """Bars for downloads, and for loading and measuring that take more than a moment.

    They are gone when the block ends. Where stderr is no terminal there is a line for each
    download, as it begins.
    """
    if not sys.stderr.isatty():
        yield LoadingProgress(_told_once())
        return
    with ExitStack() as screen:
        bars: LoadingBars | None = None
        hidden: dict[str, float] = {}  # what is done of each, while no bar is drawn

        def show() -> LoadingBars:
            nonlocal bars
            if bars is None:
                from eftlocal.cli.screen import LoadingBars

                bars = screen.enter_context(LoadingBars())
                for name, share in hidden.items():
                    bars.role(name, share, 1.0)
            return bars

        def download(file: str, done: int, total: int, /) -> None:
            show().download(Path(file).name, done, total)

        def after_a_moment(what: str) -> Callable[[str, float], None]:
            began: float | None = None

            def progress(role: str, share: float) -> None:
                nonlocal began
                now = clock()
                began = now if began is None else began
                name = what.format(role)
                hidden[name] = share
                if bars is not None or now - began >= A_MOMENT:
                    show().role(name, share, 1.0)

            return progress

        yield LoadingProgress(
            download,
            checking=after_a_moment("checking {} for the first time"),
            weights=after_a_moment("loading {}"),
            measuring=after_a_moment("measuring {} for drafts"),
        )
