"""Conversations into the text each role reads, special tokens kept apart from what users wrote.

A chat template comes from a model file and is not trusted: it is rendered by `worker`.
The text is returned as segments to be tokenized one after the other with add_special off and
parse_special as the segment says; BOS is part of the text, exactly once where it is wanted.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eftlocal.errors import PromptError, UsageError
from eftlocal.prompt.messages import Message, plain_text, validate_messages
from eftlocal.prompt.worker import TemplateWorker
from eftlocal.terminal_text import one_line

FORMATS = ("chat", "same", "plain")
# Variables of a template that are ours to set; `tools` and `documents` exist as None because
# templates written for transformers test them without asking whether they are defined.
_OWN_VARIABLES = ("messages", "add_generation_prompt", "bos_token", "eos_token")
_worker = TemplateWorker()


@dataclass(frozen=True)
class Segment:
    """Text to tokenize by itself; `special`: whether special tokens' texts become those tokens."""

    text: str
    special: bool


@dataclass(frozen=True)
class RolePrompt:
    """How one role sees a conversation, and what of its model that takes."""

    format: str = "chat"
    """"chat": its model's own template. "same": the very text another role sees. "plain": see
    `plain_text`. Anything else is the source of a template, and must hold `{{` or `{%`."""
    without_system: bool = False
    """Whether system messages are left out for it; a role of format "same" follows the other."""
    template: str | None = None
    """The model's own chat template; None when its file has none."""
    bos_token: str = ""
    """The text of the model's BOS token; empty when it has none."""
    eos_token: str = ""
    """The text of the model's EOS token; empty when it has none."""
    add_bos: bool = False
    """Whether the model wants its input to begin with BOS (`tokenizer.ggml.add_bos_token`)."""
    special_texts: Collection[str] = field(default=frozenset(), repr=False)
    """Texts of the vocabulary's control tokens, which must not be parsed in users' text."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS and "{{" not in self.format and "{%" not in self.format:
            raise UsageError(
                f"prompt format {one_line(self.format, 40)!r} is not known: use "
                f"{', '.join(FORMATS)}, or a chat template's source"
            )


class ChatTemplate:
    """A chat template of a model file, rendered in a sandboxed process.

    `name` says in messages whose template it is.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        name: str = "the chat template",
        worker: TemplateWorker | None = None,
    ) -> None:
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.name = name
        self._worker = worker or _worker

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text the template makes of `messages`.

        `variables`: further JSON values for the template, such as `enable_thinking`.
        Raises PromptError with the template's fault, UsageError for a variable that is not ours
        to take from the caller.
        """
        further = dict(variables or {})
        for key in _OWN_VARIABLES:
            if key in further:
                raise UsageError(f"template variable {key!r} is set by eftlocal: leave it out")
        values = {
            "tools": None,
            "documents": None,
            **further,
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        return self._worker.render(self.source, values, name=self.name)


def render_roles(
    messages: Sequence[Message],
    roles: Mapping[str, RolePrompt],
    *,
    same_as: str = "tuned",
    continue_last: bool = False,
    add_generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> dict[str, list[Segment]]:
    """What each role reads of one conversation.

    `same_as`: whose text a role of format "same" reads. `continue_last`: the last message is the
    assistant's, and its text is the beginning of the answer: every role's text ends with it.
    `variables` are for the templates.

    Raises PromptError when a template fails, when a model has none and "chat" is asked for, or
    when a message holds a special token's text and the template gives no way to keep it apart.
    """
    checked = validate_messages(messages)
    partial = ""
    if continue_last:
        if checked[-1]["role"] != "assistant" or len(checked) == 1:
            raise PromptError(
                "continue_last: the last message must be the assistant's, and follow another"
            )
        partial = checked.pop()["content"]
        add_generation_prompt = True
    if variables and all(role.format == "plain" for role in roles.values()):
        raise UsageError("template variables were given, but no role's prompt is a template")
    texts: dict[str, list[Segment]] = {}  # by owner: a render asks another process
    segments: dict[str, list[Segment]] = {}
    for name, role in roles.items():
        owner = same_as if role.format == "same" else name
        if owner not in roles or roles[owner].format == "same":
            raise UsageError(
                f"prompt format of {name}: 'same' needs a role {same_as!r} with its own format"
            )
        if owner not in texts:
            text = _render_one(owner, roles[owner], checked, add_generation_prompt, variables)
            texts[owner] = _continued(text, partial, roles[owner].special_texts)
        segments[name] = _with_bos(texts[owner], role)
    return segments


def _render_one(
    name: str,
    role: RolePrompt,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    variables: Mapping[str, Any] | None,
) -> list[Segment]:
    if role.without_system:
        messages = [message for message in messages if message["role"] != "system"]
    if role.format == "plain":
        text = plain_text(messages, add_generation_prompt=add_generation_prompt)
        return [Segment(text, special=False)]
    source = role.template if role.format == "chat" else role.format
    if not source:
        raise PromptError(
            f"{name}: its model file has no chat template: give the role a template or the "
            "format 'plain', or pass the prompt as raw text"
        )
    template = ChatTemplate(
        source,
        bos_token=role.bos_token,
        eos_token=role.eos_token,
        name=f"{name}'s chat template",
    )

    def render(contents: Sequence[Message]) -> str:
        return template.render(
            contents, add_generation_prompt=add_generation_prompt, variables=variables
        )

    text = render(messages)
    if not text:
        raise PromptError(f"{template.name} makes an empty text of this conversation")
    # A mark that no file can know stands in the middle of each special token's text that a user
    # wrote. The text is parted there, so everywhere else it is tokenized as it always is.
    mark = secrets.token_hex(16)
    marked = [
        Message(role=m["role"], content=mark.join(_parted(m["content"], role.special_texts)))
        for m in messages
    ]
    changed = [i for i, (a, b) in enumerate(zip(messages, marked, strict=True)) if a != b]
    if not changed:
        return [Segment(text, special=True)]
    pieces = render(marked).split(mark)
    if "".join(pieces) != text:  # the template looks into the content, or changes it
        raise PromptError(
            f"message {changed[0]}: its text holds a special token's text, and {template.name} "
            "gives no way to keep that apart from its own: remove it from the message"
        )
    return [Segment(piece, special=True) for piece in pieces if piece]


def _parted(text: str, special_texts: Collection[str]) -> list[str]:
    """`text` in pieces, none of which holds a special text; as few cuts as that takes.

    A special text of a single character cannot be parted and is left alone.
    """
    found: list[tuple[int, int]] = []  # (end, start) of every occurrence, overlapping ones too
    for special in special_texts:
        start = text.find(special) if len(special) > 1 else -1
        while start >= 0:
            found.append((start + len(special), start))
            start = text.find(special, start + 1)
    cuts = [0]
    for end, start in sorted(found):
        if cuts[-1] <= start:  # the last cut does not part this one
            cuts.append(end - 1)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _continued(
    segments: list[Segment], partial: str, special_texts: Collection[str]
) -> list[Segment]:
    """`segments` with the beginning of the answer as their end."""
    *before, last = segments
    if not last.special:
        return [*before, Segment(last.text + partial, special=False)]
    first, *rest = _parted(partial, special_texts)
    return [*before, Segment(last.text + first, True), *(Segment(p, True) for p in rest)]


def _with_bos(segments: list[Segment], role: RolePrompt) -> list[Segment]:
    """`segments` with BOS at their beginning once, where the template or the model wants it."""
    bos = role.bos_token
    if not bos:
        return segments
    first, *rest = segments
    if not first.special:
        return [Segment(bos, special=True), *segments] if role.add_bos else segments
    text = first.text
    while text.startswith(bos + bos):
        text = text[len(bos) :]
    if role.add_bos and not text.startswith(bos):
        text = bos + text
    return [Segment(text, special=True), *rest]
