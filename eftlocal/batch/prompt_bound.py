"""Does a prompt fit, does a constraint compile? Told by tokenizers, before any weights are loaded.

Tokens never outnumber the bytes of their text, so most prompts are known to fit by their length
and are not tokenized: what a template adds is measured once for each order of roles.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, cast

from eftlocal.batch.lines import Line
from eftlocal.constraint import Constraint
from eftlocal.decoding.sequence import check_length
from eftlocal.errors import PromptError, UsageError
from eftlocal.llama import Model
from eftlocal.llama.model import special_text_in
from eftlocal.loading.loader import Prepared, role_prompt
from eftlocal.loading.roles import DEFAULT_N_CTX, text_role
from eftlocal.loading.tokenizers import tokenizers
from eftlocal.logits.recipe import TUNED, Recipe
from eftlocal.prompt.messages import Message
from eftlocal.prompt.reader import PromptReader
from eftlocal.prompt.render import RolePrompt, calls_of, render_roles
from eftlocal.prompt.tool_messages import has_tools
from eftlocal.request import Prompt, Request

_AROUND = 4  # tokens beside those of the text: BOS, a space put before it
_ODD = "\ufdfa" * 8 + "\u00bd" * 8  # a tokenizer that rewrites its text makes these longer
_MARKS = '"\\\n<&>\téA'  # a template that rewrites contents changes some of these


class PromptBound:
    """Says of a line what only a tokenizer knows. Used from one thread at a time.

    Args:
        models: by role; without weights is enough.
        prompts: how each role sees a conversation.
        n_ctx: tokens that each role's context holds, the answer's included.
        persona: of lines that give none.
        others: roles that have another vocabulary than answers.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        prompts: Mapping[str, RolePrompt],
        n_ctx: Mapping[str, int],
        persona: str = "",
        others: Collection[str] = (),
    ) -> None:
        self._text_model = models[text_role(models, others)]
        self._others = others
        self._reader = PromptReader(
            models, prompts, n_ctx, text_model=self._text_model, others=others
        )
        self._prompts = prompts
        self._n_ctx = n_ctx
        self._persona = persona
        self._least = min(n_ctx.values())
        self._bounded = all(len(m.tokenize(_ODD)) <= _bytes(_ODD) + 1 for m in models.values())
        texts = {text for prompt in prompts.values() for text in prompt.special_texts}
        self._special_texts = texts
        self._first = {text[0] for text in texts if len(text) > 1}
        self.special_text = ""  # that a raw prompt held as ordinary text, the first one found
        self._added = lru_cache(maxsize=4096)(self._measure)
        self.check_constraint = lru_cache(maxsize=64)(self._check_constraint)
        self.call_format = lru_cache(maxsize=1)(
            partial(calls_of, text_role(models), prompts, self._text_model)
        )

    def __call__(self, line: Line) -> str | None:
        """What is wrong with a line's prompt or constraint; None where nothing is."""
        request = line.request
        try:
            self.check_constraint(request.constraint)
            for prompt in request.prompts:
                self._check_prompt(prompt, request)
        except (PromptError, UsageError) as error:
            return str(error)
        return None

    def _check_prompt(self, prompt: Prompt, request: Request) -> None:
        if request.raw and not request.special and isinstance(prompt, str):
            self._look_for_special(prompt)
        persona = request.recipe.persona_prompt if request.recipe else ""
        persona = persona or self._persona
        if self._bound(prompt, request.raw, request.chat_template_kwargs, persona) < self._least:
            return
        ids = self._reader.ids(
            prompt,
            raw=request.raw,
            special=request.special,
            chat_template_kwargs=request.chat_template_kwargs,
            persona=persona,
        )
        for role, n_ctx in self._n_ctx.items():
            check_length(role, ids[role], n_ctx)

    def _look_for_special(self, text: str) -> None:
        if not self.special_text and any(first in text for first in self._first):
            self.special_text = special_text_in(text, self._special_texts)

    def _bound(
        self,
        prompt: Prompt,
        raw: bool,
        variables: Mapping[str, Any] | None = None,
        persona: str = "",
    ) -> float:
        """At least the tokens of any role's prompt; inf where only tokenizing tells."""
        if not self._bounded:
            return float("inf")
        if raw:
            if isinstance(prompt, str):
                return _bytes(prompt) + _AROUND
            return float("inf") if self._others else len(prompt)
        messages = cast(Sequence[Message], prompt)
        if isinstance(prompt, str):
            messages = [Message(role="user", content=prompt)]
        if has_tools(messages) or "tools" in (variables or {}):
            return float("inf")
        order = tuple(message["role"] for message in messages)
        told = json.dumps(variables, sort_keys=True) if variables else "{}"
        added = self._added(order, told, persona)
        return added + sum(_bytes(message["content"]) for message in messages)

    def _measure(self, order: tuple[str, ...], variables: str, persona: str) -> float:
        """Bytes that templates and the persona add to contents; inf where a template does not show
        each as it stands.

        Args:
            variables: of the templates, as JSON.

        Raises:
            PromptError: a template refuses this order of roles.
        """
        nonces = [f"{secrets.randbelow(10**16):016}" for _ in order]
        contents = [f"{nonce}{_MARKS}{nonce}" for nonce in nonces]
        messages: list[Message] = [
            {"role": role, "content": content}  # type: ignore[typeddict-item]
            for role, content in zip(order, contents, strict=True)
        ]
        same_as = TUNED if TUNED in self._prompts else next(iter(self._prompts))
        most = 0
        told = render_roles(
            messages,
            self._prompts,
            same_as=same_as,
            variables=json.loads(variables),
            persona=persona,
        )
        for role_text in told.values():
            text = str(role_text)
            added = _bytes(text) + _AROUND
            for nonce, content in zip(nonces, contents, strict=True):
                if text.count(content) > 1 or text.count(nonce) != 2 * text.count(content):
                    return float("inf")
                added -= _bytes(content) * text.count(content)
            most = max(most, added)
        return float(most)

    def _check_constraint(self, constraint: Constraint | None) -> None:
        """Raises UsageError for what llguidance refuses."""
        if constraint is not None:
            from eftlocal.llama.guide import Guide  # with llguidance, which few need

            Guide(self._text_model, constraint).close()


@contextmanager
def prompt_bound(prepared: Prepared, recipe: Recipe) -> Iterator[PromptBound]:
    """The bound of these roles, from the vocabularies of their files.

    Args:
        recipe: of lines that give none.

    Raises:
        ModelFileError: llama.cpp refuses a file.
    """
    sources = prepared.sources
    with tokenizers(sources) as models:
        yield PromptBound(
            models,
            {role: role_prompt(source, models[role]) for role, source in sources.items()},
            {role: source.n_ctx or DEFAULT_N_CTX for role, source in sources.items()},
            recipe.persona_prompt,
            prepared.others,
        )


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
