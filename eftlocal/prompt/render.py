"""Conversations into the text each role reads.

Special tokens are kept apart from what users wrote.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast

from eftlocal.errors import PromptError, UsageError
from eftlocal.llama.engine import chat_formats, format_chat
from eftlocal.llama.model import Model, parted
from eftlocal.logits.recipe import PERSONA
from eftlocal.prompt.messages import (
    Message,
    check_variables,
    plain_text,
    validate_messages,
)
from eftlocal.prompt.reasoning import told
from eftlocal.prompt.template import ChatTemplate, is_template
from eftlocal.prompt.tool_messages import as_text, has_tools
from eftlocal.prompt.tools import call_format, for_model
from eftlocal.terminal_text import one_line
from eftlocal.thinking import Marks
from eftlocal.tool_calls import CallFormat

FORMATS = ("chat", "same", "plain")

Render = Callable[[Sequence[Message]], str]


@dataclass(frozen=True)
class Segment:
    """Text to tokenize by itself; `special`: whether special tokens' texts become those tokens."""

    text: str
    special: bool


@dataclass(frozen=True)
class RoleText:
    """What a role reads: BOS if `bos`, then the segments, each going on where the last ended."""

    segments: tuple[Segment, ...]
    bos: bool = False

    def __str__(self) -> str:
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True)
class RolePrompt:
    """How one role sees a conversation, and what of its model that takes."""

    format: str = "chat"
    """"chat": its model's own template. "same": the very text another role sees. "plain": see
    `plain_text`. Anything else is a chat format that llama.cpp knows by name, or the source of a
    template, which holds `{{` or `{%`."""
    without_system: bool = False
    """Whether system messages are left out for it; a role of format "same" follows the other."""
    system_in_user: bool = False
    """Whether system messages stand at the beginning of the next user message; not in "plain"."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Variables for its template, such as `enable_thinking`: JSON values."""
    thinking: tuple[str, str] | None = None
    """The texts before and after its thinking, where no template says them."""
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
        check_format(self.format)
        check_variables(self.variables)

    @property
    def source(self) -> str:
        """Of its template, or a chat format's name; empty where its file has none."""
        return (self.template or "").strip() if self.format == "chat" else self.format

    @property
    def marks(self) -> Marks | None:
        """Those of `thinking`."""
        return Marks(*self.thinking) if self.thinking else None

    @property
    def calls(self) -> CallFormat | str:
        """How its template writes calls of tools, or in words why none can be read."""
        return call_format(self.rendered_by("the chat template"), self.variables)

    def rendered_by(self, name: str) -> ChatTemplate:
        """Its template, by this name in messages."""
        return ChatTemplate(self.source, self.bos_token, self.eos_token, name)


def calls_of(name: str, roles: Mapping[str, RolePrompt], model: Model) -> CallFormat:
    """How a role's template writes calls of tools, over the tokens of a model.

    Raises:
        UsageError: it writes none that can be read.
    """
    role = roles[name]
    if role.format == "same":
        role = roles["tuned" if "tuned" in roles else next(iter(roles))]
    if isinstance(found := role.calls, str):
        raise UsageError(f"tools: the chat template of {name} {found}; leave out what is of tools")
    return for_model(found, model)


def template_problem(source: str | None) -> str:
    """Why the chat template of a model file renders nothing; empty where it does."""
    source = (source or "").strip()
    if not source:
        return "its model file has no chat template"
    if is_template(source) or source in chat_formats():
        return ""
    return f"the chat template in its model file is only the text {one_line(source, 40)!r}"


def check_format(format: str) -> None:
    """Raises UsageError for what is neither a prompt format nor a template's source."""
    if is_template(format) or format in FORMATS or format in chat_formats():
        return
    near = get_close_matches(format, (*FORMATS, *chat_formats()), 1)
    advice = f"did you mean {near[0]}?" if near else f"use {', '.join((*FORMATS, *chat_formats()))}"
    raise UsageError(
        f"{one_line(format, 40)!r} is neither a prompt format nor a template; {advice}"
    )


