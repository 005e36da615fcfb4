"""JSON and TOML text from outside. Whatever is wrong with it becomes one line.

Python's own readers raise RecursionError where the text is nested deeply, give a bare ValueError
for a very long integer, and accept NaN and a key that is given twice.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from eftlocal.terminal_text import one_line

MAX_DEPTH = 200  # arrays and objects inside one another
_MAX_DIGITS = 20  # of an integer: 64 bits, and a sign


class TextError(ValueError):
    """One printable line: what is wrong with a text, and where in it."""


def parse_json(text: str | bytes) -> Any:
    """What a JSON text stands for. Bytes are UTF-8; a byte order mark before them is skipped.

    Raises:
        TextError: it is not UTF-8 or not JSON, a key is given twice, a number is too large, or
            it is nested more than MAX_DEPTH deep.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextError(f"not valid UTF-8 at byte {error.start + 1}") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, character {error.colno}"
        if error.lineno == 1:
            where = f"character {error.colno}"
        raise TextError(f"not JSON: {error.msg} ({where})") from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text.

    Raises:
        TextError: it is not TOML, an integer is too long, or it is nested more than MAX_DEPTH deep.
    """
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # its message ends with the line and column
        raise TextError(str(error)) from None
    except ValueError:  # int() takes 4300 digits
        raise TextError("a number has too many digits") from None
    except RecursionError:
        raise _too_deep() from None
    _check_depth(table)
    return table


def broken_text(value: object) -> str | None:
    """Where a JSON value holds text that UTF-8 cannot; None where all is well."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
        return None
    except (TypeError, ValueError):  # of the encoding, or this is no JSON value
        return _broken_at(value)


def _broken_at(value: object) -> str | None:
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        where, part = waiting.pop()
        if isinstance(part, str):
            if part.isascii():
                continue
            try:
                part.encode()
            except UnicodeEncodeError as error:
                return (
                    f"{where or 'it'}: not valid text: an unpaired surrogate at character "
                    f"{error.start}"
                )
        elif isinstance(part, Mapping):
            for key, inner in part.items():
                name = one_line(str(key), 40)
                waiting.append((f"{where}.{name}" if where else name, inner))
                if isinstance(key, str) and not key.isascii():
                    waiting.append((f"{where + ': ' if where else ''}key {name!r}", key))
        elif isinstance(part, (list, tuple)):
            waiting.extend((f"{where}[{i}]", inner) for i, inner in enumerate(part))
    return None


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for part in level for inner in _inside(part)]
    if any(isinstance(part, (dict, list)) for part in level):
        raise _too_deep()


def _inside(part: object) -> Iterable[object]:
    if isinstance(part, dict):
        return part.values()
    return part if isinstance(part, list) else ()


def _too_deep() -> TextError:
    return TextError(f"nested more than {MAX_DEPTH} deep; make it flatter")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        key = max(times, key=times.__getitem__)
        raise TextError(f"key {key[:40]!r} is given twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        digits = len(text.lstrip("-"))
        raise TextError(f"an integer of {digits} digits is too large; 64 bits are the most")
    return int(text)


def _real(text: str) -> float:
    if not math.isfinite(number := float(text)):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise TextError(f"the number {shown} is too large")
    return number


def _constant(text: str) -> NoReturn:
    raise TextError(f"not JSON: {text} is not a JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant
)
