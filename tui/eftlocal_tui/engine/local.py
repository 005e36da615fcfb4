"""The engine of the program: an `Emulator` of this process behind the protocol of the screens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eftlocal import hub
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.emulator import Emulator
from eftlocal.errors import UsageError
from eftlocal.influence import inspect
from eftlocal.influence.measures import measures_of
from eftlocal.loading.loader import UpTo
from eftlocal.presets.reading import find
from eftlocal.prompt.messages import Message
from eftlocal.sources import load
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine.local_answers import LocalAnswering, LocalAnswers, checked
from eftlocal_tui.engine.places import kept_aside
from eftlocal_tui.engine.protocol import (
    Candidate,
    Check,
    Loaded,
    Moved,
    MovedToken,
    Progress,
    Report,
)

PLACES = 4  # sequences: three that are compared, and the conversation's own beside them
_CANDIDATES = 5


@dataclass(frozen=True)
class Start:
    """What the program was started with.

    Attributes:
        models: a preset's name, or role to file.
        offline: never download.
        adjust: the defaults with the options that were given; they are checked here.
        engine: n_ctx, n_seq_max, threads and others, as in `eftlocal.load`; prompts are for these
            models only.
        call: what every answer is given beside its dials: max_tokens, stop, loop_guard.
    """

    models: str | Mapping[str, Path]
    offline: bool = False
    adjust: Callable[[Defaults], Defaults] = lambda defaults: defaults
    engine: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)


class LocalEngine:
    """See `protocol.Engine`."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._emulator: Emulator | None = None
        self._talk: RunningSequence | None = None  # the conversation, as it was answered last

    def load(self, preset: str | None, report: Report) -> Loaded:
        self.close()
        options: dict[str, Any] = {
            "n_seq_max": UpTo(PLACES),
            **self._start.engine,
            "progress": _shares("weights", report),
            "checking": _shares("checking", report),
        }
        models: Any = self._start.models if preset is None else preset
        if preset is not None:  # it may have other roles
            options.pop("prompts", None)
        if isinstance(models, str):
            defaults = preset_defaults(find(models))
            if preset is None:
                defaults = self._start.adjust(defaults)
            emulator = load(
                models,
                offline=self._start.offline,
                recipe=defaults.recipe,
                sampling=defaults.sampling,
                download_progress=_downloads(report),
                **options,
            )
        else:
            defaults = self._start.adjust(Defaults())
            emulator = Emulator.from_files(defaults=defaults, **options, **models)
        try:
            if defaults.speculation.length is None:
                emulator.measure(_shares("measuring", report))
        except BaseException:
            emulator.close()
            raise
        self._emulator = emulator
        return Loaded(
            name=emulator.name or ", ".join(Path(path).name for path in models.values()),
            roles=emulator.roles,
            dials=Dials(defaults.recipe, defaults.sampling, defaults.speculation),
            context=emulator.ensemble.n_ctx,
            notes=emulator.notes(),
        )

    def answer(
        self,
        messages: Sequence[Message],
        dials: Dials,
        *,
        continue_last: bool = False,
        check: Check | None = None,
    ) -> LocalAnswering:
        emulator = self._loaded()
        options = self._options(dials)
        stream = emulator.stream(messages, continue_last=continue_last, **options)
        self._talk = stream.sequence
        return LocalAnswering(emulator, stream, dials, check)

    def answers(
        self, messages: Sequence[Message], dials: Sequence[Dials], *, check: Check | None = None
    ) -> LocalAnswers:
        emulator = self._loaded()
        with ExitStack() as undone:
            undone.enter_context(kept_aside(emulator.ensemble, self._talk))
            options = [self._options(one) for one in dials]
            return LocalAnswers(emulator, messages, options, check, undone.pop_all())

    def inspect(
        self,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        dials: Dials,
        *,
        check: Check | None = None,
    ) -> Moved:
        emulator = self._loaded()
        ensemble = emulator.ensemble
        with kept_aside(ensemble, self._talk), checked(ensemble, check):
            found = inspect(emulator, messages, answer, recipe=dials.recipe, candidates=_CANDIDATES)
        measure = measures_of(found)[0]
        values = measure.values(found).tolist()
        return Moved(
            measure=f"{measure.name}: {measure.about}",
            tokens=tuple(
                MovedToken(
                    text=token.text if token.text and not token.control else token.label,
                    moved=float(value),
                    won=token.won,
                    probabilities=token.probabilities,
                    candidates={
                        name: tuple(Candidate(c.label, c.probability) for c in of_name)
                        for name, of_name in token.candidates.items()
                    },
                )
                for token, value in zip(found.tokens, values, strict=True)
            ),
        )

    def close(self) -> None:
        if self._emulator is not None:
            emulator, self._emulator, self._talk = self._emulator, None, None
            emulator.close()

    def _options(self, dials: Dials) -> dict[str, Any]:
        return {
            "recipe": dials.recipe,
            "sampling": dials.sampling,
            "speculation": dials.speculation,
            **self._start.call,
        }

    def _loaded(self) -> Emulator:
        if self._emulator is None:
            raise UsageError("no models are loaded; choose some with /preset NAME")
        return self._emulator


def _shares(stage: Any, report: Report) -> Callable[[str, float], None]:
    return lambda role, share: report(Progress(stage, role, share, 1.0))


def _downloads(report: Report) -> hub.Progress:
    def progress(file: str, done: int, total: int, /) -> None:
        report(Progress("download", Path(file).name, done, total))

    return progress
