"""A prompt into the token ids that each role is given of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol, cast

from eftlocal.errors import PromptError, UsageError
from eftlocal.prompt.messages import Message, is_ids, validate_ids, validate_prompt
from eftlocal.prompt.render import RolePrompt, RoleText, Segment, raw_text, render_roles

_BYTES = 8  # of a token: a text with fewer for each token of a context may well fit


class Tokenizer(Protocol):
    """As `eftlocal.llama.Model`, with weights or without."""

    @property
    def bos(self) -> int | None: ...

    def tokenize(
        self, text: str, *, parse_special: bool = False, continues: bool = False
    ) -> list[int]: ...

    def at_least(self, size: int) -> int: ...

    def __hash__(self) -> int: ...


class PromptReader:
    """Prompts as each role sees them.

    Args:
        models: role to the model whose tokenizer it reads with.
        prompts: role to how it sees a conversation.
        n_ctx: role to the tokens that its context holds. A text that cannot fit is refused by its
            length: llama.cpp takes minutes to cut some texts of a few megabytes.
    """

    def __init__(
        self,
        models: Mapping[str, Tokenizer],
        prompts: Mapping[str, RolePrompt],
        n_ctx: Mapping[str, int],
        vocab_size: int | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.models = models
        self.prompts = prompts
        self.n_ctx = n_ctx

    def ids(
        self,
        prompt: str | Sequence[Message] | Sequence[int],
        *,
        raw: bool = False,
        special: bool = False,
        continue_last: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> dict[str, list[int]]:
        """The token ids of a prompt, by role; the arguments are those of `Emulator.stream`.

        Raises:
            PromptError: it is empty, not valid or far too long, or a template fails.
            UsageError: raw, and it is a conversation; or an option does not go with the prompt.
        """
        if is_ids(prompt):
            if continue_last or chat_template_kwargs:
                raise UsageError("token ids are read as they stand; leave the prompt's options out")
            ids = validate_ids(prompt, self.vocab_size)
            return {role: list(ids) for role in self.models}
        if special and not raw:
            raise UsageError("special is for raw text; in messages no special token is read")
        if raw and chat_template_kwargs:
            raise UsageError("chat_template_kwargs are for a template, which raw leaves out")
        if isinstance(prompt, str):
            validate_prompt(prompt)
            if raw:
                return {role: self.raw_ids(role, prompt, special=special) for role in self.models}
            prompt = [Message(role="user", content=prompt)]
        elif raw:
            raise UsageError("raw takes a string, not messages")
        texts = render_roles(
            cast(Sequence[Message], prompt),
            self.prompts,
            same_as="tuned" if "tuned" in self.prompts else next(iter(self.prompts)),
            continue_last=continue_last,
            variables=chat_template_kwargs,
        )
        return self._tokens({role: texts[role] for role in self.models})

    def raw_ids(self, role: str, text: str, *, special: bool = False) -> list[int]:
        """The token ids that a role is given of a text as it stands, with BOS where it wants it."""
        return self._tokens({role: raw_text(text, self.prompts[role], special=special)})[role]

    def check_length(self, role: str, text: str, what: str) -> None:
        """Raises PromptError for a text that cannot fit, whatever its tokens."""
        size, n_ctx = len(text.encode("utf-8", "replace")), self.n_ctx[role]
        if size > _BYTES * n_ctx and (least := self.models[role].at_least(size)) >= n_ctx:
            raise PromptError(
                f"the {what} of {role} has {least} tokens or more and its context holds {n_ctx}, "
                f"answer included; shorten the {what} or raise n_ctx"
            )

    def _tokens(self, texts: Mapping[str, RoleText]) -> dict[str, list[int]]:
        @cache  # a file may play several roles, which as a rule read the same text
        def tokens(model: Tokenizer, segment: Segment, continues: bool) -> list[int]:
            return model.tokenize(segment.text, parse_special=segment.special, continues=continues)

        found: dict[str, list[int]] = {}
        for role, text in texts.items():
            model = self.models[role]
            self.check_length(role, str(text), "prompt")
            found[role] = [model.bos] if text.bos and model.bos is not None else []
            for i, segment in enumerate(text.segments):
                found[role] += tokens(model, segment, i > 0)
        return found
