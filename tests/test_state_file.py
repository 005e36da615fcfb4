"""Files of caches: what was written is read, and whatever else a file holds is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import state_file
from eftlocal.errors import UsageError
from eftlocal.state_file import Entry, Part, StateFile, write

BOUND: Mapping[str, Any] = {"n_ctx": 4096, "cache_type_k": "f16", "swa_full": False, "rope": None}
PREFIX = 24


def part(role: str, tokens: int, size: int) -> Part:
    numbers = np.random.default_rng(size)
    ids = numbers.integers(0, 1000, tokens).tolist()
    return Part(role, ids, numbers.integers(0, 256, size).astype(np.uint8))


PARTS = (part("base", 5, 300), part("tuned", 7, 90), part("reference", 0, 0))


def entries(parts: Iterable[Part], bound: Mapping[str, Any] = BOUND) -> dict[str, Entry]:
    return {
        p.role: Entry(bound=dict(bound), tokens=len(p.tokens), size=len(p.state)) for p in parts
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "a.state"
    assert write(file, entries(PARTS), PARTS) == file.stat().st_size
    return file


def read(file: Path, bound: Mapping[str, Any] = BOUND) -> list[Part]:
    with StateFile(file) as opened:
        opened.require(dict.fromkeys(("base", "tuned", "reference"), bound))
        return list(opened.parts())


def test_what_was_written_is_read(path: Path) -> None:
    for got, put in zip(read(path), PARTS, strict=True):
        assert (got.role, got.tokens) == (put.role, put.tokens)
        assert np.array_equal(got.state, put.state)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_only_its_user_may_read_it(path: Path) -> None:
    path.chmod(0o644)
    write(path, entries(PARTS), PARTS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state_file._key_path().stat().st_mode) == 0o600


@given(data=st.data())
def test_any_flipped_bit_is_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    file = tmp_path_factory.mktemp("flip") / "a.state"
    write(file, entries(PARTS), PARTS)
    whole = bytearray(file.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    file.write_bytes(whole)
    with pytest.raises(UsageError, match=r"^\S+a\.state: "):
        read(file)


@given(data=st.data())
def test_any_other_length_is_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    file = tmp_path_factory.mktemp("cut") / "a.state"
    write(file, entries(PARTS), PARTS)
    whole = file.read_bytes()
    if data.draw(st.booleans()):
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        file.write_bytes(whole + data.draw(st.binary(min_size=1, max_size=100)))
    with pytest.raises(UsageError, match=r"^\S+a\.state: "), StateFile(file) as opened:
        list(opened.parts())


@given(noise=st.binary(max_size=200), magic=st.booleans())
def test_noise_is_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, magic: bool
) -> None:
    file = tmp_path_factory.mktemp("noise") / "a.state"
    file.write_bytes(b"eftstate" * magic + noise)
    with pytest.raises(UsageError, match=r"^\S+a\.state: "):
        StateFile(file)


def forged(file: Path, header: Any, rest: bytes = b"", **changes: Any) -> None:
    """A file with this header and the right code for it, by one who has the key."""
    key = state_file._key()
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = struct.pack(
        "<8sI8sI",
        b"eftstate",
        changes.get("version", 1),
        changes.get("name", state_file._name_of(key)),
        changes.get("length", len(text)),
    )
    file.write_bytes(prefix + text + hmac.digest(key, prefix + text, "sha256") + rest)


ROLE = {"bound": {"n_ctx": 1}, "tokens": 0, "size": 0}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"null",
        b"\xff" * 40,
        b"[" * 5000,
        {},
        {"roles": {}},
        {"roles": {"base": {**ROLE, "tokens": -1}}},
        {"roles": {"base": {**ROLE, "size": -5}}},
        {"roles": {"base": {**ROLE, "size": 10**18}}},
        {"roles": {"base": {**ROLE, "size": 10**30}}},
        {"roles": {"base": {**ROLE, "tokens": 2**31}}},
        {"roles": {"base": {**ROLE, "tokens": 2**31 - 1}}},
        {"roles": {"base": {**ROLE, "tokens": "0"}}},
        {"roles": {"base": {**ROLE, "tokens": 0.5}}},
        {"roles": {"base": {**ROLE, "tokens": True}}},
        {"roles": {"base": {**ROLE, "bound": {"n_ctx": [1]}}}},
        {"roles": {"base": {**ROLE, "more": 1}}},
        {"roles": {str(i): ROLE for i in range(65)}},
        {"roles": [ROLE]},
        {"roles": {"base": ROLE}, "more": 1},
        b'{"roles": {"base": {"bound": {}, "tokens": 0, "size": 0}, "base": 1}}',
    ],
    ids=lambda header: str(header)[:50],
)
def test_headers_that_are_none_are_refused(tmp_path: Path, header: Any) -> None:
    file = tmp_path / "a.state"
    forged(file, header)
    with pytest.raises(UsageError, match=r"a\.state: is damaged or cut off"):
        StateFile(file)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2}, "is of version 2, and this program reads 1"),
        ({"name": b"somebody"}, "was written on another machine, by another user or under a key"),
        ({"length": 2**32 - 1}, "is damaged or cut off"),
        ({"length": 0}, "is damaged or cut off"),
    ],
)
def test_prefixes_that_are_another_are_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    file = tmp_path / "a.state"
    forged(file, {"roles": {"base": ROLE}}, bytes(32), **changes)
    with pytest.raises(UsageError, match=says):
        StateFile(file)


def test_parts_cannot_be_exchanged(path: Path) -> None:
    """A code is of the file and the role that it stands in."""
    same = [part("base", 5, 300), part("tuned", 5, 300)]
    write(path, entries(same), same)
    whole = path.read_bytes()
    length = 5 * 4 + 300 + 32
    head, one, two = whole[: -2 * length], whole[-2 * length : -length], whole[-length:]
    path.write_bytes(head + two + one)
    with pytest.raises(UsageError, match="damaged"), StateFile(path) as opened:
        list(opened.parts())


def test_a_file_of_another_machine_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(path.parent / "other"))
    with pytest.raises(UsageError, match="was written on another machine, by another"):
        StateFile(path)


def test_a_torn_key_is_made_anew(path: Path) -> None:
    key = state_file._key_path()
    key.write_bytes(b"torn")
    with pytest.raises(UsageError, match="another machine"):
        StateFile(path)
    assert len(key.read_bytes()) == 32 and [key] == list(key.parent.glob("state.key*"))
    write(path, entries(PARTS), PARTS)
    assert len(read(path)) == 3


def test_a_key_of_another_user_is_not_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made it could make up a file for us."""
    if os.name != "posix":
        pytest.skip("owners of POSIX")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UsageError, match=r"state\.key: the key .*: it is another user's; set"):
        StateFile(path)
    with pytest.raises(UsageError, match=r"state\.key: the key .*: it is another user's"):
        write(path, entries(PARTS), PARTS)


