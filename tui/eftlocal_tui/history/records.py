"""What the history gives out: conversations, turns, and what an answer was made with. Immutable.

Times are POSIX seconds. The pydantic models are also what a file to import must hold.

Texts may be any Python string. SQLite's functions end a text at a NUL, and UTF-8 has no lone
surrogates. `stored` writes both as U+0010 (data link escape) and four hexadecimal digits, and so
U+0010 itself: nothing is lost, and the file stays readable for every other program.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from eftlocal.terminal_text import one_line
from eftlocal.thinking import Marks, Parts, parts

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SPECIAL = re.compile("[\x00\x10\ud800-\udfff]")
_ESCAPE = re.compile("\x10([0-9a-f]{4})")


def stored(text: str) -> str:
    """The text as the database keeps it. A surrogate pair becomes its character."""
    if _SPECIAL.search(text) is None:
        return text
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _SPECIAL.sub(lambda special: f"\x10{ord(special[0]):04x}", text)


def loaded(text: str) -> str:
    """What `stored` made, undone."""
    if "\x10" not in text:
        return text
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)


def excerpt(text: str, limit: int) -> str:
    """The beginning of a text as one line for the screen, cut at a word if possible."""
    line = one_line(text, limit)
    if len(line) < limit or not line.endswith("…"):
        return line
    space = line.rfind(" ", limit // 2)
    return f"{line[:space]}…" if space > 0 else line


if TYPE_CHECKING:
    from eftlocal.answer import Answer
    from eftlocal.logits.recipe import Recipe
    from eftlocal.logits.sampling import Sampling
    from eftlocal.speculation.settings import Speculation

Role = Literal["user", "assistant"]
State = Literal["streaming", "done", "stopped", "error"]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a string is needed, not {type(value).__name__}")
    return value


def _values(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"an object is needed, not {type(value).__name__}")
    return {_text(key): _value(key, inner) for key, inner in value.items()}


def _value(key: str, value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict) and depth == 0:
        return {_text(inner): _value(inner, value[inner], 1) for inner in value}
    whole = isinstance(value, int) and -(2**63) <= value < 2**63
    number = isinstance(value, float) and math.isfinite(value)
    if value is None or isinstance(value, (str, bool)) or whole or number:
        return value
    raise ValueError(f"{key!r} must be a string, a number, true, false, null or an object of these")


Text = Annotated[str, PlainValidator(_text)]  # pydantic's own refuses lone surrogates
Values = Annotated[dict[str, Any], PlainValidator(_values)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(ge=0)]
Time = Annotated[float, Field(ge=0, le=253402300799)]  # to the end of the year 9999


class Record(BaseModel):
    """Strict: no unknown keys, no conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Thinks(Record):
    """How thinking is marked in an answer's text: see `eftlocal.thinking.Marks`."""

    opens: Text
    closes: Text
    opened: bool = False
    wraps: Annotated[tuple[Text, ...], Field(strict=False)] = ()

    @property
    def marks(self) -> Marks:
        return Marks(self.opens, self.closes, self.opened, self.wraps)


class Thought(Record):
    """What thinking took: tokens, its marks included, and seconds."""

    tokens: Count
    seconds: Number


_NEWER = ("thinking", "system", "beside")


