"""GBNF, as llama.cpp's grammars/README.md describes it, as a Lark grammar for llguidance.

GBNF has no lexer: every character is a token of its own. So each becomes a terminal of one
character here. Longer terminals would change the meaning, because a lexer takes the longest match.
Only a grammar that is a regular expression as a whole becomes one terminal: its masks are faster,
and the number of ways to read a text does not matter. (Some are too large for that: `Guide` then
takes the other form.)

llama.cpp's own engine is not used: it keeps a stack for every way to read the text so far, and for
some grammars (`root ::= "a" root "b" | "a" root "c" | "d"`) their number doubles with each
character. llguidance parses by Earley's algorithm and counts its steps.

It allows the tokens that llama.cpp allows, but for these: left recursion is taken; what could never
end is not begun; control tokens have no text; bytes that are in no character are refused; and
`[^é]` takes the first byte of è, which it shares with é.

Earley's algorithm has a weak point: at the end of `list ::= item | item "," list`, every list
that was begun ends anew with every token, so that the n-th mask takes n steps. So a rule that ends
with itself becomes a loop: `x ::= a x | b` is `x ::= a* b`, also through other rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NoReturn

from eftlocal.errors import UsageError

MAX_DEPTH = 200  # of parentheses
MAX_REPEATS = 2000  # llama.cpp takes a larger number for "without end"

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")  # with line breaks
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_TIMES = re.compile(r"[*+?]|\{\s*([0-9]+)\s*(,\s*([0-9]+)?\s*)?\}")
_TOKEN = re.compile(r"(!?)<(?:\[[0-9]{1,9}\]|[^<>\s]+)>")
_GROUP = re.compile(r"[rg]\d+")
_MAX_UNROLLED = 20_000  # items in the rules that take the place of a recursion
_HEX = {"x": 2, "u": 4, "U": 8}
_PLAIN = {"t": "\t", "r": "\r", "n": "\n", **{mark: mark for mark in '\\"[]-'}}


def lark(text: str, token_id: Callable[[str], int], *, regular: bool = True) -> str:
    """The Lark text of a GBNF grammar's rule `root`.

    Args:
        token_id: the id of a token that is given as `<think>`, `!<think>` or `<[123]>`.
        regular: make one terminal of it, if it is a regular expression.

    Raises:
        UsageError: one line that says where the grammar is wrong, and why.
    """
    if not text.strip():
        raise UsageError("grammar: the text is empty")
    return _Reader(text, token_id).read(regular)


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

    def read(self, regular: bool) -> str:
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
        groups = {group.name: group for group in (*self._rules.values(), *self._groups)}
        root = self._rule("root")
        if root not in _prune(groups):
            raise UsageError(
                "grammar: no text can follow; look for a part that contains itself without an end"
            )
        _unroll_recursion(groups)
        used = _used(groups, root)
        rules = "\n".join(group.lark() for name, group in groups.items() if name in used)
        if regular and "<" not in rules and not _cycles(used):
            root, rules = root.upper(), rules.upper()  # which makes terminals of them, in Lark
        terminals = [f"{name}: {regex}" for regex, name in self._terminals.items()]
        return "\n".join([f"start: {root}", rules, *terminals])

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
                item = f"<[{'^' if token[1] else ''}{self._token_id(token[0])}]>"
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
            if numbers[-1] == 0 and (most or not times[2]):
                return ""
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


_Groups = dict[str, _Group]
_Graph = Mapping[str, Collection[str]]


def _prune(groups: _Groups) -> set[str]:
    """Leaves out what no text can match, where an answer could not end; gives what is left."""
    waiting: dict[str, list[tuple[str, set[str]]]] = {name: [] for name in groups}
    ready, left = [], set()
    for name, group in groups.items():
        for sequence in group.alternatives:
            needed = {part for item in sequence for part in _needed(item)}
            for part in needed:
                waiting[part].append((name, needed))
            ready += [] if needed else [name]
    while ready:
        part = ready.pop()
        if part not in left:
            left.add(part)
            for name, needed in waiting[part]:
                needed.discard(part)
                ready += [] if needed else [name]
    for group in groups.values():
        group.alternatives = [
            [item for item in sequence if left.issuperset(_GROUP.findall(item))]
            for sequence in group.alternatives
            if all(left.issuperset(_needed(item)) for item in sequence)
        ]
    return left


def _needed(item: str) -> list[str]:
    optional = item.endswith(("*", "?")) or "{0" in item
    return [] if optional else _GROUP.findall(item)


def _unroll_recursion(groups: _Groups) -> None:
    """Makes loops of the rules that end with themselves, directly or through others."""
    ends: dict[str, list[str]] = {name: [] for name in groups}
    for name, group in groups.items():
        for sequence in list(group.alternatives):
            if sequence and (last := sequence[-1].removesuffix("?")) in groups:
                if last != sequence[-1]:
                    group.alternatives.append(sequence[:-1])
                    sequence[-1] = last
                ends[name].append(last)
    numbers = count(len(groups))
    for names in _cycles(ends):
        _unroll(groups, names, numbers)


def _unroll(groups: _Groups, names: list[str], numbers: Iterator[int]) -> None:
    """Rewrites rules that end with one another so that each ends only with later ones.

    They are equations such as `x = a x | b y | c`. One after the other is solved, here as
    `x = a* (b y | c)`, and put into the later ones: Gaussian elimination.
    """
    left: dict[str, dict[str, list[list[str]]]] = {name: {} for name in names}
    for name in names:
        for sequence in groups[name].alternatives:
            last = sequence[-1] if sequence and sequence[-1] in left else ""
            left[name].setdefault(last, []).append(sequence[:-1] if last else sequence)
    solved: _Groups = {}
    size = 0

    def named(alternatives: list[list[str]]) -> str:
        group = _Group(f"g{next(numbers)}", alternatives)
        solved[group.name] = group
        return group.name

    def joined(alternatives: list[list[str]]) -> list[str]:
        return alternatives[0] if len(alternatives) == 1 else [named(alternatives)]

    for name in names:
        parts = left.pop(name)
        again = [sequence for sequence in parts.pop(name, []) if sequence]
        loop = [f"{named(again)}*"] if again else []
        rest = {last: [*loop, *joined(sequences)] for last, sequences in parts.items()}
        sequences = [[*part, last] if last else part for last, part in rest.items()]
        solved[name] = _Group(name, sequences)
        for other in left.values():
            if name in other:
                before = joined(other.pop(name))
                for last, part in rest.items():
                    other.setdefault(last, []).append([*before, *part])
                    size += len(before) + len(part)
                    if size > _MAX_UNROLLED:
                        return
    groups.update(solved)


def _cycles(graph: _Graph) -> list[list[str]]:
    """The strongly connected components that hold an edge (Tarjan 1972, without recursion)."""
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_: dict[str, None] = {}  # in order
    for start in graph:
        work = [] if start in number else [(start, iter(graph[start]))]
        while work:
            node, following = work[-1]
            if node not in number:
                number[node] = lowest[node] = len(number)
                open_[node] = None
            for other in following:
                if other not in number:
                    work.append((other, iter(graph[other])))
                    break
                if other in open_:
                    lowest[node] = min(lowest[node], number[other])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == number[node]:
                    component = [node]
                    while (last := open_.popitem()[0]) != node:
                        component.append(last)
                    if len(component) > 1 or node in graph[node]:
                        found.append(component)
    return found


def _used(groups: _Groups, root: str) -> dict[str, set[str]]:
    """The groups that a group needs, with those that each names."""
    used: dict[str, set[str]] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name not in used:
            items = " ".join(map(" ".join, groups[name].alternatives))
            used[name] = set(_GROUP.findall(items))
            waiting.extend(used[name])
    return used
