"""An answer: as it comes (`AnswerStream`), when it is there (`Answer`), and what it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eftlocal.arguments import needed, refuse_unknown
from eftlocal.bases import Closing
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.score import TextLogprobs
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.errors import UsageError
from eftlocal.generation import FinishReason, Generation, Step
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.drafting import Acceptance
from eftlocal.speculation.settings import DraftLength, Speculation, Totals, read_speculation
from eftlocal.thinking import Marks, Parts, parts

if TYPE_CHECKING:
    from eftlocal.llama.guide import Guide


@dataclass(frozen=True)
class Timing:
    """Seconds by the wall clock, and tokens.

    Attributes:
        prompt_tokens: tokens of each role's prompt.
        reused_tokens: how many of them its cache already held.
        first_token: seconds from the call to the first token.
        seconds: from the call to the last token.
        tokens: of the answer, its end token included.
        at_first: tokens that came with the first one: a draft that was accepted brings several.
    """

    prompt_tokens: Mapping[str, int]
    reused_tokens: Mapping[str, int]
    first_token: float
    seconds: float
    tokens: int
    at_first: int = 1

    @property
    def tokens_per_second(self) -> float:
        """Of the answer after its first round, so that the prompt does not count; 0 if all
        tokens came with that."""
        later, seconds = self.tokens - self.at_first, self.seconds - self.first_token
        return later / seconds if later > 0 and seconds > 0 else 0.0


@dataclass(frozen=True)
class Answer:
    """A finished (or stopped) answer; `str(answer)` is its text.

    finish_reason is None when the stream was closed before the answer ended. logprobs are nats,
    one per token, when they were asked for; top_logprobs are of the most probable tokens at each.
    prompt is the raw prompt under the combination, where that was asked for. speculation tells
    what became of the drafts. marks are those of its thinking, where its prompt opened it.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason | None
    stop: str | None
    seed: int
    timing: Timing
    speculation: Totals
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    prompt: TextLogprobs | None = None
    marks: Marks | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def parts(self) -> Parts:
        """Which part of the text is thinking, and which the answer."""
        return parts(self.text, self.marks)


