"""JSON schemas as llguidance takes them: every text that it then allows fits the schema.

llguidance compiles the schema; what it cannot keep is refused by name. Five things are ours:

- An object with `properties` and no `additionalProperties` has no others, as in llama.cpp's own
  converter: small models otherwise go on inventing keys. (Not inside allOf, whose parts name
  different properties of one object.)
- White space is one blank, or a line break with at most 20 blanks, so that an answer ends.
- `propertyNames` becomes `properties` or `patternProperties`. `uniqueItems` cannot be kept
  by a grammar and is dropped: `schema_notes` says so.
- Formats that pydantic names and that no text breaks (password, path, binary, ...) are dropped;
  others that llguidance lacks (base64, uuid4, ...) become patterns.
- llguidance has no numbers near the ends of a 64-bit integer: there the range is narrowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_json

_OPTIONS = {"coerce_one_of": True, "json_allow_general_unicode_escapes": True}
_FREE = {"whitespace_pattern": r"( |\n[ \t]{0,20})?"}
_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("prefixItems", "anyOf", "oneOf")
_SINGLE = ("items", "additionalProperties")
_OWN = "x-guidance"  # where llguidance reads its options
_FREE_FORMATS = (
    *("password", "binary", "regex", "json-string", "path"),
    *("file-path", "directory-path", "new-path", "socket-path"),
)
_HEX = "[0-9a-fA-F]"
_PATTERNS = {
    "base64": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
    "base64url": "^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?$",
    "color": "^#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$",
    "fraction": "^-?[0-9]+(/[1-9][0-9]*)?$",
    **{
        f"uuid{n}": f"^{_HEX}{{8}}-{_HEX}{{4}}-{n}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}$"
        for n in range(1, 9)
    },
}
_NAME_PATTERNS = {  # of formats that names of properties may have
    **_PATTERNS,
    "uuid": f"^{_HEX}{{8}}-({_HEX}{{4}}-){{3}}{_HEX}{{12}}$",
    "date": "^[0-9]{4}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|"
    "(0[13578]|1[02])-31)$",
}
_LARGEST = 4 * 10**18
_BOUNDS = {"minimum": -1, "exclusiveMinimum": -1, "maximum": 1, "exclusiveMaximum": 1}


def closed_schema(schema: str, *, one_line: bool = False) -> str:
    """A schema's JSON text as llguidance takes it: objects closed, white space bounded.

    Args:
        one_line: answers have the white space that Python's json writes, and no other.

    Raises:
        UsageError: not JSON, no schema, or it uses what cannot be kept; the line names it.
    """
    parsed = _parsed(schema)
    options = {**(_ONE_LINE if one_line else _FREE), **_OPTIONS}
    return json.dumps({**_Closer(parsed).closed(parsed), _OWN: options})


def _parsed(schema: str) -> Mapping[str, Any]:
    try:
        parsed = parse_json(schema)
    except TextError as error:
        raise UsageError(f"JSON schema: {error}") from None
    if parsed is True:
        return {}
    if not isinstance(parsed, Mapping):
        raise UsageError(
            "JSON schema: an object or true is needed, not " + json.dumps(parsed, default=str)[:40]
        )
    return parsed


class _Closer:
    """Closes the objects of one schema, and says otherwise what llguidance lacks.

    Attributes:
        notes: what is asked for and not kept.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.notes: set[str] = set()
        self._root = root

    def closed(self, schema: Any, *, inside_all_of: bool = False) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        if _OWN in schema:
            raise UsageError(f"JSON schema: {_OWN} is not supported; leave it out")
        made = dict(schema)
        if made.pop("uniqueItems", None) is True:
            self.notes.add("uniqueItems is not enforced: a list may hold an item twice")
        if isinstance(made.get("format"), str):
            if made["format"] in _FREE_FORMATS:
                del made["format"]
            elif made["format"] in _PATTERNS:
                made.setdefault("pattern", _PATTERNS[made.pop("format")])
            elif made["format"] == "ipvanyaddress" and "anyOf" not in made:
                del made["format"]
                made["anyOf"] = [{"type": "string", "format": f} for f in ("ipv4", "ipv6")]
        for key, sign in _BOUNDS.items():
            if isinstance(made.get(key), (int, float)) and made[key] * sign > _LARGEST:
                made[key] = _LARGEST * sign
        for key in _MAPS:
            if isinstance(made.get(key), Mapping):
                made[key] = {name: self.closed(part) for name, part in made[key].items()}
        for key in _LISTS:
            if isinstance(made.get(key), list):
                made[key] = [self.closed(part, inside_all_of=inside_all_of) for part in made[key]]
        if isinstance(made.get("allOf"), list):
            made["allOf"] = [self.closed(part, inside_all_of=True) for part in made["allOf"]]
            inside_all_of = True
        for key in _SINGLE:
            if key in made:
                made[key] = self.closed(made[key])
        if "propertyNames" in made:
            self._name_properties(made)
        elif made.get("properties") and "$ref" not in made and not inside_all_of:
            made.setdefault("additionalProperties", "patternProperties" in made)
        return made

    def _name_properties(self, schema: dict[str, Any]) -> None:
        """Puts what propertyNames says of names where llguidance looks for it."""
        names, value = schema.pop("propertyNames"), schema.get("additionalProperties", {})
        if isinstance(names, Mapping) and str(names.get("$ref", "")).startswith("#/$defs/"):
            names = self._root.get("$defs", {}).get(names["$ref"].removeprefix("#/$defs/"))
        if names is True or names == {}:
            return
        if not isinstance(names, Mapping) or {"properties", "patternProperties"} & schema.keys():
            raise UsageError("JSON schema: propertyNames beside properties is not supported")
        kept = {k: part for k, part in names.items() if k not in ("type", "title", "description")}
        if set(kept) in ({"enum"}, {"const"}):
            allowed = kept.get("enum", [kept.get("const")])
            schema["properties"] = {str(name): value for name in allowed}
        elif set(kept) == {"pattern"}:
            schema["patternProperties"] = {str(kept["pattern"]): value}
        elif set(kept) == {"format"} and kept["format"] in _NAME_PATTERNS:
            schema["patternProperties"] = {_NAME_PATTERNS[kept["format"]]: value}
        elif set(kept) <= {"minLength", "maxLength"}:
            least, most = kept.get("minLength", 0), kept.get("maxLength", "")
            schema["patternProperties"] = {f"^.{{{least},{most}}}$": value}
        else:
            raise UsageError(
                f"JSON schema: propertyNames with {', '.join(sorted(kept))} is not supported"
            )
        schema["additionalProperties"] = False


def schema_notes(schema: str) -> tuple[str, ...]:
    """What the schema asks for that an answer is not held to."""
    parsed = _parsed(schema)
    closer = _Closer(parsed)
    closer.closed(parsed)
    return tuple(sorted(closer.notes))
