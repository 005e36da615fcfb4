"""Calls of tools: how models write them into an answer's text, and which parts of a text are calls.

A model that is told of tools writes a call as JSON, behind a mark of its own or bare at the
beginning of its answer. What is no whole JSON, is not shaped as a call or names no tool that was
given stays text: nothing is mended and nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from eftlocal.json_text import MAX_DEPTH, TextError, broken_text, parse_json
from eftlocal.thinking import Marks, held_back, parts

ARGUMENTS = ("arguments", "parameters")  # what models call them
_BESIDE = {"type", "id"}  # what may stand in a call beside its name and arguments


@dataclass(frozen=True)
class CallFormat:
    """How calls are written. The first three are known; the others are seen in a template.

    Attributes:
        opens, closes: the marks before the JSON of one or more calls, and after it; there may be
            none after it, and an answer may lack it.
        bare: calls may stand without marks, at the beginning of an answer.
        key: under which the arguments stand.
        listed: the JSON is a list, of one call too.
        before, after: white space between the marks and the JSON.
        control: which of the marks are control tokens of a model, and their ids.
    """

    opens: str
    closes: str = ""
    bare: bool = False
    key: str = ARGUMENTS[0]
    listed: bool = False
    before: str = ""
    after: str = ""
    control: tuple[tuple[str, int], ...] = ()


FORMATS = (
    CallFormat("<tool_call>", "</tool_call>"),  # Hermes, Qwen 2.5 and 3, SmolLM3, Granite 4
    CallFormat("[TOOL_CALLS]"),  # Mistral, where it writes no [ARGS]
    CallFormat("<TOOLCALL>", "</TOOLCALL>"),  # Nemotron
    CallFormat("<|python_tag|>", bare=True),  # Llama 3
)


def call_marks_in(template: str) -> list[str]:
    """The marks of calls that a chat template mentions."""
    marks = [mark for known in FORMATS for mark in (known.opens, known.closes)]
    return [mark for mark in marks if mark and mark in template]


class ToolCall(NamedTuple):
    """A call; its arguments are the text of a JSON object."""

    name: str
    arguments: str

    def told(self, id: str) -> dict[str, Any]:
        """As OpenAI's clients take it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": id, "type": "function", "function": function}


def call_id(answer: str, position: int) -> str:
    """The id of a call; the same for the same answer."""
    return short_id(f"{answer} {position}")


def short_id(text: str) -> str:
    """Nine letters and digits, as Mistral's templates want them; the same for the same text."""
    return blake2b(text.encode(), digest_size=5, person=b"eftlocal call").hexdigest()[:9]


class Said(NamedTuple):
    """What was read: text that is not of a call, and calls. Both may be empty."""

    text: str
    calls: list[ToolCall]