class AnswerStream(Closing, Iterator[Step]):
    """The steps of one answer as they come. Read it to its end, close it, or use it in `with`.

    `recipe`, `sampling` and `speculation` may be set while it runs: the next token follows them.
    An exception in a round (an interrupt, say) loses nothing: the stream can be read on, or closed,
    or left, and then its sequence is free for the next call. A stream that nobody holds is closed.

    Args:
        rounds: that advance the sequence.
        generation: the answer in the making, on a sequence opened on the ensemble.
        started: time.perf_counter() of the call that asked for it.
        check: raises UsageError for a recipe that the ensemble has no roles for.
        persona: that the prompt was read with.
        mask: which tokens may follow; closed with the stream.
        prompt: its prompt's log-probabilities, where they were asked for.
        marks: of its thinking, where more is known of them than that they are usual ones.

    Attributes:
        reader: the thread that reads it; None where a scheduler advances it.
        started: time.perf_counter() of the call.
    """

    _closed = True  # nothing to close yet

    def __init__(
        self,
        rounds: Rounds,
        generation: Generation,
        *,
        started: float,
        check: Callable[[Recipe | str], Recipe],
        persona: str = "",
        mask: Guide | None = None,
        prompt: TextLogprobs | None = None,
        marks: Marks | None = None,
    ) -> None:
        self._prompt = prompt
        self.marks = marks
        self._only_prompt = False
        self._rounds = rounds
        self._generation = generation
        self._sequence = generation.sequence
        self.started = started
        self.reader: threading.Thread | None = threading.current_thread()
        self._reading = False
        self._at_first = 0
        self._check = check
        self._persona = persona
        self._mask = mask
        self._steps: list[tuple[float, Step]] = []  # each with its time
        self._closed = False

    def __setattr__(self, name: str, value: object) -> None:
        if not self._closed and not hasattr(self, name):
            refuse_unknown({name: value}, ("recipe", "sampling", "speculation"))
        super().__setattr__(name, value)

    def __next__(self) -> Step:
        if not self.open:
            raise StopIteration
        return self._rounds.ensemble.alone(self._next)

    def _next(self) -> Step:
        self.reader = threading.current_thread()
        if not self.pending:
            if self._sequence.closed:
                raise UsageError(
                    "this answer was left unfinished and a later call took its place; load with "
                    f"n_seq_max={self._rounds.ensemble.n_seq_max + 1} to keep both"
                )
            self._reading = True  # and it stays so, whatever ends the round
            self._rounds([self._sequence])
        step = self._take()
        self._reading = False
        return step

    @property
    def abandoned(self) -> bool:
        """Whether it was interrupted and not read since, or has come to its end."""
        gone = self.reader is not None and not self.reader.is_alive()
        return gone or self._reading or not self.open

    @property
    def sequence(self) -> RunningSequence:
        """What rounds advance; whoever advances it with others then takes `ready`."""
        return self._sequence

    @property
    def pending(self) -> bool:
        """Whether tokens have come that were not taken yet."""
        return len(self._steps) < len(self._sequence.choices)

    def ready(self) -> Iterator[Step]:
        """The steps that have come and were not taken yet."""
        while self.open and self.pending:
            yield self._take()

    def _take(self) -> Step:
        self._at_first = self._at_first or len(self._sequence.choices)
        step = self._generation.take(len(self._steps))
        self._steps.append((time.perf_counter() - self.started, step))
        if step.finish_reason is not None:
            self.close()
        return step

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return not self._closed and not (self._steps and self._steps[-1][1].finish_reason)

    def close(self) -> None:
        """Ends the answer here; its tokens stay in the caches for the next prompt."""
        if not self._closed:
            self._rounds.ensemble.close(self._sequence)
            if self._mask is not None:
                self._mask.close()
            self._closed = True

    def end_with_prompt(self) -> None:
        """Ends it before its first token: nothing but its prompt was asked for."""
        self._only_prompt = True
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def recipe(self) -> Recipe:
        return self._sequence.recipe

    @recipe.setter
    def recipe(self, recipe: Recipe | str) -> None:
        def change(to: Recipe) -> None:
            self._sequence.recipe = to
            self._sequence.drafting.acceptance = Acceptance()  # what was known is of the old recipe
            self._sequence.cut(len(self._steps))

        chosen = self._check(recipe)
        if chosen.persona_prompt not in ("", self._persona):
            raise UsageError(
                "the persona is part of the prompt; another holds from the next answer"
            )
        self._rounds.ensemble.alone(lambda: change(chosen))

    @property
    def sampling(self) -> Sampling:
        return self._sequence.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        def change(to: Sampling) -> None:
            self._sequence.sampling = to
            self._sequence.cut(len(self._steps))

        chosen = needed("sampling", sampling)
        self._rounds.ensemble.alone(lambda: change(chosen))

    @property
    def speculation(self) -> Speculation:
        return self._sequence.speculation

    @speculation.setter
    def speculation(self, speculation: Speculation | DraftLength) -> None:
        asked = read_speculation(speculation, self.speculation)
        self._sequence.speculation = self._rounds.planner.allowed(asked)

    @property
    def seed(self) -> int:
        return self._sequence.seed

    @property
    def timing(self) -> Timing:
        return Timing(
            prompt_tokens={role: len(ids) for role, ids in self._sequence.prompts.items()},
            reused_tokens=dict(self._sequence.reused),
            first_token=self._steps[0][0] if self._steps else 0.0,
            seconds=self._steps[-1][0] if self._steps else 0.0,
            tokens=len(self._steps),
            at_first=min(self._at_first, len(self._steps)),
        )

    def answer(self) -> Answer:
        """What has come so far, as an answer."""
        steps = [step for _, step in self._steps]
        last = steps[-1] if steps else None
        logprobs = tuple(step.logprob for step in steps if step.logprob is not None)
        top = tuple(step.top for step in steps)
        unread: FinishReason | None = "length" if self._only_prompt else None
        return Answer(
            text="".join(step.text for step in steps),
            tokens=tuple(step.token for step in steps),
            finish_reason=last.finish_reason if last else unread,
            stop=last.stop if last else None,
            seed=self.seed,
            timing=self.timing,
            speculation=deepcopy(self._sequence.drafting.totals),
            logprobs=logprobs if self._sequence.logprobs else None,
            top_logprobs=top if self._sequence.top_logprobs else None,
            prompt=self._prompt,
            marks=self.marks,
        )