def render_roles(
    messages: Sequence[Message],
    roles: Mapping[str, RolePrompt],
    *,
    same_as: str = "tuned",
    continue_last: bool = False,
    variables: Mapping[str, Any] | None = None,
    persona: str = "",
) -> dict[str, RoleText]:
    """What each role reads of one conversation.

    `same_as`: whose text a role of format "same" reads. `continue_last`: the last message is the
    assistant's, and its text is the beginning of the answer: every role's text ends with it.
    `variables` are for the templates, on top of each role's own. `persona` is a system prompt that
    only the role of this name reads.

    Raises PromptError when a template fails or leaves a message out, when a model has none and
    "chat" is asked for, or when a message holds a special token's text and the template gives no
    way to keep it apart.
    """
    checked = validate_messages(messages)
    check_variables(variables or {})
    partial = ""
    if continue_last:
        if checked[-1]["role"] != "assistant" or len(checked) == 1:
            raise PromptError(
                "continue_last: the last message must be the assistant's, and follow another"
            )
        if checked[-1].get("tool_calls"):
            raise PromptError("continue_last: the last message has calls, which are whole")
        partial = checked.pop()["content"]
    given = bool(variables) or any(role.variables for role in roles.values())
    if given and not any(is_template(role.source) for role in roles.values()):
        raise UsageError("chat_template_kwargs: no role's prompt is a template; leave them out")
    # By owner, and the persona that is told: a render asks another process.
    texts: dict[tuple[str, str], list[Segment]] = {}
    found: dict[str, RoleText] = {}
    for name, role in roles.items():
        owner = same_as if role.format == "same" else name
        if owner not in roles or roles[owner].format == "same":
            raise UsageError(
                f"prompt format of {name}: 'same' needs a role {same_as!r} with its own format"
            )
        key = owner, persona if name == PERSONA else ""
        if key not in texts:
            text = _render_one(owner, roles[owner], checked, variables, key[1])
            texts[key] = _continued(text, partial, roles[owner].special_texts)
        found[name] = _with_bos(texts[key], role)
    return found


def raw_text(text: str, role: RolePrompt, *, special: bool = False) -> RoleText:
    """What a role reads of a text as it stands.

    `special`: texts of special tokens become those tokens.
    """
    return _with_bos([Segment(text, special)], role)


def special_note(special_text: str) -> str:
    """What to say of raw text in which that text stands."""
    return (
        f"{one_line(special_text, 40)} in the prompt is read as plain text; "
        "use --special (in Python special=True) to parse it as a special token"
    )


def system_into_user(messages: Sequence[Message]) -> list[Message]:
    """The conversation with each system message at the beginning of the next user message.

    One that no user message follows becomes a user message.
    """
    told: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting += [message["content"]] if message["content"].strip() else []
        elif message["role"] == "user" and waiting:
            told.append(Message(role="user", content="\n\n".join([*waiting, message["content"]])))
            waiting = []
        else:
            told.append(message)
    if waiting:
        told.append(Message(role="user", content="\n\n".join(waiting)))
    return told


def _with_persona(messages: Sequence[Message], persona: str) -> list[Message]:
    """The conversation with the persona at the end of its system prompt."""
    system, rest = "", messages
    if messages[0]["role"] == "system":
        system, rest = messages[0]["content"], messages[1:]
    content = f"{system}\n\n{persona}" if system.strip() else persona
    return [Message(role="system", content=content), *rest]


def _render_one(
    name: str,
    role: RolePrompt,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None,
    persona: str,
) -> list[Segment]:
    if role.without_system:
        messages = [message for message in messages if message["role"] != "system"]
    if persona:
        messages = _with_persona(messages, persona)
    if has_tools(messages) and isinstance(role.calls, str):
        messages = cast(list[Message], as_text(messages))
    template = role.source if is_template(role.source) else ""
    messages = cast(list[Message], told(messages, template, role.special_texts))
    if role.format == "plain":
        text = plain_text(messages)
        return [Segment(text, special=False)]
    if role.system_in_user:
        messages = system_into_user(messages)
    whose, render = _renderer(name, role, variables)
    # A template that a person gave for a role may mean to show it less.
    kept = ("user",) if is_template(role.format) else ("user", "system")
    text = _rendered(whose, render, messages, kept)
    # A mark that no file can know stands in the middle of each special token's text that a user
    # wrote. The text is parted there, so everywhere else it is tokenized as it always is.
    mark = secrets.token_hex(16)
    special, tools = role.special_texts, (variables or {}).get("tools")
    marked = [{**_marked(m, mark, special), "role": m["role"]} for m in messages]
    marked_tools = _marked(tools, mark, special)
    changed = [f"message {i}" for i, m in enumerate(messages) if m != marked[i]]
    changed += ["tools"] if marked_tools != tools else []
    if not changed:
        return [Segment(text, special=True)]
    if tools:
        _, render = _renderer(name, role, {**(variables or {}), "tools": marked_tools})
    pieces = render(cast(list[Message], marked)).split(mark)
    if "".join(pieces) != text:  # the template looks into the content, or changes it
        raise PromptError(
            f"{changed[0]}: it contains the text of a special token, which {whose} "
            "would not keep apart from its own: remove it"
        )
    return [Segment(piece, special=True) for piece in pieces if piece]


