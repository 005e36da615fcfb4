"""The engine: three models behind one set of dials, which are an `Emulator` of this process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.emulator import Emulator
from eftlocal.errors import TooLongError, UsageError
from eftlocal.loading.placement import Held
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.prompt.messages import Message
from eftlocal.saved_state import SavedState, held, save, state_size
from eftlocal.saved_state import load as load_state
from eftlocal.scheduler import Scheduler
from eftlocal.sources import Sources
from eftlocal.study.influence import inspect
from eftlocal.study.inspection import sides_shown
from eftlocal_tui.dials import Dials
from eftlocal_tui.engine import (
    Again,
    Fit,
    Larger,
    Load,
    Loaded,
    Moved,
    Offer,
    Report,
    Watch,
)
from eftlocal_tui.engine.answering import LocalAnswering, LocalAnswers, watched
from eftlocal_tui.engine.offers import also, larger, look
from eftlocal_tui.engine.wanted import Start, Wanted

_CANDIDATES = 5
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


class LocalEngine:
    """Finds, loads and asks models. What cannot be done raises EftlocalError."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._emulator: Emulator | None = None
        self._ready: tuple[Wanted, Sources, Loaded] | None = None  # what works, or last did
        self._talk: RunningSequence | None = None  # the conversation, as it was answered last

    def prepare(self, preset: str | None, report: Report, *, download: bool = False) -> Load:
        """Finds, fetches and checks what a preset needs; None is what the program began with. For
        any thread, one call at a time: what is loaded answers meanwhile.

        Args:
            download: what is missing may be downloaded.

        Raises:
            DownloadNeededError: it may not, and something is missing.
            EftlocalError: it cannot be had, or take the place of what is loaded.
        """
        wanted = Wanted.of(self._start, preset)
        if not download:
            wanted.ask_first()
        sources = wanted.fetched(report)
        if (emulator := self._emulator) is not None:
            wanted.check(sources, emulator.held, report)
        return partial(self._open, wanted, sources)

    def larger(self, fit: Fit) -> Larger | None:
        """The context that what is loaded needs so that this fits with room for an answer, at least
        the double; as much of that as the models were trained for and this machine has room for.
        None where even that is not enough. Takes a moment; for any thread."""
        emulator = self._emulator
        if self._ready is None or emulator is None:
            return None
        wanted, sources, _ = self._ready
        grown = larger(wanted, sources, emulator.held, fit)
        if grown is None:
            return None
        load = partial(self._open, wanted, grown.sources)
        return Larger(grown.needs, grown.slower, load, grown.sizes)

    def also(self, recipe: Recipe) -> Again:
        """What is loaded, with the roles of a recipe that loading makes of it, such as a persona's:
        their weights are there. Takes a moment; for any thread."""
        emulator = self._loaded()
        assert self._ready is not None
        wanted, sources, _ = self._ready
        more, needs, slower = also(wanted, sources, emulator.held, recipe)
        return Again(needs, slower, partial(self._open, wanted, more))

    def restore(self, report: Report) -> Loaded | None:
        """After a load that failed: what is loaded, which was given up for it and is loaded again
        here, or was never given up. None where there was nothing."""
        if self._ready is None:
            return None
        wanted, sources, loaded = self._ready
        return loaded if self._emulator is not None else self._open(wanted, sources, report)

    def _open(self, wanted: Wanted, sources: Sources, report: Report) -> Loaded:
        self.close()
        emulator = wanted.load(sources, report)
        loaded = Loaded(
            name=wanted.name,
            roles=emulator.roles,
            dials=Dials.of(wanted.defaults),
            notes=(*wanted.notes, *emulator.notes()),
            files={role: short_name(model.path) for role, model in emulator.models.items()},
            about=wanted.preset.notes if wanted.preset else "",
            questions=wanted.preset.questions if wanted.preset else (),
            preset=Dials.of(wanted.own),
        )
        self._emulator, self._ready = emulator, (wanted, sources, loaded)
        return loaded

    def look(self, preset: str) -> Offer:
        """How a preset can be had here. Takes a moment; for any thread, whatever is going on."""
        emulator = self._emulator
        return look(self._start, preset, Held() if emulator is None else emulator.held)

    def fits(self, messages: Sequence[Message], dials: Dials) -> Fit:
        """What a conversation takes in each role, its persona's included; where its last message is
        the assistant's, as an answer that goes on. Takes milliseconds."""
        emulator = self._loaded()
        contexts = emulator.ensemble.contexts
        tokens = dict.fromkeys(contexts, 0)
        goes_on = bool(messages) and messages[-1]["role"] == "assistant"
        try:
            if messages:
                recipe = dials.recipe
                ids = emulator.tokenize(messages, recipe=recipe, continue_last=goes_on)
                tokens = {role: len(ids[role]) for role in contexts}
        except TooLongError as error:
            tokens[error.role] = error.tokens
        return Fit(
            tokens,
            sizes={role: context.n_ctx for role, context in contexts.items()},
            trained={role: context.n_ctx_train for role, context in contexts.items()},
        )

    def answer(
        self,
        messages: Sequence[Message],
        dials: Dials,
        watch: Watch | None = None,
        *,
        continue_last: bool = False,
    ) -> LocalAnswering:
        """Answers a conversation, or goes on with its last message."""
        emulator = self._loaded()
        options = self._options(dials)
        stream = emulator.stream(messages, continue_last=continue_last, **options)
        self._talk = stream.sequence
        return LocalAnswering(emulator.ensemble, stream, dials, watch)

    def answers(
        self, messages: Sequence[Message], dials: Sequence[Dials], watch: Watch | None = None
    ) -> LocalAnswers:
        """Answers a conversation once for each of the dials. What was read of the conversation
        that is being held stays at hand for its next turn, where there is a place besides."""
        emulator = self._loaded()
        with ExitStack() as undone:
            undone.enter_context(kept_aside(emulator.ensemble, self._talk))
            scheduler = Scheduler(emulator, parallel=len(emulator.ensemble.free))
            calls = [scheduler.add(list(messages), **self._options(one)) for one in dials]
            return LocalAnswers(emulator.ensemble, scheduler, calls, watch, undone.pop_all())

    def inspect(
        self,
        messages: Sequence[Message],
        answer: str | Sequence[int],
        dials: Dials,
        watch: Watch | None = None,
    ) -> Moved:
        """How far the combination moved each token of an answer (text or token ids)."""
        emulator = self._loaded()
        ensemble = emulator.ensemble
        with kept_aside(ensemble, self._talk), watched(ensemble, watch, emulator.roles):
            found = inspect(emulator, messages, answer, recipe=dials.recipe, candidates=_CANDIDATES)
        return Moved(found.tokens, sides_shown(emulator.roles, dials.recipe))

    def held(self) -> int:
        """Tokens that the caches hold of the conversation answered last, of the role with most."""
        if self._emulator is None or self._talk is None:
            return 0
        return max(held(self._emulator.ensemble, self._talk).values())

    def keep(
        self, path: Path, fits: Callable[[int], bool], check: Callable[[], None]
    ) -> SavedState | None:
        """Writes what they hold of it; what was written, if anything.

        Args:
            fits: told the bytes that it takes; whether to write them.
            check: called before each MiB; what it raises ends the writing.
        """
        emulator, talk = self._emulator, self._talk
        if emulator is None or talk is None or not fits(state_size(emulator.ensemble, talk.slot)):
            return None
        ensemble, identity = emulator.ensemble, emulator.identity()
        return ensemble.alone(lambda: save(ensemble, identity, talk, path, check, durable=False))

    def resume(self, path: Path) -> SavedState | None:
        """Reads what `keep` wrote, so that the conversation goes on without being read again; None
        where it does not match what is loaded."""
        if (emulator := self._emulator) is None:
            return None
        ensemble, identity = emulator.ensemble, emulator.identity()
        try:
            return emulator.slots.when_free(lambda: load_state(ensemble, identity, path))
        except UsageError:  # of other models or settings, or torn
            return None

    def close(self) -> None:
        """Gives everything back. A second call does nothing."""
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
            raise UsageError("no models are loaded; /preset NAME loads some")
        return self._emulator


def short_name(path: Path) -> str:
    """`SmolLM2-135M.Q8_0` of a model's file, or of its first shard."""
    return _SHARD.sub("", path.name.removesuffix(".gguf"))


@contextmanager
def kept_aside(ensemble: Ensemble, talk: RunningSequence | None) -> Iterator[None]:
    """Keeps what an ended sequence left in its place, where there is another place besides."""
    if talk is None or not talk.closed or len(ensemble.free) < 2:
        yield
        return
    prompts = {}
    for role, context in ensemble.contexts.items():
        held = list(context.tokens(talk.slot)) or list(talk.prompts[role][:1])
        # A prompt's last token is always decoded anew, so what is held needs one after it.
        prompts[role] = [*held, held[-1]][: context.n_ctx - 1]
    holder = ensemble.open(prompts, recipe=talk.recipe, sampling=Sampling(temperature=0.0))
    try:
        yield
    finally:
        ensemble.close(holder)