def test_a_key_is_made_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "a.state", entries(PARTS), PARTS)
    assert len(read(tmp_path / "a.state")) == 3
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["state.key"]


def test_a_key_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"file.state\.key: the key of saved caches cannot be"):
        write(tmp_path / "a.state", entries(PARTS), PARTS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_ctx": 2048}, "was saved with n_ctx 4096 of base; now it is 2048"),
        ({"cache_type_k": "q8_0"}, "was saved with cache_type_k f16 of base; now it is q8_0"),
        ({"swa_full": True}, "was saved with swa_full off of base; now it is on"),
        ({"rope": 10000.0}, "was saved with rope unset of base; now it is 10000.0"),
        ({"n_ctx": 4096.0}, "was saved with n_ctx 4096 of base; now it is 4096.0"),
        ({"model file:": "abc"}, "was saved with another model file of base"),
    ],
)
def test_what_it_is_not_bound_to_is_named(path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{path}: {says}")):
        read(path, {**BOUND, **changes})


def test_roles_that_are_missing_are_named(path: Path) -> None:
    with StateFile(path) as opened:
        with pytest.raises(UsageError, match="was saved with a role reference; what is loaded has"):
            opened.require(dict.fromkeys(("base", "tuned"), BOUND))
        four = dict.fromkeys(("base", "tuned", "reference", "plain"), BOUND)
        with pytest.raises(UsageError, match="was saved without a role plain; what is loaded has"):
            opened.require(four)


def test_what_goes_wrong_leaves_the_old_file(path: Path) -> None:
    before = hashlib.sha256(path.read_bytes()).digest()
    larger = [part("base", 5, 3 << 20)]

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, entries(larger), larger, stop)
    with pytest.raises(UsageError, match="the caches changed while they were saved"):
        write(path, entries(PARTS), larger)
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "", "missing", "with\0nul"):
        with pytest.raises(UsageError, match="cannot be read"):
            StateFile(tmp_path / name)
    with pytest.raises(UsageError, match="cannot be written"):
        write(tmp_path / "no folder" / "a", entries(PARTS), PARTS)
