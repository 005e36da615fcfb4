"""GBNF, as llama.cpp's grammars/README.md describes it, as a Lark grammar for llguidance.

GBNF has no lexer: every character is a token of its own. So each becomes a terminal of one
character here. Longer terminals would change the meaning, because a lexer takes the longest match.
llama.cpp's own engine is not used: it keeps a stack for every way to read the text so far, and for
some grammars (`root ::= "a" root "b" | "a" root "c" | "d"`) their number doubles with each
character. llguidance parses by Earley's algorithm and counts its steps. What it allows is what
llama.cpp allows, and left recursion besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from eftlocal.errors import UsageError

MAX_DEPTH = 200  # of parentheses
MAX_REPEATS = 2000  # llama.cpp takes a larger number for "without end"

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")  # with line breaks
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_TIMES = re.compile(r"[*+?]|\{\s*(\d+)\s*(,\s*(\d+)?\s*)?\}")
_TOKEN = re.compile(r"(!?)<(?:\[(\d{1,9})\]|[^<>\s]+)>")
_HEX = {"x": 2, "u": 4, "U": 8}
_PLAIN = {"t": "\t", "r": "\r", "n": "\n", **{mark: mark for mark in '\\"[]'}}


def lark(text: str, token_id: Callable[[str], int]) -> str:
    """The Lark text of a GBNF grammar's rule `root`.

    Args:
        token_id: the id of the token that has a text such as `<think>`.

    Raises:
        UsageError: one line that says where the grammar is wrong, and why.
    """
    if not text.strip():
        raise UsageError("grammar: the text is empty")
    return _Reader(text, token_id).read()


@dataclass
class _Group:
    """A rule, or what stands in parentheses: alternatives, each a sequence of Lark items."""

    name: str
    alternatives: list[list[str]] = field(default_factory=lambda: [[]])

    def lark(self) -> str:
        return f"{self.name}: " + "\n | ".join(map(" ".join, self.alternatives))


class _Reader:
    def __init__(self, text: str, token_id: Callable[[str], int]) -> None:
        self._text = text
        self._at = 0
        self._token_id = token_id
        self._rules: dict[str, _Group] = {}
        self._groups: list[_Group] = []
        self._names: dict[str, str] = {}  # of rules, in Lark
        self._uses: dict[str, int] = {}  # of rules: where each is used first
        self._terminals: dict[str, str] = {}

    def read(self) -> str:
        self._skip(_BLANK)
        while self._at < len(self._text):
            if not (found := self._take(_NAME)):
                self._refuse("expecting a rule's name")
            name = found[0]
            self._skip(_SPACE)
            if not self._text.startswith("::=", self._at):
                self._refuse("expecting ::=")
            self._at += 3
            self._skip(_BLANK)
            self._rules[name] = rule = _Group(self._rule(name))
            self._alternatives(rule)
            if self._text[self._at : self._at + 1] not in ("", "\r", "\n"):
                self._refuse("unexpected")
            self._skip(_BLANK)
        for name, at in self._uses.items():
            if name not in self._rules:
                self._refuse("undefined rule", at)
        if "root" not in self._rules:
            raise UsageError("grammar: there is no rule 'root'; an answer matches that rule")
        rules = [group.lark() for group in (*self._rules.values(), *self._groups)]
        terminals = [f"{name}: {regex}" for regex, name in self._terminals.items()]
        return "\n".join([f"start: {self._rule('root')}", *rules, *terminals])

    def _alternatives(self, rule: _Group) -> None:
        """Reads the right side of a rule."""
        open_ = [rule]
        while True:
            sequence = open_[-1].alternatives[-1]
            start, mark = self._at, self._text[self._at : self._at + 1]
            if mark == "|":
                open_[-1].alternatives.append([])
                self._at += 1
                self._skip(_BLANK)
                continue
            if mark == "(":
                if len(open_) > MAX_DEPTH:
                    self._refuse(f"parentheses are nested over {MAX_DEPTH} deep")
                open_.append(_Group(f"g{len(self._groups)}"))
                self._groups.append(open_[-1])
                self._at += 1
                self._skip(_BLANK)
                continue
            if mark == ")" and len(open_) > 1:
                self._at += 1
                item = open_.pop().name
                sequence = open_[-1].alternatives[-1]
            elif mark == '"':
                item = self._literal()
            elif mark == "[":
                item = self._class()
            elif mark == ".":
                self._at += 1
                item = self._terminal(r"(?s:.)")
            elif token := self._take(_TOKEN):
                number = int(token[2]) if token[2] else self._token_id(token[0].lstrip("!"))
                item = f"<[{'^' if token[1] else ''}{number}]>"
            elif name := self._take(_NAME):
                self._uses.setdefault(name[0], start)
                item = self._rule(name[0])
            elif len(open_) > 1:
                self._refuse("expecting ')'")
            else:
                return
            inner = _BLANK if len(open_) > 1 else _SPACE
            self._skip(inner)
            while item and (times := self._take(_TIMES)):
                item = self._repeated(item, times)
                self._skip(inner)
            if item:
                sequence.append(item)

    def _repeated(self, item: str, times: re.Match[str]) -> str:
        if times[1] is None:
            mark = times[0]
        else:
            least, most = times[1], times[3]
            numbers = [min(int(n[:9]), MAX_REPEATS + 1) for n in (least, most) if n]
            if max(numbers) > MAX_REPEATS or numbers != sorted(numbers):
                self._refuse(f"not a repetition of 0 to {MAX_REPEATS} times", times.start())
            mark = f"{{{','.join(map(str, numbers))}{',' if times[2] and not most else ''}}}"
        if item.startswith("<") or item.endswith(("*", "+", "?", "}")):
            self._groups.append(_Group(f"g{len(self._groups)}", [[item]]))
            item = self._groups[-1].name
        return item + mark

    def _literal(self) -> str:
        """A text in double quotes: its characters, one by one."""
        opened = self._at
        self._at += 1
        found = []
        while (mark := self._text[self._at : self._at + 1]) != '"':
            if not mark:
                self._refuse("nothing closes this", opened)
            found.append(self._terminal(self._character()))
        self._at += 1
        return found[0] if len(found) == 1 else f"({' '.join(found)})" if found else ""

    def _class(self) -> str:
        """A class of characters in brackets, as a terminal."""
        opened = self._at
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        parts, held = [], False
        while not self._text.startswith("]", self._at):
            if self._at >= len(self._text):
                self._refuse("nothing closes this", opened)
            first = last = self._character()
            held = True
            if re.compile(r"-(?!\])").match(self._text, self._at):
                self._at += 1
                if self._at >= len(self._text):
                    self._refuse("nothing closes this", opened)
                last = self._character()
            if int(first[3:-1], 16) <= int(last[3:-1], 16):
                parts.append(first if first == last else f"{first}-{last}")
        self._at += 1
        if not held:
            return ""
        if not parts:  # [z-a]
            return self._terminal("(?s:.)" if negated else r"[^\s\S]")
        return self._terminal(f"[{'^' * negated}{''.join(parts)}]")

    def _character(self) -> str:
        r"""One character, escaped or not, as \x{...}."""
        start = self._at
        self._at += 1
        character = self._text[start]
        if character == "\\":
            kind = self._text[self._at : self._at + 1]
            self._at += 1
            if kind in _HEX:
                digits = self._text[self._at : self._at + _HEX[kind]]
                if not re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[kind]}}}", digits):
                    self._refuse(f"expecting {_HEX[kind]} hex chars")
                self._at += _HEX[kind]
                code = int(digits, 16)
                if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                    self._refuse("no such character", start)
                character = chr(code)
            elif kind in _PLAIN and kind:
                character = _PLAIN[kind]
            else:
                self._refuse("unknown escape", start)
        return f"\\x{{{ord(character):X}}}"

    def _terminal(self, regex: str) -> str:
        return self._terminals.setdefault(f"/{regex}/", f"T{len(self._terminals)}")

    def _rule(self, name: str) -> str:
        return self._names.setdefault(name, f"r{len(self._names)}")

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        if found := pattern.match(self._text, self._at):
            self._at = found.end()
        return found

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _refuse(self, reason: str, at: int | None = None) -> NoReturn:
        """Raises UsageError with the line, and what stands there."""
        offset = self._at if at is None else at
        here = self._text[offset:].strip().partition("\n")[0][:60].rstrip()
        line = (self._text[:offset] if here else self._text.rstrip()).count("\n") + 1
        where = f"at {here!r}" if here else "at its end"
        raise UsageError(f"grammar: line {line}: {reason} {where}")
