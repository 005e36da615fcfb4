"""The engine of the program: an `Emulator` of this process behind the protocol of the screens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eftlocal import hub
from eftlocal.answer import AnswerStream
from eftlocal.defaults import Defaults, preset_defaults
from eftlocal.emulator import Emulator, load
from eftlocal.errors import UsageError
from eftlocal.influence import inspect
from eftlocal.influence.measures import measures_of
from eftlocal.presets.reading import find
from eftlocal.prompt.messages import Message
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine.protocol import (
    Candidate,
    Live,
    Loaded,
    Moved,
    MovedToken,
    Piece,
    Progress,
    Report,
)
from eftlocal_tui.history import figures_of

_CANDIDATES = 5


@dataclass(frozen=True)
class Start:
    """What the program was started with.

    Attributes:
        models: a preset's name, or role to file.
        offline: never download.
        adjust: the defaults with the options that were given; they are checked here.
        engine: n_ctx, threads, gpu_layers, force, as in `eftlocal.load`.
        call: what every answer is given beside its dials: max_tokens, stop.
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

    def load(self, preset: str | None, report: Report) -> Loaded:
        self.close()
        options: dict[str, Any] = {**self._start.engine, "progress": _shares("weights", report)}
        models: Any = self._start.models if preset is None else preset
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
        self, messages: Sequence[Message], dials: Dials, *, continue_last: bool = False
    ) -> LocalAnswering:
        emulator = self._loaded()
        stream = emulator.stream(
            messages,
            recipe=dials.recipe,
            sampling=dials.sampling,
            speculation=dials.speculation,
            continue_last=continue_last,
            **self._start.call,
        )
        return LocalAnswering(emulator, stream, dials)

    def inspect(
        self, messages: Sequence[Message], answer: str | Sequence[int], dials: Dials
    ) -> Moved:
        found = inspect(
            self._loaded(), messages, answer, recipe=dials.recipe, candidates=_CANDIDATES
        )
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
            emulator, self._emulator = self._emulator, None
            emulator.close()

    def _loaded(self) -> Emulator:
        if self._emulator is None:
            raise UsageError("no models are loaded; choose some with /preset NAME")
        return self._emulator


class LocalAnswering:
    """See `protocol.Answering`."""

    def __init__(self, emulator: Emulator, stream: AnswerStream, dials: Dials) -> None:
        self._contexts = emulator.ensemble.contexts
        self._stream = stream
        self._dials = dials

    def __iter__(self) -> LocalAnswering:
        return self

    def __next__(self) -> Piece:
        step = next(self._stream)
        return Piece(step.text, step.token, step.source, step.finish_reason)

    @property
    def dials(self) -> Dials:
        return self._dials

    @dials.setter
    def dials(self, dials: Dials) -> None:
        # A seed that is set or taken back in the middle belongs to the next answer.
        sampling = replace(dials.sampling, seed=self._stream.sampling.seed)
        if dials.recipe != self._dials.recipe:
            self._stream.recipe = dials.recipe
        if sampling != self._stream.sampling:
            self._stream.sampling = sampling
        self._stream.speculation = dials.speculation
        self._dials = dials

    @property
    def seed(self) -> int:
        return self._stream.seed

    def live(self) -> Live:
        answer = self._stream.answer()
        used = {role: n + answer.timing.tokens for role, n in answer.timing.prompt_tokens.items()}
        fullest = max(used, key=lambda role: used[role] / self._contexts[role].n_ctx)
        return Live(
            figures=figures_of(answer),
            draft_length=answer.speculation.drafted_length,
            context_used=used[fullest],
            context_size=self._contexts[fullest].n_ctx,
        )

    def close(self) -> None:
        self._stream.close()


def _shares(stage: Any, report: Report) -> Callable[[str, float], None]:
    return lambda role, share: report(Progress(stage, role, share, 1.0))


def _downloads(report: Report) -> hub.Progress:
    def progress(file: str, done: int, total: int, /) -> None:
        report(Progress("download", Path(file).name, done, total))

    return progress
