"""JSON schemas as GBNF grammars: every text of the grammar is JSON that the schema accepts.

Supported are $ref inside the schema, anyOf and oneOf (any of them), allOf of one, const, enum,
type, properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
minLength, maxLength and the formats date, time, date-time and uuid. Annotations mean nothing,
any other keyword is refused. The grammar may be narrower than the schema: an object with
`properties` has these in their order and no others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from eftlocal.errors import UsageError

MAX_REPEATS = 2000  # llama.cpp takes a larger number for "without end"

_NAMED = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")
_HELD = ("discriminator", "$schema", "$id", "$comment", "$defs", "definitions")
_ANNOTATIONS = frozenset((*_NAMED, *_HELD))
_KEYWORDS = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength", "format")),
    "number": frozenset[str](),
    "integer": frozenset[str](),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_FORMATS = {
    "date": "date",
    "time": "time",
    "date-time": 'date "T" time',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
# Numbers are as long as a float can tell apart; without a bound a model may go on for ever.
_RULES = r"""
value ::= object | array | string | number | boolean | null
object ::= "{" ws (member ("," ws member)* ws)? "}"
member ::= string ":" ws value
array ::= "[" ws (value ("," ws value)* ws)? "]"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" code)
code ::= [0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2}
hex ::= [0-9a-fA-F]
number ::= integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
boolean ::= "true" | "false"
null ::= "null"
date ::= [0-9]{3} [1-9] "-" (long | short | "02-" day)
long ::= ("0" [13578] | "10" | "12") "-" (day | "29" | "30" | "31")
short ::= ("0" [469] | "11") "-" (day | "29" | "30")
day ::= "0" [1-9] | "1" [0-9] | "2" [0-8]
time ::= clock ("." [0-9]{1,6})? ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])
clock ::= ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9]
ws ::= | " " | "\n" [ \t]{0,20}
"""


def json_schema_to_gbnf(schema: str | Mapping[str, Any]) -> str:
    """A grammar whose rule `root` is the JSON texts that the schema accepts.

    Args:
        schema: JSON text, or what it stands for.

    Raises:
        UsageError: not JSON, or it uses a keyword that cannot be kept; the line names it.
    """
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        compiler = _Compiler(parsed)
        compiler.rules["root"] = compiler.visit(parsed, "#")
    except json.JSONDecodeError as error:
        raise UsageError(
            f"JSON schema: not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise UsageError("JSON schema: it is nested too deeply") from None
    rules = "\n".join(f"{name} ::= {rule}" for name, rule in compiler.rules.items())
    return f"{rules}{_RULES}"


class _Compiler:
    """Rules of one schema. `where` is the JSON pointer of the part at hand."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.rules: dict[str, str] = {}
        self._refs: dict[str, str] = {}

    def visit(self, schema: Any, where: str) -> str:
        """The name of the rule of a schema."""
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            _refuse(where, f"a schema is an object or true, not {json.dumps(schema, default=str)}")
        keys = schema.keys() - _ANNOTATIONS
        if not keys:
            return "value"
        if "$ref" in keys:
            _only(keys, ("$ref",), where)
            return self._ref(schema["$ref"], where)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in keys:
                _only(keys, (key,), where)
                parts = schema[key]
                if not isinstance(parts, list) or not parts:
                    _refuse(where, f"{key} is not a list of schemas")
                if key == "allOf" and len(parts) > 1:
                    _refuse(where, "allOf of more than one schema is not supported")
                return self._either(
                    self.visit(part, f"{where}/{key}/{i}") for i, part in enumerate(parts)
                )
        if keys & {"const", "enum"}:
            _only(keys, ("type", "const" if "const" in keys else "enum"), where)
            values = [schema["const"]] if "const" in keys else schema["enum"]
            if not isinstance(values, list) or not values:
                _refuse(where, "enum is not a list of values")
            if "type" in keys:
                values = [value for value in values if _is_of(value, _types(schema, where))]
            if not values:
                _refuse(where, "no value of const or enum is of its type")
            return self._either(_literal(value) for value in values)
        if "type" in keys:
            types = _types(schema, where)
        else:
            types = [t for t, known in _KEYWORDS.items() if keys & known]
        _only(keys, {"type"}.union(*(_KEYWORDS[t] for t in types)), where)
        makers = {"object": self._object, "array": self._array, "string": self._string}
        return self._either(makers[t](schema, where) if keys & _KEYWORDS[t] else t for t in types)

    def _rule(self, text: str) -> str:
        name = f"r{len(self.rules)}"
        self.rules[name] = text
        return name

    def _either(self, rules: Iterable[str]) -> str:
        names = list(rules)
        return names[0] if len(names) == 1 and names[0].isalnum() else self._rule(" | ".join(names))

    def _ref(self, ref: Any, where: str) -> str:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            _refuse(where, f"$ref {ref!r} leads out of the schema")
        if ref not in self._refs:
            target = self.schema
            for step in ref.split("/")[1:]:
                step = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(target, Mapping) or step not in target:
                    _refuse(where, f"$ref {ref!r} leads nowhere")
                target = target[step]
            name = self._refs[ref] = self._rule("")  # known before its inside, which may use it
            self.rules[name] = self.visit(target, ref)
        return self._refs[ref]

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            _refuse(where, "properties is not an object, or required not a list")
        for name in required:
            if not isinstance(name, str) or name not in properties:
                _refuse(where, f"required names {name!r}, which properties does not have")
        if not properties and others is not False:
            value = self.visit(others, f"{where}/additionalProperties")
            member = self._rule(f'string ":" ws {value}')
            return self._rule(f'"{{" ws ({member} ("," ws {member})* ws)? "}}"')
        if not isinstance(others, bool) and others != {}:
            _refuse(where, "a schema in additionalProperties beside properties is not supported")
        # From the last to the first: what may follow when a member stands before, and when not.
        after, first = '""', '""'
        for name, part in reversed(list(properties.items())):
            value = self.visit(part, f"{where}/properties/{name}")
            member = self._rule(f'{_literal(name)} ":" ws {value}')
            if name in required:
                first = self._rule(f"{member} {after}")
                after = self._rule(f'"," ws {member} {after}')
            else:
                first = self._rule(f"{member} {after} | {first}")
                after = self._rule(f'("," ws {member})? {after}')
        return self._rule(f'"{{" ws {first} ws "}}"')

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        low, high = _bounds(schema, "minItems", "maxItems", where)
        items = schema.get("items", True)
        if "prefixItems" in schema:
            parts = schema["prefixItems"]
            if not isinstance(parts, list) or not parts:
                _refuse(where, "prefixItems is not a list of schemas")
            if items not in (True, False, {}) or not (
                low <= len(parts) <= (len(parts) if high is None else high)
            ):
                _refuse(where, "prefixItems must be all items that there are")
            names = [self.visit(p, f"{where}/prefixItems/{i}") for i, p in enumerate(parts)]
            return self._rule('"[" ws {} ws "]"'.format(' "," ws '.join(names)))
        item = self.visit(items, f"{where}/items")
        if high == 0:
            return self._rule('"[" ws "]"')
        more = f"{{{max(low - 1, 0)},{'' if high is None else high - 1}}}"
        whole = f'{item} ("," ws {item}){more} ws'
        return self._rule(f'"[" ws {whole if low else f"({whole})?"} "]"')

    def _string(self, schema: Mapping[str, Any], where: str) -> str:
        if "format" in schema:
            if str(schema["format"]) not in _FORMATS:
                _refuse(where, f"format {schema['format']!r} is not supported")
            _only(schema.keys() - _ANNOTATIONS - {"type"}, ("format",), where)
            return self._rule(rf'"\"" {_FORMATS[schema["format"]]} "\""')
        low, high = _bounds(schema, "minLength", "maxLength", where)
        return self._rule(rf'"\"" char{{{low},{"" if high is None else high}}} "\""')


