"""What an engine is asked becomes a request and its prompts' tokens: in any thread, beside the
rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from eftlocal.emulator import Emulator
from eftlocal.errors import UsageError
from eftlocal.loading.roles import text_role
from eftlocal.logits.recipe import UNGUIDED, Recipe
from eftlocal.opener import persona_of
from eftlocal.prompt.messages import Prompt
from eftlocal.prompt.reader import ReadPrompt
from eftlocal.prompt.render import calls_of
from eftlocal.request import Request, RequestDefaults, read_request
from eftlocal.request_tools import FormatOf
from eftlocal.sources import Sources

MAX_TOLD = 1 << 22  # tokens in one reply, those of top_logprobs among them


class Reading:
    """Reads what is asked of one emulator.

    Args:
        sources: that it was loaded from.
    """

    def __init__(self, emulator: Emulator, sources: Sources) -> None:
        self._emulator = emulator
        told = text_role(emulator.models)  # whose template the answer follows
        self._defaults = RequestDefaults(
            emulator.defaults,
            roles=emulator.roles,
            vocab_size=emulator.ensemble.vocab_size,
            unguided_by_system=UNGUIDED in emulator.roles and UNGUIDED not in sources.roles,
            call_format=self._calls_of(told),
        )
        self._fit = min(context.n_ctx for context in emulator.ensemble.contexts.values())

    def request(self, said: Mapping[str, Any]) -> Request:
        """What a line asks for.

        Raises:
            UsageError, PromptError: one line that names the field.
        """
        role, defaults = said["role"], self._defaults
        if not role:
            request = read_request(said["body"], defaults=defaults, raw=said["raw"])
            self._check_size(request)
            return request
        alone = Recipe.single(role)
        answer, calls = replace(defaults.answer, recipe=alone), self._calls_of(role)
        defaults = replace(defaults, answer=answer, call_format=calls)
        request = read_request(said["body"], defaults=defaults, raw=said["raw"])
        if request.recipe is not None:
            raise UsageError(
                f"model :{role} is one model by itself and has no dials of a recipe; leave them "
                "out, or ask the emulation"
            )
        self._check_size(request)
        return replace(request, recipe=alone)

    def prompt(self, prompt: Prompt, request: Request) -> ReadPrompt:
        """The tokens of one of its prompts.

        Raises:
            PromptError, UsageError: see `PromptReader.ids`.
        """
        persona = persona_of(request.recipe, self._emulator.defaults)
        ids = self._emulator.reader.ids(
            prompt,
            raw=request.raw,
            special=request.special,
            chat_template_kwargs=request.chat_template_kwargs,
            persona=persona,
        )
        return ReadPrompt(prompt, ids)

    def _calls_of(self, role: str) -> FormatOf:
        return partial(calls_of, role, self._emulator.prompts, self._emulator.text_model)

    def _check_size(self, request: Request) -> None:
        """Refuses more log-probabilities than memory should be taken for; without them a token of
        an answer counts as one."""
        fit = self._fit
        asked = request.max_tokens
        most = self._emulator.defaults.max_tokens if asked is None else asked
        count = len(request.prompts) * request.n * min(fit, fit if most is None else most)
        if request.echo:
            count += sum(min(fit, len(prompt)) for prompt in request.prompts)
        if (count := count * (1 + request.top_logprobs)) > MAX_TOLD:
            raise UsageError(
                f"up to {count} tokens would be told, those of top_logprobs among them, and "
                f"{MAX_TOLD} are the most; ask for fewer answers, max_tokens or top_logprobs"
            )
