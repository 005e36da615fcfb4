"""GBNF text made into llama.cpp's grammar sampler, or refused with the line that is wrong.

Refused before llama.cpp sees it is what its own check lets through and then dies of: its parser
recurses over parentheses without a bound, takes a repetition above 2,000 for one without end and
{3,2} for one of 2**64, and overlooks left recursion behind a rule that is empty only through
another rule: its stacks then grow until memory ends.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.llama.engine import last_words, llama_cpp, recent
from eftlocal.llama.model import Model
from eftlocal.terminal_text import one_line

MAX_CHARACTERS = 1 << 18
MAX_DEPTH = 200
MAX_REPEATS = 2000  # llama.cpp takes a larger number for "without end"

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\r\n]*)|(?P<rule>[a-zA-Z0-9-]+)[ \t]*::=|(?P<name>[a-zA-Z0-9-]+)
    |(?P<empty>""|\[\^?\])|(?P<terminal>"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|!?<[^>]*>|\.)
    |(?P<times>[*+?])|\{\s*(?P<least>\d+)\s*,?\s*(?P<most>\d+)?\s*\}|(?P<mark>[|()])""",
    re.VERBOSE | re.DOTALL,
)
_NEGATED = re.compile(r"\[\^(?:\\.|[^\]\\])*", re.DOTALL)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]|\\[uU]|\\x[89a-fA-F]")
_TERMINAL = ""

_stderr = threading.Lock()

Rules = dict[str, list[list[str]]]  # name: alternatives, each a sequence of names and terminals


def compile_gbnf(model: Model, text: str, root: str) -> Any:
    """llama.cpp's sampler, or UsageError with what it had to say.

    Its parser writes to the process's stderr, nowhere else: that is read for the moment.
    """
    _check(text)
    recent.clear()
    vocab = llama_cpp.llama_model_get_vocab(model.handle)
    with _stderr, tempfile.TemporaryFile() as said:
        try:
            kept = os.dup(2)
        except OSError:  # a program without a stderr
            kept = -1
        try:
            if kept >= 0:
                os.dup2(said.fileno(), 2)
            sampler = llama_cpp.llama_sampler_init_grammar(
                vocab, text.encode(), root.encode("utf-8", "replace")
            )
        finally:
            if kept >= 0:
                os.dup2(kept, 2)
                os.close(kept)
        said.seek(0)
        complaint = said.read().decode("utf-8", "replace")
    if not sampler:
        raise UsageError(f"grammar: {_located(complaint, text) or last_words()}")
    return sampler