def _marked(value: Any, mark: str, special_texts: Collection[str]) -> Any:
    """A JSON value with the mark in the middle of each special token's text."""
    if isinstance(value, str):
        return mark.join(parted(value, special_texts))
    if isinstance(value, Mapping):
        return {
            _marked(key, mark, special_texts): _marked(one, mark, special_texts)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_marked(one, mark, special_texts) for one in value]
    return value


def _renderer(
    name: str,
    role: RolePrompt,
    variables: Mapping[str, Any] | None,
) -> tuple[str, Render]:
    """What to call a role's template in messages, and what renders it."""
    source = role.source
    if problem := template_problem(source):
        raise PromptError(
            f"{name}: {problem}; give one with --chat-template "
            f"{name}=FILE, or {name}=plain, or a name such as {name}=chatml (in Python "
            f"prompts={{{name!r}: 'chatml'}}); or pass the prompt as raw text"
        )
    if is_template(source):
        whose = f"{name}'s chat template"
        template = role.rendered_by(whose)
        given = {**role.variables, **(variables or {})}
        return whose, lambda messages: template.render(messages, given)
    return f"{name}'s chat format {source}", lambda messages: format_chat(source, messages)


def _rendered(
    whose: str, render: Render, messages: Sequence[Message], kept: Collection[str]
) -> str:
    """The text of the messages; the user's last one and any of the system's must be there.

    `kept`: whose messages are looked for.
    """
    instructed = any(message["role"] == "system" for message in messages)
    try:
        text = render(messages)
    except PromptError as error:
        if instructed and _renders(render, system_into_user(messages)):
            raise PromptError(f"{error}; {_SYSTEM_IN_USER}") from None
        raise
    if not text:
        raise PromptError(f"{whose} renders this conversation as an empty text")
    asked = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    for i, message in enumerate(messages):
        wanted = message["role"] in kept and (message["role"] == "system" or i == asked)
        if not wanted or message["content"].strip() in text:
            continue
        other = [*messages[:i], {**message, "content": secrets.token_hex(16)}]
        if render([*other, *messages[i + 1 :]]) == text:  # type: ignore[list-item]
            advice = "give another template with --chat-template"
            if message["role"] == "system":
                advice = _SYSTEM_IN_USER
            raise PromptError(f"{whose} leaves out message {i}, the {message['role']}'s; {advice}")
    return text


_SYSTEM_IN_USER = (
    "add --system-in-user (in Python and presets system_in_user) to put the system message at the "
    "start of the user's"
)


def _renders(render: Render, messages: Sequence[Message]) -> bool:
    try:
        return bool(render(messages))
    except PromptError:
        return False


def _continued(
    segments: Sequence[Segment], partial: str, special_texts: Collection[str]
) -> list[Segment]:
    """`segments`, and the beginning of the answer, whose tokens follow theirs as when it came."""
    special = segments[-1].special
    pieces = parted(partial, special_texts) if special else [partial]
    return [*segments, *(Segment(piece, special) for piece in pieces if piece)]


def _with_bos(segments: Sequence[Segment], role: RolePrompt) -> RoleText:
    """BOS once, where the template or the model wants it."""
    bos, (first, *rest) = role.bos_token, segments
    text, written = first.text, False
    while bos and first.special and text.startswith(bos):
        text, written = text[len(bos) :], True
    if written:
        segments = [Segment(text, True), *rest] if text else rest
    return RoleText(tuple(segments), role.add_bos or written)
