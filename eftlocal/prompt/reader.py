"""A prompt into the token ids that each role is given of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol

from eftlocal.errors import UsageError
from eftlocal.prompt.messages import Message, validate_prompt
from eftlocal.prompt.render import RolePrompt, Segment, render_roles


class Tokenizer(Protocol):
    """As `eftlocal.llama.Model`, with weights or without."""

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]: ...

    def __hash__(self) -> int: ...


class PromptReader:
    """Prompts as each role sees them.

    Args:
        models: role to the model whose tokenizer it reads with.
        prompts: role to how it sees a conversation.
    """

    def __init__(self, models: Mapping[str, Tokenizer], prompts: Mapping[str, RolePrompt]) -> None:
        self.models = models
        self.prompts = prompts

    def ids(
        self,
        prompt: str | Sequence[Message],
        *,
        raw: bool = False,
        continue_last: bool = False,
    ) -> dict[str, list[int]]:
        """The token ids of a prompt, by role; the arguments are those of `Emulator.stream`.

        Raises:
            PromptError: it is empty or not valid, or a template fails.
            UsageError: raw, and it is a conversation.
        """
        if isinstance(prompt, str):
            validate_prompt(prompt)
            if raw:
                return {r: m.tokenize(prompt, add_special=True) for r, m in self.models.items()}
            prompt = [{"role": "user", "content": prompt}]
        elif raw:
            raise UsageError("raw takes a string, not messages")
        texts = render_roles(
            prompt,
            self.prompts,
            same_as="tuned" if "tuned" in self.prompts else next(iter(self.prompts)),
            continue_last=continue_last,
        )

        @cache  # a file may play several roles, which as a rule read the same text
        def tokens(model: Tokenizer, segment: Segment) -> list[int]:
            return model.tokenize(segment.text, parse_special=segment.special)

        return {
            role: [token for segment in texts[role] for token in tokens(model, segment)]
            for role, model in self.models.items()
        }