def _refuse(where: str, why: str) -> NoReturn:
    raise UsageError(f"JSON schema, {where}: {why}".replace("\n", " "))


def _only(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    for key in sorted(set(keys) - set(known)):
        beside = f" beside {', '.join(sorted(set(known) & set(keys)))}"
        _refuse(where, f"{key} is not supported{beside if set(known) & set(keys) else ''}")


def _types(schema: Mapping[str, Any], where: str) -> list[str]:
    types = schema["type"]
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list) or not types or any(str(t) not in _KEYWORDS for t in types):
        _refuse(where, f"type {json.dumps(schema['type'], default=str)} is not known")
    return types


def _is_of(value: Any, types: Iterable[str]) -> bool:
    """Whether a JSON value is of one of the types; 1.0 is an integer, and true is no number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        whole = isinstance(value, int) or value.is_integer()
        return "number" in types or ("integer" in types and whole)
    kinds = {"object": Mapping, "array": list, "string": str, "boolean": bool}
    return any(t == "null" if value is None else isinstance(value, kinds.get(t, ())) for t in types)


def _bounds(schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for key, value in ((low, least), (high, 0 if most is None else most)):
        if type(value) is not int or not 0 <= value <= MAX_REPEATS:
            _refuse(where, f"{key} is {value!r}; it must be 0 to {MAX_REPEATS}")
    if most is not None and least > most:
        _refuse(where, f"{low} is above {high}")
    return least, most


def _literal(value: Any) -> str:
    """A JSON value as GBNF text."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise UsageError(f"JSON schema: {value!r} is not a JSON value") from None
    text = text.replace("\x7f", "\\u007f")  # as in strings of any value
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))