def _check(text: str) -> None:
    """Refuses what would harm; llama.cpp itself refuses what is merely wrong.

    Raises:
        UsageError: with the line of the grammar.
    """
    if not text.strip():
        raise UsageError("grammar: the text is empty")
    if "\0" in text or len(text) > MAX_CHARACTERS:
        raise UsageError(f"grammar: it has a NUL or more than {MAX_CHARACTERS} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"grammar: character {error.start} is half of a surrogate pair") from None
    rules = _read(text)
    if name := _grows(rules):
        raise UsageError(f"grammar: rule {name!r} is left-recursive; write it right-recursive")


def prefixes_decide(text: str) -> bool:
    """Whether a token can be allowed only where each token that it begins with is.

    Not with rules about whole tokens, and not with negated classes of characters beyond ASCII:
    llama.cpp rejects a part of a character that could become one of these, or another.
    """
    if any(_BEYOND_ASCII.search(found) for found in _NEGATED.findall(text)):
        return False
    return not any((m["terminal"] or "").startswith(("<", "!")) for m in _TOKEN.finditer(text))


def _read(text: str) -> Rules:
    """The rules, groups and repetitions as rules of their own, in the way of llama.cpp."""
    rules: Rules = {}
    open_: list[str] = []

    def refuse(at: int, why: str) -> UsageError:
        return UsageError(f"grammar: line {text.count(chr(10), 0, at) + 1}: {why}")

    for found in _TOKEN.finditer(text):
        if found["rule"]:
            open_ = [found["rule"]]
            rules[open_[0]] = [[]]
            continue
        if not open_:
            continue
        alternatives = rules[open_[-1]]
        sequence = alternatives[-1]
        if found["name"]:
            sequence.append(found["name"])
        elif found["terminal"]:
            sequence.append(_TERMINAL)
        elif found["mark"] == "|":
            alternatives.append([])
        elif found["mark"] == "(":
            if len(open_) > MAX_DEPTH:
                raise refuse(found.start(), f"parentheses are nested over {MAX_DEPTH} deep")
            open_.append(f"({len(rules)}")
            rules[open_[-1]] = [[]]
        elif found["mark"] == ")" and len(open_) > 1:
            group = open_.pop()
            rules[open_[-1]][-1].append(group)
        elif found["times"] or found["least"]:
            least, most = _number(found["least"]), _number(found["most"])
            if max(least, most) > MAX_REPEATS or (found["most"] and least > most):
                raise refuse(
                    found.start(),
                    f"{one_line(found[0], 40)} is not a repetition of 0 to {MAX_REPEATS} times",
                )
            if sequence:
                item, again = sequence.pop(), f"*{len(rules)}"
                rules[again] = [[item], []] if found["times"] == "?" else [[item, again], []]
                sequence.extend([item, again] if least or found["times"] == "+" else [again])
    return rules


def _number(digits: str | None) -> int:
    return int(digits or 0) if len(digits or "") < 9 else MAX_REPEATS + 1


def _grows(rules: Rules) -> str | None:
    """A rule that comes back to its own beginning with something left to do after it."""
    empty: set[str] = set()
    while more := {
        name
        for name, alternatives in rules.items()
        if name not in empty and any(all(s in empty for s in seq) for seq in alternatives)
    }:
        empty |= more
    begins: dict[str, set[str]] = {name: set() for name in rules}
    unfinished: list[tuple[str, str]] = []
    for name, alternatives in rules.items():
        for sequence in alternatives:
            for i, symbol in enumerate(sequence):
                if symbol in rules:
                    begins[name].add(symbol)
                    if i + 1 < len(sequence):
                        unfinished.append((name, symbol))
                if symbol not in empty:
                    break
    for name, symbol in unfinished:
        seen, todo = {symbol}, [symbol]
        while todo:
            reached = begins[todo.pop()] - seen
            seen |= reached
            todo += reached
        if name in seen:
            return re.sub(r"^[(*]\d+$", "of parentheses", name)
    return None


def _located(complaint: str, text: str) -> str:
    """llama.cpp's complaint with a line number in the place of the rest of the text.

    It writes what is wrong, often " at " and the rest, an empty line, and the whole text again.
    """
    _, found, rest = complaint.partition("error parsing grammar: ")
    if not found:
        return ""
    message = rest.removesuffix(f"\n\n{text}\n")
    reason, at, quoted = message.partition(" at ")
    if at and text.endswith(quoted):
        offset = len(text) - len(quoted)
    elif undefined := re.search(r"identifier '(.*)'", message):
        use = re.search(rf"(?<![\w-]){re.escape(undefined[1])}(?![\w-])", text)
        offset, reason = (use.start() if use else 0), "undefined rule"
    elif message.startswith("unexpected end of input"):
        left = _TOKEN.sub(lambda token: " " * len(token[0]), text)  # what is no token
        opened = re.search(r'["\[<]', left)
        offset, reason = (opened.start() if opened else len(text)), "nothing closes this"
    else:
        return one_line(message.partition("\n")[0])
    here = text[offset:].strip().partition("\n")[0][:60].rstrip()
    line = (text[:offset] if here else text.rstrip()).count("\n") + 1
    return f"line {line}: {reason} at {here!r}" if here else f"line {line}: {reason} at its end"
