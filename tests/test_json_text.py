"""JSON and TOML from outside: a value, or one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eftlocal
from eftlocal.json_text import MAX_DEPTH, TextError, parse_json, parse_toml

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_json_comes_through(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text) == parse_json(b"\xef\xbb\xbf" + text.encode()) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON: Expecting value (character 1)"),
        ('{"a":\n}', "not JSON: Expecting value (line 2, character 1)"),
        (b'{"a": "\xff"}', "not valid UTF-8 at byte 8"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ('{"\\u001b": 1, "\\u001b": 2}', r"key '\x1b' is given twice"),
        ("NaN", "not JSON: NaN is not a JSON number"),
        ("1e999", "the number 1e999 is too large"),
        ("9" * 5000, "an integer of 5000 digits is too large; 64 bits are the most"),
        (
            "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
            "nested more than 200 deep; make it flatter",
        ),
        ("[" * 100_000 + "]" * 100_000, "nested more than 200 deep; make it flatter"),
        ('{"a":' * 100_000, "nested more than 200 deep; make it flatter"),
    ],
)
def test_what_is_wrong_with_json_is_one_line(text: str | bytes, says: str) -> None:
    with pytest.raises(TextError) as refused:
        parse_json(text)
    assert str(refused.value) == says


def test_json_may_be_nested_and_brackets_in_strings_do_not_count() -> None:
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(nested) == json.loads(nested)
    assert parse_json('["' + "[" * 1000 + '"]') == ["[" * 1000]
    assert len(parse_json("[" + "{}," * 1000 + "{}]")) == 1001


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = ", "Invalid value (at end of document)"),
        ("a = " + "[" * 100_000, "nested more than 200 deep; make it flatter"),
        (".".join("a" * 300) + " = 1", "nested more than 200 deep; make it flatter"),
        ("a = " + "9" * 5000, "a number has too many digits"),
    ],
)
def test_what_is_wrong_with_toml_is_one_line(text: str, says: str) -> None:
    with pytest.raises(TextError) as refused:
        parse_toml(text)
    assert str(refused.value) == says


def test_nothing_else_reads_text_from_outside() -> None:
    """Other calls of `json` read what this program wrote to itself a moment ago."""
    own = {"selftest.py", "json_text.py", "batch/lines.py", "batch/prompt_bound.py"}
    own |= {"prompt/tools.py"}
    own |= {"child_process.py", "child_service.py"}
    own |= {"server/app.py", "server/engine_child.py", "server/engine_process.py"}
    own |= {"evaluation/sandbox.py", "evaluation/sandbox_child.py"}
    package = Path(eftlocal.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"json\.loads?\(|tomllib", path.read_text("utf-8"))
    }
    assert found == own
