"""What a whole answer must match: a GBNF grammar, a JSON schema, a regex or a Lark grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

from eftlocal.errors import UsageError
from eftlocal.json_text import broken_text
from eftlocal.terminal_text import one_line

Kind = Literal["grammar", "json_schema", "regex", "lark"]
KINDS: tuple[Kind, ...] = ("grammar", "json_schema", "regex", "lark")
MAX_CHARACTERS = 1 << 17
T = TypeVar("T")


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
        """Refuses, without a model, what llguidance cannot compile. GBNF needs a vocabulary.

        Raises:
            UsageError: one line with llguidance's reason.
        """
        if self.kind != "grammar":
            llguidance_grammar(self)


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


@lru_cache(maxsize=64)
def llguidance_grammar(constraint: Constraint) -> str:
    """The constraint as llguidance's Lark text, without forcing.

    With forcing, where only one text can follow, only the tokenizer's own tokens for it would be
    allowed, which changes the model's distribution.

    Raises:
        UsageError: llguidance cannot compile it; one line with its reason.
    """
    from llguidance import LLMatcher  # 40 ms, and most runs need none of it

    kind, text = constraint.kind, constraint.text
    name = {"json_schema": "JSON schema", "regex": "regex", "lark": "Lark grammar"}[kind]
    if broken := broken_text(text):
        raise UsageError(f"{name}: {broken}")
    if "\0" in text or len(text) > MAX_CHARACTERS:
        raise UsageError(f"{name}: it has a NUL or more than {MAX_CHARACTERS} characters")
    if kind == "json_schema":
        from eftlocal.json_schema import closed_schema

        text = f"start: %json {closed_schema(text)}"
    elif kind == "regex":
        if (len(text) - len(text.rstrip("\\"))) % 2:  # llguidance would drop it
            raise UsageError("regex: it ends with a lone backslash; write \\\\ for a backslash")
        text = json.loads(LLMatcher.grammar_from_regex(text))["grammars"][0]["lark_grammar"]
    grammar = f'{text}\n%llguidance {{"no_forcing": true}}'
    if fault := LLMatcher.validate_grammar(grammar):
        raise UsageError(f"{name}: {_reason(fault, kind)}")
    return grammar


def _reason(fault: str, kind: Kind) -> str:
    """llguidance's reason, with a line and column where the text is a Lark grammar's own."""
    first = re.split(r"\n +\d+ \| ", fault, maxsplit=1)[0]  # the text is quoted from there on
    place = re.match(r"(?:at )?(\d+)\((\d+)\): ", first)
    reason = first[place.end() :] if place else first
    reason = reason.removeprefix("failed to compile JSON schema: ")
    reason = re.sub(r'^Unimplemented keys: \["(.*)"\]$', r"\1 is not supported", reason)
    if kind != "json_schema" and reason.startswith("invalid regex "):
        reason = reason.partition("(in regex): ")[2].rpartition("\nerror: ")[2]
        reason = reason if kind == "regex" else f"invalid regex: {reason}"
    if kind == "lark" and place:
        reason = f"line {place[1]}, column {place[2]}: {reason}"
    return one_line(reason.replace('", "', ", "))
