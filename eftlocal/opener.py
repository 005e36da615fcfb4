"""An answer is opened: what was asked becomes prompts, a sequence and a stream of tokens."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from typing import Any

from eftlocal.answer import AnswerStream
from eftlocal.arguments import PromptOptions, checked_all, needed
from eftlocal.constraint import Constraint
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.score import score_prompt
from eftlocal.defaults import Defaults
from eftlocal.errors import UsageError
from eftlocal.generation import Generation
from eftlocal.llama import Model
from eftlocal.loading.roles import require_roles
from eftlocal.logits.recipe import PERSONA, Recipe
from eftlocal.prompt.answer_marks import AnswerMarks
from eftlocal.prompt.messages import Prompt, is_ids
from eftlocal.prompt.reader import PromptReader, ReadPrompt
from eftlocal.speculation.drafting import SequenceDrafts
from eftlocal.speculation.settings import read_speculation


class Opener:
    """Opens the streams of one ensemble.

    Args:
        reader: makes each role's tokens.
        role, model: whose tokens are the answer's text.
        marks: of its thinking.
    """

    def __init__(
        self, rounds: Rounds, reader: PromptReader, role: str, model: Model, marks: AnswerMarks
    ) -> None:
        self._rounds, self._reader, self._marks = rounds, reader, marks
        self._ensemble = rounds.ensemble
        self._text_role, self._text_model = role, model

    def checked(self, recipe: Recipe | str) -> Recipe:
        """The recipe, or the one of that name. Raises UsageError: see `Emulator.checked`."""
        return require_roles(needed("recipe", recipe), self._ensemble.contexts)

    def piece(self, token: int) -> bytes:
        """The bytes of a token; of a special one, those of its text."""
        return self._text_model.piece(token, special=True)

    def open(
        self,
        prompt: Prompt | ReadPrompt,
        options: Mapping[str, Any],
        started: float,
        defaults: Defaults,
    ) -> Generator[int, None, AnswerStream]:
        """A stream on a sequence of its own.

        Args:
            prompt: as `Emulator.stream` takes it, or read already, with these options.
            options: as `Emulator.stream` takes them.
            started: time.perf_counter() of the call that asked for it.
            defaults: for those that were not.

        Yields:
            how many tokens of its prompt were scored: other sequences may be decoded now.

        Raises:
            PromptError, UsageError: as `Emulator.stream`.
        """
        most = options.get("max_tokens")
        only_prompt = options.get("prompt_logprobs") is True and type(most) is int and most == 0
        given = checked_all(**{**options, **({"max_tokens": 1} if only_prompt else {})})
        asked = {name: value for name, value in given.items() if value is not None}
        constraint = Constraint.of(asked)
        planner = self._rounds.planner
        recipe = self.checked(asked.get("recipe", defaults.recipe))
        sampling = asked.get("sampling", defaults.sampling)
        drafts = planner.allowed(read_speculation(asked.get("speculation"), defaults.speculation))
        raw, top_logprobs = asked.get("raw", False), asked.get("top_logprobs", 0)
        ignore_end = asked.get("ignore_end", False)
        persona = persona_of(recipe, defaults)
        if raw and persona and PERSONA in recipe.roles:
            raise UsageError("raw text has no system prompt, so no persona; give another recipe")
        if isinstance(prompt, ReadPrompt):
            ids, prompt = prompt.ids, prompt.prompt
        else:
            read = {name: asked[name] for name in PromptOptions.__annotations__ if name in asked}
            ids = self._reader.ids(prompt, persona=persona, **read)
        scored = None
        if asked.get("prompt_logprobs"):
            if not raw and not is_ids(prompt):
                raise UsageError("prompt_logprobs are for raw text or token ids; add raw=True")
            scored = yield from score_prompt(
                self._ensemble,
                ids,
                self._text_role,
                recipe=recipe,
                piece=self.piece,
                spelled=self._reader.spelled,
                top=top_logprobs,
            )
        with ExitStack() as undone:
            mask = None
            if constraint:
                from eftlocal.llama.guide import Guide  # with llguidance, which few need

                mask = Guide(self._text_model, constraint, ends=self._ensemble.stop_tokens)
                undone.callback(mask.close)
            sequence = self._ensemble.open(
                ids,
                mask=mask.allowed if mask else None,
                recipe=recipe,
                sampling=sampling,
                seed=secrets.randbits(32) if sampling.seed is None else sampling.seed,
                speculation=drafts,
                logprobs=asked.get("logprobs", False),
                top_logprobs=top_logprobs,
                drafting=SequenceDrafts(planner.acceptance(recipe, drafts.rule)),
                ends=frozenset() if ignore_end else None,
            )
            undone.callback(self._ensemble.close, sequence)
            generation = Generation(
                self._ensemble,
                sequence,
                piece=self._marks.piece,
                max_tokens=asked.get("max_tokens", defaults.max_tokens),
                stop=(*defaults.stop, *asked.get("stop", ())),
                loop_guard=0 if ignore_end else asked.get("loop_guard", defaults.loop_guard),
            )
            stream = AnswerStream(
                self._rounds,
                generation,
                started=started,
                check=self.checked,
                persona=persona,
                mask=mask,
                prompt=scored,
                marks=self._marks.of(ids),
            )
            undone.pop_all()
            if only_prompt:
                stream.end_with_prompt()
            return stream


def persona_of(recipe: Recipe | None, defaults: Defaults) -> str:
    """What the role persona reads; without a word of the recipe's, that of the defaults."""
    return (recipe.persona_prompt if recipe else "") or defaults.recipe.persona_prompt
