"""Prompts and texts into token ids, by role."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from eftlocal.errors import PromptError, TooLongError, UsageError
from eftlocal.llama.model import Model
from eftlocal.prompt.messages import Message, Prompt, is_ids, validate_ids, validate_prompt
from eftlocal.prompt.render import RolePrompt, RoleText, Segment, raw_text, render_roles
from eftlocal.terminal_text import shown

_BYTES = 8  # of a token: a text with fewer for each token of a context may well fit


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt, and the token ids of it that each role is given."""

    prompt: Prompt
    ids: Mapping[str, list[int]]


@dataclass(frozen=True)
class PromptReader:
    """Prompts as each role sees them.

    Attributes:
        models: role to the model whose tokenizer it reads with; without weights is enough.
        prompts: role to how it sees a conversation.
        n_ctx: role to the length of its context in tokens. A text that cannot fit is refused by
            its length: llama.cpp takes minutes to tokenize some texts of a few megabytes.
        vocab_size: ids below it are tokens; None leaves given ids unchecked.
        text_model: whose tokens answers, and given ids, are.
        others: roles that have another vocabulary.
    """

    models: Mapping[str, Model]
    prompts: Mapping[str, RolePrompt]
    n_ctx: Mapping[str, int]
    vocab_size: int | None = None
    text_model: Model | None = None
    others: Collection[str] = frozenset()

    def ids(
        self,
        prompt: Prompt,
        *,
        raw: bool = False,
        special: bool = False,
        continue_last: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        persona: str = "",
    ) -> dict[str, list[int]]:
        """The token ids of a prompt, by role; the arguments are those of `Emulator.stream`.

        Args:
            persona: of a conversation, what the role of this name reads besides.

        Raises:
            PromptError: it is empty, not valid or far too long, or a template fails.
            UsageError: raw, and it is a conversation; or an option does not go with the prompt.
        """
        if not isinstance(prompt, (str, Sequence)) or isinstance(prompt, bytes):
            raise PromptError(
                f"the prompt is {shown(prompt)}; it must be a string or a list of messages"
            )
        if is_ids(prompt):
            if continue_last or chat_template_kwargs:
                raise UsageError(
                    "token ids are used as they are; leave the other options of the prompt out"
                )
            ids = validate_ids(prompt, self.vocab_size)
            return self.spelled(ids)
        if special and not raw:
            raise UsageError(
                "special is for raw text: in messages, special tokens are never parsed"
            )
        if raw and chat_template_kwargs:
            raise UsageError("chat_template_kwargs are for a chat template, and raw text has none")
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
            persona=persona,
        )
        return self._tokens({role: texts[role] for role in self.models})

    def raw_ids(self, role: str, text: str, *, special: bool = False) -> list[int]:
        """The token ids that a role is given of a text as it stands, with BOS where it wants it."""
        return self._tokens({role: raw_text(text, self.prompts[role], special=special)})[role]

    def spelled(self, ids: Sequence[int]) -> dict[str, list[int]]:
        """Given ids by role: as they are, or in another vocabulary their text with BOS."""
        found = {role: list(ids) for role in self.models}
        for role in self.others:
            assert self.text_model is not None
            data = b"".join(map(self.text_model.piece, ids))
            found[role] = self.raw_ids(role, data.decode("utf-8", "replace"))
            if not found[role]:  # it wants no BOS, and needs something before the first token
                eos = self.models[role].eos
                found[role] = [] if eos is None else [eos]
        return found

    def scored_ids(
        self, text: str, role: str, prompt: Prompt | None, **options: Any
    ) -> tuple[dict[str, list[int]], list[int], list[int]]:
        """A text that is to be scored, after a prompt or by itself.

        Args:
            role: whose tokens the text is.
            options: those of `ids`; special is of the text, too.

        Returns:
            the prompt's token ids by role; the text's, of which the prompts have none; and the
            first of the text where the prompts are that: nothing predicts it.

        Raises:
            PromptError: there is nothing to score, or as `ids`.
        """
        special, model = options.get("special", False), self.models[role]
        first: list[int] = []
        if prompt is None:
            whole = self.raw_ids(role, text, special=special)
            ids, tokens = self.spelled(whole[:1]), whole[1:]
            if whole[:1] != [model.bos]:
                first = whole[:1]
        else:
            ids = self.ids(prompt, **{**options, "special": special and options.get("raw", False)})
            self.check_length(role, text, "text")
            tokens = model.tokenize(text, parse_special=special, continues=True)
        if not tokens:
            raise PromptError(
                "there is no token to score; give a longer text, or a prompt before it"
            )
        return ids, tokens, first

    def check_length(self, role: str, text: str, what: str) -> None:
        """Raises PromptError for a text that cannot fit, whatever its tokens."""
        size, n_ctx = len(text.encode("utf-8", "replace")), self.n_ctx[role]
        if size > _BYTES * n_ctx and (least := self.models[role].at_least(size)) >= n_ctx:
            raise TooLongError(
                f"the {what} of {role} has {least} tokens or more and its context holds {n_ctx}, "
                f"answer included; shorten the {what} or raise n_ctx",
                role,
                least,
            )

    def _tokens(self, texts: Mapping[str, RoleText]) -> dict[str, list[int]]:
        @cache  # a file may play several roles, which as a rule read the same text
        def tokens(model: Model, segment: Segment, continues: bool) -> list[int]:
            return model.tokenize(segment.text, parse_special=segment.special, continues=continues)

        found: dict[str, list[int]] = {}
        for role, text in texts.items():
            model = self.models[role]
            self.check_length(role, str(text), "prompt")
            found[role] = [model.bos] if text.bos and model.bos is not None else []
            for i, segment in enumerate(text.segments):
                found[role] += tokens(model, segment, i > 0)
        return found