class _MaySay(Record):
    """Where nothing is said of them, newer keys are not written: earlier versions read that."""

    @model_serializer(mode="wrap")
    def _plain(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = serialize(self)
        return {k: v for k, v in data.items() if k not in _NEWER or v is not None}


class Settings(_MaySay):
    """What an answer was begun with.

    `thinking` is None where its marks are usual ones that stand in the text.
    `recipe`, `sampling` and `speculation` are names with strings, numbers, booleans, None or one
    more such table: see `values_of`. `system` is the system prompt, where that is known.
    """

    preset: Text | None = None
    system: Text | None = None
    recipe: Values = Field(default_factory=dict)
    sampling: Values = Field(default_factory=dict)
    speculation: Values = Field(default_factory=dict)
    seed: Count | None = None
    thinking: Thinks | None = None


class Figures(_MaySay):
    """What an answer took: tokens, seconds by the wall clock, tokens per second after the first.

    acceptance is the share of the judged draft tokens that were accepted; None without drafts.
    thinking is a part of the whole.
    beside: how many other answers took turns with this one; its seconds are theirs, too.
    """

    tokens: Count
    seconds: Number
    first_token: Number
    tokens_per_second: Number
    acceptance: Annotated[float, Field(ge=0, le=1)] | None = None
    prompt_tokens: Count | None = None
    thinking: Thought | None = None
    beside: Count | None = None


class Mark(Record):
    """A dial changed inside an answer: after so many tokens, at this offset in its text."""

    token: Count
    char: Count
    what: Text


class Conversation(Record):
    """A conversation as a list shows it.

    Attributes:
        turns: how many there are, on all branches.
        snippet: the beginning of the current leaf's text as one printable line.
        leaf: the turn that the conversation was left at; None while it is empty.
    """

    id: Count
    title: Text
    system: Text
    archived: bool
    created: Time
    updated: Time
    turns: Count
    snippet: Text
    leaf: Count | None


class SavedTurn(Record):
    """A question or an answer, one node of a conversation's tree, as a file has it.

    Attributes:
        parent: the turn that it follows; None begins the conversation.
        text: as it came, control characters included: what shows it makes it harmless.
        state: of an answer; a question is "done".
        closed: when the answer ended; None while it streams and when its process died.
        visited: rises each time that a turn becomes its conversation's current leaf: the largest
            is the current leaf, the largest below a turn is where its branch was left. Larger
            than the parent's.
        begins_at: of what follows this turn, what is sent to the models begins at that one, which
            is this turn or one above it; None where nothing is said here. See `parts.sent_from`.
        summary: it asks for a summary; once that is there, what is sent begins here.
    """

    id: Count
    parent: Count | None
    role: Role
    text: Text
    state: Literal["done", "stopped", "error"]
    created: Time
    visited: Annotated[int, Field(ge=1, lt=2**62)]
    closed: Time | None = None
    finish_reason: Text | None = None
    error: Text | None = None
    settings: Settings | None = None
    figures: Figures | None = None
    marks: Annotated[tuple[Mark, ...], Field(strict=False)] = ()
    begins_at: Count | None = None
    summary: bool = False

    @property
    def parts(self) -> Parts:
        """Which part of an answer's text is thinking; of a question nothing is."""
        if self.role == "user":
            return Parts(None, slice(0, len(self.text)))
        return parts(self.text, self.marks_of_thinking)

    @property
    def marks_of_thinking(self) -> Marks | None:
        """Where they are not those that the text itself begins with."""
        thinks = self.settings.thinking if self.settings else None
        return thinks.marks if thinks else None

    @property
    def answer(self) -> str:
        """The text without its thinking."""
        return self.text[self.parts.answer]

    @property
    def read(self) -> list[slice]:
        """The parts of the text that a person reads: the answer, and what thinking there is."""
        found = self.parts
        return [found.answer, *([found.thinking] if found.thinking else [])]

    @model_validator(mode="after")
    def _question(self) -> SavedTurn:
        answers = (self.finish_reason, self.error, self.settings, self.figures, *self.marks)
        if self.role == "user" and (self.state != "done" or any(a is not None for a in answers)):
            raise ValueError("a question is done, and only answers have settings or figures")
        if self.role == "assistant" and self.summary:
            raise ValueError("only a question asks for a summary")
        return self


class Turn(SavedTurn):
    """A turn in its place among the others.

    Attributes:
        state: also "streaming", of an answer that a living process is writing.
        branch: which of its `branches` siblings it is, from 1, in the order they were made.
    """

    state: State  # type: ignore[assignment]  # wider than in a file
    conversation: Count
    branch: Count = 1
    branches: Count = 1


class Place(NamedTuple):
    """Where a search found its words: in so many turns of a conversation, of which this is the
    newest; or (turn None) in its title, and in so many turns."""

    conversation: int
    turn: int | None
    turns: int


@dataclass(frozen=True)
class Draft:
    """What is typed in a conversation and not sent.

    Attributes:
        text: of the next message.
        editing: the turn that is being edited beside it, if any.
        edited: that turn's new text so far.
    """

    text: str = ""
    editing: int | None = None
    edited: str = ""


@dataclass(frozen=True)
class Hit:
    """A `Place` as a list shows it.

    `excerpt` is one printable line; `spans` are the (start, end) of the words in it.
    """

    conversation: Conversation
    turn: int | None
    role: Role | None
    excerpt: str
    spans: tuple[tuple[int, int], ...]
    turns: int


def as_read(text: str, settings: str | None) -> tuple[str, str]:
    """Of an answer's row, the answer and its thinking, without the marks between them."""
    thinks = json.loads(settings).get("thinking") if settings else None
    found = parts(text, Thinks(**thinks).marks if thinks else None)
    return text[found.answer], text[found.thinking] if found.thinking else ""


def column(value: Any) -> Any:
    """A value of a turn or a conversation as its column keeps it."""
    if isinstance(value, str):
        return stored(value)
    if isinstance(value, Record):
        return json.dumps(value.model_dump(exclude_defaults=True))
    if isinstance(value, (tuple, list)):
        return json.dumps([record.model_dump() for record in value]) if value else None
    return value


def values_of(settings: Sampling | Speculation | Recipe) -> dict[str, Any]:
    """A dataclass (Sampling, Speculation, Recipe) as `Settings` takes it.

    An infinite number becomes "inf" or "-inf", a key that is not a string becomes one.
    """
    return {field.name: _plain(getattr(settings, field.name)) for field in fields(settings)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def figures_of(answer: Answer) -> Figures:
    """The figures of an answer; its prompt's tokens are those of the longest prompt."""
    timing = answer.timing
    return Figures(
        tokens=timing.tokens,
        seconds=timing.seconds,
        first_token=timing.first_token,
        tokens_per_second=timing.tokens_per_second,
        acceptance=answer.speculation.acceptance,
        prompt_tokens=max(timing.prompt_tokens.values(), default=None),
    )