class CallReader:
    """Reads an answer's text as it comes. However it is cut, what is read is the same.

    What may yet become a call is held back. White space around calls is kept between two texts
    only. Thinking is text, whatever is in it.

    Args:
        names: of the tools.
        marks: of the answer's thinking, where they are known; see `thinking.parts`.
        thinks: whether the answer may begin with thinking.
        most: calls that are read; what follows the last of them is left out. None is all.

    Attributes:
        settled: characters of the text that nothing can change any more.
        count: calls so far.
    """

    def __init__(
        self,
        format: CallFormat,
        names: Collection[str],
        *,
        marks: Marks | None = None,
        thinks: bool = True,
        most: int | None = None,
    ) -> None:
        self.settled = self.count = 0
        self._format, self._names, self._marks, self._most = format, names, marks, most
        self._thought: str | None = "" if thinks else None  # None once thinking is over
        self._held = ""
        self._gap = ""  # white space that no text followed yet
        self._told = False  # some text was
        self._fresh = True  # nothing but calls, and no text, stands before what is held
        self._closing = False  # a call's closing mark may follow
        self._json: _Json | None = None  # of the call that may have begun at what is held

    def push(self, text: str) -> Said:
        """Takes more of the text, and gives what is settled."""
        return self._read(text, final=False)

    def finish(self, text: str = "") -> Said:
        """Takes the last of the text, and gives what was held back, too: the text has ended."""
        said, last = self.push(text), self._read("", final=True)
        return Said(said.text + last.text, [*said.calls, *last.calls])

    def _read(self, text: str, *, final: bool) -> Said:
        came = self.settled + len(self._held) + len(text)
        self._held += text
        said: list[str] = []
        calls: list[ToolCall] = []
        if self._thought is not None:
            self._think(self._thought, said, final)
        if self._thought is None:
            while self._held and self._step(said, calls, final):
                pass
        if final and not self.count:
            said.append(self._gap)
        self.settled = came - len(self._held)
        return Said("".join(said), calls)

    def _think(self, thought: str, said: list[str], final: bool) -> None:
        """Tells thinking as it comes, and sees where it ends."""
        whole = thought + self._held
        found = parts(whole, self._marks, ended=final)
        begin = len(whole) if found.open else found.answer.start
        if not found.open and begin == len(whole) and not final:
            return  # it may become a mark, or nothing follows it yet
        self._say(said, whole[len(thought) : begin])
        self._held = whole[begin:]
        self._thought = whole if found.open else None

    def _step(self, said: list[str], calls: list[ToolCall], final: bool) -> bool:
        """Settles some of what is held; whether it could."""
        text = self._held
        if self._most is not None and self.count >= self._most:
            self._held = ""
            return True
        if self._closing:
            return self._close(text.lstrip(), final)
        start, value = self._begin(text)
        end = len(text) if final and value is None else len(text[:start].rstrip())
        if end:
            return self._tell(said, end)
        if value is None:
            return False
        self._json = self._json or _Json(value)
        if not (end := self._json.end(text)) and not final:
            return False
        self._json = None
        found = self._calls(text[value:end]) if end > 0 else []
        if not found:
            return self._tell(said, value)
        self._gap += text[:start]
        calls += found if self._most is None else found[: self._most - self.count]
        self.count += len(found)
        self._held, self._closing, self._fresh = text[end:], True, True
        return True

    def _begin(self, text: str) -> tuple[int, int | None]:
        """Where a call may begin, and its JSON; None for what has not come yet."""
        opens = self._format.opens
        if self._format.bare and self._fresh:
            body = text.lstrip()
            inner = body.removeprefix(";").lstrip() if self.count else body
            if inner[:1] in ("", "{"):
                return len(text) - len(body), len(text) - len(inner) if inner else None
        at = text.find(opens)
        while at >= 0:
            inner = text[at + len(opens) :].lstrip()
            if inner[:1] in ("", "{", "["):
                return at, len(text) - len(inner) if inner else None
            at = text.find(opens, at + 1)
        return held_back(text, 0, opens), None

    def _close(self, body: str, final: bool) -> bool:
        """Takes the closing mark away, if it is there."""
        closes = self._format.closes
        if closes and closes.startswith(body) and body != closes and not final:
            return False
        self._closing = False
        if closes and body.startswith(closes):
            self._held = body[len(closes) :]
        return True

    def _calls(self, text: str) -> list[ToolCall]:
        """The calls that a JSON text is; none where it is anything else."""
        try:
            value = parse_json(text)
        except TextError:
            return []
        if broken_text(value):
            return []
        found = [self._call(one) for one in (value if isinstance(value, list) else [value])]
        calls = [call for call in found if call]
        return calls if len(calls) == len(found) else []

    def _call(self, value: object) -> ToolCall | None:
        if not isinstance(value, dict):
            return None
        name, key = value.get("name"), next((key for key in ARGUMENTS if key in value), "")
        if not isinstance(name, str) or name not in self._names:
            return None
        if not isinstance(value.get(key), dict) or value.keys() - _BESIDE != {"name", key}:
            return None
        return ToolCall(name, json.dumps(value[key], ensure_ascii=False))

    def _tell(self, said: list[str], end: int) -> bool:
        self._say(said, self._held[:end])
        self._held, self._fresh = self._held[end:], False
        return True

    def _say(self, said: list[str], text: str) -> None:
        if body := text.rstrip():
            body = self._gap + body
            said.append(body.lstrip() if self.count and not self._told else body)
            self._gap, self._told = "", True
        self._gap += text[len(text.rstrip()) :]


class _Json:
    """Looks for the end of an object or a list, in a text that grows.

    Args:
        begin: where in the text it begins.
    """

    def __init__(self, begin: int) -> None:
        self._at = begin
        self._open: list[str] = []
        self._string = self._escaped = False

    def end(self, text: str) -> int:
        """Where it ends; 0 where that has not come, -1 where it is no JSON."""
        for at in range(self._at, len(text)):
            letter = text[at]
            if self._string:
                self._string = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._string = True
            elif letter in _PAIRS:
                self._open.append(_PAIRS[letter])
            elif letter in _PAIRS.values():
                if self._open.pop() != letter:
                    return -1
                if not self._open:
                    return at + 1
            elif letter not in _OUTSIDE:
                return -1
            if len(self._open) > MAX_DEPTH:
                return -1
        self._at = len(text)
        return 0


_PAIRS = {"{": "}", "[": "]"}
_OUTSIDE = frozenset(" \t\r\n,:+-.0123456789Eaeflnrstu")  # of JSON, beside strings and brackets
