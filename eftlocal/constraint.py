"""What a whole answer must match: a GBNF grammar, a JSON schema, a regex or a Lark grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

from eftlocal.errors import UsageError
from eftlocal.gbnf import lark
from eftlocal.json_schema import closed_schema
from eftlocal.json_text import broken_text, parse_json
from eftlocal.native import on_deep_stack
from eftlocal.terminal_text import one_line

Kind = Literal["grammar", "json_schema", "regex", "lark"]
KINDS: tuple[Kind, ...] = ("grammar", "json_schema", "regex", "lark")
MAX_CHARACTERS = 1 << 17
BYTES_A_TOKEN = 1 << 10  # of a vocabulary, once an answer was constrained; 500 to 870 measured
BYTES_AN_ANSWER = 1 << 20  # its masks and its matcher's state, at a vocabulary of 262,144
T = TypeVar("T")
_STACK, _FRAME = 1 << 20, 1 << 11  # bytes: at all, and for each character; 1 KiB was measured


@dataclass(frozen=True)
class Constraint:
    """What a whole answer must match.

    Attributes:
        kind: `grammar` is GBNF as llama.cpp reads it, `json_schema` the JSON text of a schema,
            `regex` and `lark` what llguidance reads. It is also the name of the option of the
            Python API, of the field of a request and, with dashes, of the command line's option.
        text: of the grammar, schema or regex.
    """

    kind: Kind
    text: str

    @classmethod
    def of(cls, given: Mapping[str, str | None]) -> Constraint | None:
        """The one of `KINDS` that is given; None if none is.

        Raises:
            UsageError: more than one is.
        """
        found = one_of({kind: given.get(kind) for kind in KINDS})
        return found and cls(cast(Kind, found[0]), found[1])

    def check(self) -> None:
        """Refuses what can be seen to be wrong without a model.

        Raises:
            UsageError: one line with the reason.
        """
        _check(self)


@lru_cache(maxsize=64)  # the lines of a file as a rule say the same
def _check(constraint: Constraint) -> None:
    from llguidance import LLMatcher  # 40 ms, and most runs need none of it

    grammar = constraint_grammar(constraint)
    fault = compiled(grammar, lambda: LLMatcher.validate_grammar(grammar))
    if fault:
        raise UsageError(refusal(constraint.kind, fault))


def compiled(grammar: str, call: Callable[[], T]) -> T:
    """What a call of llguidance's compiler gives. It recurses over rules; an interrupt leaves it.

    Raises:
        UsageError: there is no room for its stack.
    """
    try:
        return on_deep_stack(_STACK + _FRAME * len(grammar), call, leave=True)
    except MemoryError:
        raise UsageError("the constraint is too large for this machine; make it smaller") from None


def one_of(given: Mapping[str, T | None]) -> tuple[str, T] | None:
    """The one option that is not None, with its name; None if all are.

    Raises:
        UsageError: several are given.
    """
    there = [(name, value) for name, value in given.items() if value is not None]
    if len(there) > 1:
        raise UsageError(f"{there[0][0]} and {there[1][0]} exclude each other; leave one out")
    return there[0] if there else None


def schema_text(schema: str | Mapping[str, Any]) -> str:
    """A JSON schema as text.

    Raises:
        UsageError: it holds what JSON has no form for.
    """
    if isinstance(schema, str):
        return schema
    try:
        return json.dumps(schema, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise UsageError(f"JSON schema: it holds what is not a JSON value: {error}") from None
    except RecursionError:
        raise UsageError("JSON schema: it is nested too deeply; make it flatter") from None


def _plain(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_NAMES = {
    "grammar": "grammar",
    "json_schema": "JSON schema",
    "regex": "regex",
    "lark": "Lark grammar",
}


_TEMPERATURE = re.compile(r"^\s*[\w?!.-]+\s*\[[^\]]*\btemperature\s*=", re.M)  # of a rule
_LARK_OPTION = re.compile(r'^\s*%llguidance\s*\{\s*"(\w+)"', re.M)
_LARK_OPTIONS = {"allow_initial_skip", "allow_invalid_utf8", "no_forcing"}


def constraint_grammar(
    constraint: Constraint,
    token_id: Callable[[str], int] = lambda _text: 0,
    *,
    regular: bool = True,
) -> str:
    """The constraint as Lark text for llguidance, without forcing.

    With forcing, where only one text can follow, only the tokenizer's own tokens for it would be
    allowed, which changes the model's distribution.

    Args:
        token_id: the id of a token that GBNF gives as `<think>`, `!<think>` or `<[123]>`.
        regular: whether GBNF that is a regular expression becomes one.

    Raises:
        UsageError: it is wrong in a way that llguidance would not see; one line.
    """
    kind, text = constraint.kind, constraint.text
    if broken := broken_text(text):
        raise UsageError(f"{_NAMES[kind]}: {broken}")
    if "\0" in text or len(text) > MAX_CHARACTERS:
        raise UsageError(
            f"{_NAMES[kind]}: it has a NUL or over {MAX_CHARACTERS} characters; make it smaller"
        )
    if kind == "grammar":
        text = lark(text, token_id, regular=regular)
    elif kind == "json_schema":
        text = f"start: %json {closed_schema(text)}"
    elif kind == "regex":
        text = _regex(text)
    elif _TEMPERATURE.search(text):
        raise UsageError("Lark grammar: temperature is not supported; set it for the whole answer")
    elif unknown := set(_LARK_OPTION.findall(text)) - _LARK_OPTIONS:
        raise UsageError(
            f"Lark grammar: %llguidance: {min(unknown)} is not supported; leave it out"
        )
    return f'{text}\n%llguidance {{"no_forcing": true}}'


def _regex(text: str) -> str:
    """Lark text of a regular expression for the whole answer."""
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise UsageError("regex: it ends with a lone backslash; write two for a backslash")
    from llguidance import LLMatcher

    made = parse_json(LLMatcher.grammar_from_regex(text))
    return str(made["grammars"][0]["lark_grammar"])


def refusal(kind: Kind, fault: str) -> str:
    """llguidance's reason as one line; where it names a place in the user's own text, with that."""
    first = re.split(r"\n +\d+ \| ", fault, maxsplit=1)[0]  # the text is quoted from there on
    place = re.match(r"(?:at )?(\d+)\((\d+)\): ", first)
    reason = first[place.end() :] if place else first
    reason = reason.removeprefix("failed to compile JSON schema: ")
    reason = re.sub(r'^Unimplemented keys: \["(.*)"\]$', r"\1 is not supported", reason)
    reason = re.sub(r"\s*<(?:non-verbose/|state)>.*", "", reason.replace('", "', ", "), flags=re.S)
    if kind != "json_schema" and reason.startswith("invalid regex "):
        reason = reason.partition("(in regex): ")[2].rpartition("\nerror: ")[2]
        reason = reason if kind == "regex" else f"invalid regex: {reason}"
    if "NoExtension" in reason and kind == "regex":
        reason = "no text matches it"
    elif "NoExtension" in reason:
        reason = "no text can follow; look for a part that contains itself without an end"
    elif "symbols.len()" in reason:
        reason = "it has more parts than llguidance can hold; make it smaller"
    elif reason.startswith("panic: "):
        found = reason.removeprefix("panic: ").partition("\n")[0]
        reason = f"llguidance itself failed ({found}); write it another way"
    elif re.search("(?i)too (many|large|complex)|fuel|limit", reason):
        reason += "; make it simpler"
    where = f"line {place[1]}, column {place[2]}: " if kind == "lark" and place else ""
    return one_line(f"{_NAMES[kind]}: {where}{reason}")
