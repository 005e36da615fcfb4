"""Adds presets to the user's file. What stands in it, comments too, stays as it is.

A preset that the program wrote stands between two comments, and only such a one is ever replaced.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import FileLock

from eftlocal.disk import cache_folder, read_text, replacing
from eftlocal.errors import UsageError
from eftlocal.presets.reading import load_presets, user_path
from eftlocal.presets.schema import NAME

_BEGIN, _END = "# written by eftlocal: {}", "# end of {}"
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def check_name(
    name: str,
    *,
    replace: bool,
    force: str = "--force",
    other: str = "give another name with --name",
) -> None:
    """Refuses a name that cannot be given to a new preset.

    Args:
        replace: a preset of this name that the program wrote may be replaced.
        force, other: what a person can do, for the message.

    Raises:
        UsageError: the name is taken, or is none.
    """
    if not re.match(NAME, name):
        raise UsageError(f'"{name}" is no name for a preset; take letters, digits, - and .')
    if name not in load_presets():
        return
    if not is_written(name):
        raise UsageError(f'there is a preset "{name}" already; {other}')
    if not replace:
        raise UsageError(f'there is a preset "{name}" already; {force} replaces it; or {other}')


def made_by(name: str) -> str:
    """The evidence of a file that was quantized for a preset."""
    return f"made by `eftlocal models optimize {name}`"


def optimized_of(name: str) -> str | None:
    """The preset that was made from this one, if any."""
    for preset in load_presets().values():
        if any(role.evidence == made_by(name) for role in preset.roles.values()):
            return preset.name
    return None


def is_written(name: str) -> bool:
    """Whether the program wrote the preset, and may take it out again."""
    return _block(_text(), name) is not None


def remove_preset(name: str) -> None:
    """Takes a preset that the program wrote out of the user's file.

    Raises:
        UsageError: the file cannot be written; nothing was changed.
    """
    with _alone():
        text = _text()
        if (block := _block(text, name)) is not None:
            before, after = text[: block.start()].rstrip(), text[block.end() :].lstrip("\n")
            _write("\n\n".join(filter(None, (before, after))))


@contextmanager
def _alone() -> Iterator[None]:
    """Between reading and writing the file, no other process changes it."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / "models.toml.lock"):
        yield


def add_preset(table: Mapping[str, Any], comment: str) -> None:
    """Puts a preset at the end of the user's file, in the place of one of that name.

    Args:
        table: as in TOML; its paths must be absolute.
        comment: a line about it.

    Raises:
        UsageError: the file cannot be written, is not right as it is, or has another preset of
            that name by now; nothing was changed.
    """
    name = str(table["name"])
    lines = [_BEGIN.format(name), f"# {' '.join(comment.split())}", "[[preset]]"]
    lines += _table(table, "preset")
    new = "\n".join([*lines, _END.format(name), ""])
    with _alone():
        check_name(name, replace=True)
        text = _text()
        if (block := _block(text, name)) is not None:
            text = text[: block.start()] + text[block.end() :]
        _write("\n\n".join(filter(None, (text.rstrip(), new))))


def _write(text: str) -> None:
    path = user_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path.resolve()) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None


def _text() -> str:
    return read_text(user_path()) if user_path().is_file() else ""


def _block(text: str, name: str) -> re.Match[str] | None:
    """Where a preset of the program's stands in the file."""
    begin, end = re.escape(_BEGIN.format(name)), re.escape(_END.format(name))
    return re.search(rf"^{begin}\n(?s:.*?)^{end}\n?", text, re.MULTILINE)


def _table(table: Mapping[str, Any], name: str) -> list[str]:
    """The lines of a table: its values, then the tables in it."""
    lines = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if k != "roles"]
    for role, of_role in table.get("roles", {}).items():
        lines += ["", f"[{name}.roles.{_key(role)}]", *_table(of_role, "")]
    return lines


def _key(key: str) -> str:
    return key if _BARE.match(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):  # JSON's strings are TOML's, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return (
        str(value).lower() if isinstance(value, float) and math.isinf(value) else json.dumps(value)
    )
