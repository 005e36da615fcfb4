"""Rows on disk: torn, damaged, foreign, full, locked; nothing that was done is lost."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.errors import EftlocalError, ModelFileError, UsageError
from eftlocal.journal import file as file_module
from eftlocal.journal import journal as journal_module
from eftlocal.journal.file import WholeLines, encoder
from eftlocal.journal.journal import Journal, Kind
from eftlocal.journal.manifest import (
    brief,
    differences,
    in_one_line,
    manifest_path,
    of_roles,
    read_manifest,
    write_manifest,
)
from eftlocal.loading.roles import RoleSource
from eftlocal.output_file import check_place

MANIFEST = {"seed": "0", "input": "x"}
KIND = Kind("trial", "a row of a trial", "give another file")
ROWS = [{"n": 0, "text": "ä\u2028\n\x00"}, {"n": 1, "text": ""}, {"n": 2, "text": "𝛽 " * 9}]
BOTH = pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals, limits and links of POSIX")


def opened(path: Path, rows: list[Any] | None = None, **more: Any) -> Journal:
    found: list[Any] = [] if rows is None else rows

    def take(row: Any) -> None:
        found.append({"n": row["n"], "text": row["text"]})

    return Journal(path, more.pop("manifest", MANIFEST), kind=KIND, take=take, **more)


def written(path: Path, rows: list[dict[str, Any]] = ROWS) -> bytes:
    with opened(path) as journal:
        for row in rows:
            journal.add(row)
    return path.read_bytes()


def there(path: Path, **more: Any) -> list[Any]:
    rows: list[Any] = []
    opened(path, rows, **more).close()
    return rows


def ends(path: Path) -> list[int]:
    """Where each row ends in the file."""
    sizes = [len(encoder(path)(journal_module.as_line(row))) for row in ROWS]
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]


CHILD = """
import json, os, signal, sys
from pathlib import Path
from eftlocal import disk
from eftlocal.errors import EftlocalError
from eftlocal.journal.journal import Journal, Kind
from eftlocal.output_file import check_place
path = Path(sys.argv[1])
def opened(path=path, take=print, **more):
    return Journal(path, {"seed": "0", "input": "x"}, kind=Kind("", "", ""), take=take, **more)
"""


def words(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", CHILD + code, *map(str, arguments)]


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words(code, *arguments), capture_output=True, text=True, check=False)


# Written and read --------------------------------------------------------------------------------


@BOTH
def test_rows_are_read_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    data = written(path)
    assert there(path) == ROWS
    text = gzip.decompress(data) if name.endswith(".gz") else data
    assert text == b"".join(journal_module.as_line(row) + b"\n" for row in ROWS)
    assert "ä".encode() in text and b'{"n":0,"text":' in text
    with pytest.raises(ValueError, match="not JSON compliant"), opened(path) as journal:
        journal.add({"n": float("nan")})
    assert path.read_bytes() == data


def test_an_unpaired_surrogate_is_still_json() -> None:
    line = journal_module.as_line({"x": "\ud800"})
    assert json.loads(line.decode("utf-8")) == {"x": "\ud800"}


def test_a_row_is_one_line_for_every_reader_and_drives_no_terminal() -> None:
    text = "".join(map(chr, (*range(0x3000), 0xFEFF, 0x1F600)))
    line = journal_module.as_line({"custom_id": text}).decode()
    assert json.loads(line)["custom_id"] == text
    assert len(line.splitlines()) == 1
    assert not {c for c in line if unicodedata.category(c) in ("Cc", "Zl", "Zp")}
    assert not set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068") & set(line)
    assert "\u00e4" in line  # and the rest is as it was


@BOTH
@pytest.mark.parametrize("after", [b"", b"\0", b"\0" * 5000])
def test_torn_at_any_byte_the_last_row_is_lost_at_most(
    name: str, after: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    whole = written(path)
    borders = ends(path)
    assert borders[-1] == len(whole)
    for cut in range(len(whole) + 1):
        torn = whole[:cut] + after
        path.write_bytes(torn)
        kept = sum(torn.startswith(whole[:border]) for border in borders)
        assert kept == sum(border <= cut for border in borders) or after  # rows may end in zeros
        rows: list[Any] = []
        with opened(path, rows) as journal:
            assert rows == ROWS[:kept], cut
            for row in ROWS[kept:]:
                journal.add(row)
        assert path.read_bytes() == whole


def test_a_last_line_of_zeros_with_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = written(path)
    path.write_bytes(whole + b'{"n":' + b"\0" * 40 + b"\n")
    assert there(path) == ROWS
    assert path.read_bytes() == whole


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 3))
def test_any_bytes_are_read_or_refused(noise: bytes, packed: bool, before: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.gz" if packed else "x")
        lines = [b"a", b"", b"b" * 99][:before]
        start = b"".join(encoder(path)(line) for line in lines)
        path.write_bytes(start + noise)
        whole = WholeLines(path)
        try:
            found = list(whole)
        except UsageError as refused:
            assert "\n" not in str(refused)
            return
        assert found[:before] == lines
        assert len(start) <= whole.end <= len(start + noise)
        assert whole.torn == (whole.end < len(start + noise))
        if not packed:
            assert b"".join(line + b"\n" for line in found) == (start + noise)[: whole.end]


def test_a_file_packed_anew_as_one_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.gz"
    text = gzip.decompress(written(path))
    solid = gzip.compress(text)
    path.write_bytes(solid)
    with opened(path) as journal:
        journal.add({"n": 3, "text": "more"})
    assert there(path) == [*ROWS, {"n": 3, "text": "more"}]
    path.write_bytes(solid[:-1])  # would lose three rows
    with pytest.raises(UsageError, match="a gzip member is broken, and not the last row alone"):
        there(path)
    assert path.read_bytes() == solid[:-1]


def test_memory_is_that_of_a_row(tmp_path: Path) -> None:
    for name in ("out.jsonl", "out.jsonl.gz"):
        path = tmp_path / name
        encode = encoder(path)
        write_manifest(path, MANIFEST)
        with path.open("wb") as file:
            for n in range(3000):
                file.write(encode(b'{"n":%d,"text":"%s"}' % (n, os.urandom(500).hex().encode())))
        assert path.stat().st_size > 1_500_000
        count = 0

        def take(row: Any) -> None:
            nonlocal count
            count += row["n"] >= 0

        tracemalloc.start()
        Journal(path, MANIFEST, kind=KIND, take=take, keep=lambda row: row["n"] % 2 == 0).close()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == 1500 and peak < 700_000, (count, peak)


# Damaged or another's ----------------------------------------------------------------------------


@BOTH
def test_damage_in_the_middle_is_named_and_nothing_is_cut(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = written(path)
    first, second, _ = ends(path)
    says = "damaged after line 1" if name.endswith(".gz") else "line 2: not a row of a trial"
    for at in (first, first + 12, second - 5):  # of gzip: header, text, checksum of the second row
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=says):
            there(path)
        assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":1}\n', "line 1: not a row of a trial; give another file"),
        (b'{"n":1,"text":"x"}\n{"a":1}\n', "line 2: not a row of a trial"),
        (b'{"n":1,"text":"x"}\nnotes\n', "line 2: not a row of a trial"),
        (b"[1]\n", "line 1: not a row of a trial"),
        (b"\n", "line 1: not a row of a trial"),
        (b"\xff\xfe\n", "line 1: not a row of a trial"),
        (b'{"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "line 1: not a row of a trial"),
        (b'{"n":' + b"9" * 5000 + b"}\n", "line 1: not a row of a trial"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_something_else(data: bytes, says: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("out.gz" if packed else "out")
    data = gzip.compress(data) if packed else data
    write_manifest(path, MANIFEST)
    path.write_bytes(data)
    for more in ({}, {"keep": lambda row: bool(row["n"])}):
        with pytest.raises(UsageError) as refused:
            there(path, **more)
        assert f"{path}, {says}" in str(refused.value)
        assert path.read_bytes() == data


def test_plain_text_is_no_gzip_and_gzip_no_plain_text(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    data, members = written(plain), written(packed)
    packed.write_bytes(data)
    with pytest.raises(UsageError, match="damaged from its beginning: what follows is no gzip"):
        there(packed)
    for foreign in (members, b"\0" + members, b"A note without its newline"):
        plain.write_bytes(foreign)
        with pytest.raises(UsageError, match=r"its end is no part of a row|not a row of a"):
            there(plain)
        assert plain.read_bytes() == foreign
    assert packed.read_bytes() == data


def test_a_bomb_is_not_unpacked_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "LONGEST", 2 << 20)
    path = tmp_path / "out.gz"
    write_manifest(path, MANIFEST)
    bomb = zlib.compressobj(9, wbits=31)
    path.write_bytes(b"".join(bomb.compress(bytes(1 << 20)) for _ in range(9)) + bomb.flush())
    with pytest.raises(UsageError, match="a line is too long to be a row"):
        there(path)


def test_without_its_manifest_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = written(path)
    for text in ("[]", "[" * 100_000, "9" * 5000):
        manifest_path(path).write_text(text)
        with pytest.raises(UsageError, match=r"out\.jsonl\.manifest\.json is no manifest of a run"):
            there(path)
    manifest_path(path).unlink()
    with pytest.raises(UsageError) as refused:
        there(path)
    assert str(refused.value) == (
        f"{path} has no out.jsonl.manifest.json beside it, so it may not be a trial; give another "
        "file"
    )
    assert path.read_bytes() == whole
    path.with_name("out.jsonl.lock").unlink()
    with pytest.raises(UsageError, match="it may not be a trial"):
        there(path)
    assert [file.name for file in path.parent.iterdir()] == ["out.jsonl"]  # and no lock


@POSIX
def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = written(path)
    manifest_path(path).unlink()
    os.mkfifo(manifest_path(path))
    with pytest.raises(UsageError, match=r"manifest\.json: cannot be read: is not a regular file"):
        there(path)
    assert path.read_bytes() == whole


def test_an_empty_file_is_anybodys(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    with opened(path, manifest={"seed": "1"}):
        assert read_manifest(path) == {"seed": "1"}
    with opened(path):
        assert read_manifest(path) == MANIFEST


# Other processes ---------------------------------------------------------------------------------


def other(path: Path) -> Path:
    found = path.with_name("other")
    found.write_text("other\n")
    return found


Attack = Callable[[Path, Path], object]
ATTACKS: dict[str, tuple[Attack, str]] = {
    "unlink": (lambda path, _: path.unlink(), "was removed W: 2 rows lost; R to start over"),
    "rename": (
        lambda path, new: path.rename(new),
        "was moved away W: 2 rows safe in N; put it back and R to resume",
    ),
    "replace": (
        lambda path, _: other(path).replace(path),
        "was replaced by another file W: 2 rows lost, unless that file holds them; R",
    ),
    "rename and make anew": (
        lambda path, new: (path.rename(new), path.touch()),
        "was replaced by another file W: 2 rows safe in N; put it back and R to resume",
    ),
    "hard link and replace": (
        lambda path, new: (os.link(path, new), other(path).replace(path)),
        "was replaced by another file W: 2 rows safe in N; put it back and R to resume",
    ),
    "rename and link elsewhere": (
        lambda path, new: (path.rename(new), path.symlink_to(other(path))),
        "was replaced by another file W: 2 rows safe in N; put it back and R to resume",
    ),
    "cut": (
        lambda path, _: os.truncate(path, 0),
        "was cut from SIZE to 0 bytes W: the remaining rows are safe; R to answer the others",
    ),
    "cut in a row": (
        lambda path, _: os.truncate(path, path.stat().st_size - 3),
        "was cut from SIZE to LESS bytes W: the remaining rows are safe; R to answer",
    ),
    "write": (
        lambda path, _: path.open("ab").write(b"x\n"),
        "grew by 2 bytes that this run did not write W: 2 rows safe before them; see what else",
    ),
    "fill with zeros": (
        lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
        "was overwritten W: its rows are lost; give another output file",
    ),
    "rename the folder": (
        lambda path, new: path.parent.rename(new),
        "was moved away W: 2 rows safe in N/NAME; put it back and R to resume",
    ),
}


@POSIX
@BOTH
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("at_the_end", [False, True])
def test_what_others_do_to_the_file_is_told(
    name: str, attack: str, at_the_end: bool, tmp_path: Path
) -> None:
    path = tmp_path / "here" / name
    path.parent.mkdir()
    new = tmp_path / "new" if "folder" in attack else path.with_name("new")
    journal = opened(path)
    for row in ROWS[:2]:
        journal.add(row)
    size = path.stat().st_size
    act, says = ATTACKS[attack]
    act(path, new)
    if at_the_end:
        with pytest.raises(EftlocalError) as told:
            journal.close()
    else:
        with pytest.raises(EftlocalError) as told:
            journal.add(ROWS[2])
        with pytest.raises(EftlocalError, match="while the run wrote it"):
            journal.add(ROWS[2])
        journal.close()  # says nothing twice
    words = {"W": "while the run wrote it", "R": "run the same command again", "NAME": name}
    words |= {"N": str(new), "SIZE": str(size), "LESS": str(size - 3)}
    for key, value in words.items():
        says = re.sub(rf"\b{key}\b", lambda _, v=value: v, says)
    assert str(told.value).startswith(f"{path} {says}") and told.value.exit_code == 1
    assert "\n" not in str(told.value)
    if "safe in" in says:
        kept = new / name if new.is_dir() else new
        shutil.copy(kept, tmp_path / name)
        shutil.copy(manifest_path(kept if new.is_dir() else path), manifest_path(tmp_path / name))
        assert there(tmp_path / name) == ROWS[:2]
    elif "remaining" in says:
        assert there(path) == ROWS[: int(attack == "cut in a row")]
    elif "before them" in says:
        path.write_bytes(path.read_bytes()[:-2])
        assert there(path) == ROWS[:2]


@POSIX
def test_a_link_may_be_put_in_the_place_of_the_file(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "out.jsonl", tmp_path / "disk2.jsonl"
    with opened(path) as journal:
        journal.add(ROWS[0])
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        journal.add(ROWS[1])
    assert len(elsewhere.read_bytes().splitlines()) == 2


@POSIX
def test_a_file_that_is_cut_in_the_middle_of_a_write_gets_no_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"

    def write(file: Any, data: bytes) -> None:
        os.truncate(path, 0)
        file.write(data)

    with opened(path) as journal:
        journal.add(ROWS[0])
        monkeypatch.setattr(file_module, "write_all", write)
        with pytest.raises(EftlocalError, match="was cut from"):
            journal.add({"n": 1, "text": ""})
    assert path.read_bytes() == journal_module.as_line({"n": 1, "text": ""}) + b"\n"


@POSIX
@pytest.mark.parametrize("text", [None, "{}", "[" * 10_000])
def test_a_manifest_that_others_took_away_is_written_again(
    text: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    with opened(path) as journal:
        journal.add(ROWS[0])
        manifest_path(path).unlink()
        if text is not None:
            manifest_path(path).write_text(text)
    assert there(path) == ROWS[:1]


# Manifests ---------------------------------------------------------------------------------------


def test_differences_are_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    written(path)
    with pytest.raises(UsageError) as refused:
        there(path, manifest={"seed": "1", "input": "x", "stop": "[]"})
    assert str(refused.value) == (
        f"{path} holds another trial: seed was 0 and is 1; stop was not there and is []. "
        "Give another file"
    )
    assert there(path) == ROWS
    old, new = "0123456789abcdef" * 4, "f" * 64
    assert differences({"f": f"a (sha256 {old})", "g": "1"}, {"f": f"a (sha256 {new})"}) == [
        "f was a (sha256 0123456789ab) and is a (sha256 ffffffffffff)",
        "g was 1 and is not there",
    ]
    assert in_one_line("abcdefghi") == "a; b; c; d; e; f; and 3 more"
    assert brief("x" * 120) == "x" * 120
    assert len(brief("x" * 999)) < 130 and brief("x" * 999) != brief("x" * 998 + "y")


def test_a_model_is_known_by_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    data = bytearray(3 << 20)
    path.write_bytes(data)
    source = RoleSource(path, n_ctx=512, prompt="{{ messages }}", without_system=True)
    before = of_roles({"base": source})
    assert before["prompt of base"].startswith("template ")
    assert before["prompt of base"].endswith(" without system")
    assert before["n_ctx of base"] == "512"
    data[len(data) // 2] = 1  # neither at its beginning nor at its end
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    (told,) = differences(before, of_roles({"base": source}))
    assert told.startswith("file of base was m.gguf (3145728 bytes, sha256 ")
    path.unlink()
    with pytest.raises(ModelFileError, match=r"m\.gguf: No such file"):
        of_roles({"base": source})


# Places ------------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "no" / "out.jsonl", "there is no folder"),
        (Path(os.devnull), "is a pipe or a device, not a file"),
    ):
        for refuse in (check_place, opened):
            with pytest.raises(UsageError, match=says):
                refuse(path)
    assert list(tmp_path.iterdir()) == []


@POSIX
def test_the_name_of_a_pipe_is_no_file() -> None:
    ends = os.pipe()
    try:
        with pytest.raises(UsageError, match="is a pipe or a device, not a file"):
            check_place(Path(f"/dev/fd/{ends[1]}"))
    finally:
        for end in ends:
            os.close(end)


OPEN = """
if os.getuid() == 0:
    os.setuid(65534)  # root may write everywhere
for refuse in (check_place, opened):
    try:
        refuse(path)
    except EftlocalError as error:
        print(error)
"""


@POSIX
def test_a_read_only_file_and_a_read_only_folder() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "there.jsonl").write_bytes(b"")
        (folder / "there.jsonl").chmod(0o444)
        folder.chmod(0o555)
        for file, says in (
            ("there.jsonl", "Permission denied"),
            ("new.jsonl", f"the folder {folder.resolve()} is not writable"),
        ):
            found = child(OPEN, folder / file)
            lines = [f"cannot write {folder / file}: {says}"] * 2
            assert found.stdout.splitlines() == lines, found.stderr
        folder.chmod(0o755)


@POSIX
def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(real)
    written(link)
    assert there(real) == ROWS == there(link, keep=lambda row: True)
    assert link.is_symlink() and sorted(p.name for p in tmp_path.iterdir()) == ["far", "link.jsonl"]
    with opened(real), pytest.raises(UsageError, match="another trial is writing it; wait for it"):
        opened(link)


HOLD = """
with opened():
    print("open", flush=True)
    sys.stdin.read()
"""


def test_one_process_writes_and_its_end_frees_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with subprocess.Popen(
        words(HOLD, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"open\n"
        with pytest.raises(UsageError, match="another trial is writing it; wait for it"):
            there(path)
        process.kill()
    assert there(path) == []


# The disk refuses --------------------------------------------------------------------------------

FILL = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
done = 0
try:
    with opened() as journal:
        while True:
            journal.add({"n": done, "text": "x" * (7 * done % 50)})
            done += 1
except EftlocalError as error:
    print(json.dumps([done, str(error)]))
"""


@POSIX
@BOTH
@pytest.mark.parametrize("limit", [10, 400, 401, 427, 450])
def test_a_full_disk_keeps_what_is_done(name: str, limit: int, tmp_path: Path) -> None:
    path = tmp_path / name
    found = child(FILL, path, limit)
    done, says = json.loads(found.stdout)
    if limit == 10:  # which has no room for the manifest
        assert done == 0 and says == f"cannot write {path}: File too large"
    else:
        assert done >= 2 and path.stat().st_size <= limit
        assert says == (
            f"{path}: File too large; what is done is kept, so make room and run the same command "
            "again"
        )
    assert [row["n"] for row in there(path)] == list(range(done))
    assert not list(tmp_path.glob("*.part"))
    with opened(path) as journal:
        journal.add({"n": done, "text": ""})
    assert [row["n"] for row in there(path)] == list(range(done + 1))


def half_then(error: BaseException) -> Callable[[Any, bytes], None]:
    def write(file: Any, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        raise error

    return write


@BOTH
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_after_a_failed_write_the_next_row_follows_the_last_whole_one(
    name: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    with opened(path) as journal:
        for row in (ROWS[0], ROWS[2]):
            journal.add(row)
            with monkeypatch.context() as patch:
                patch.setattr(file_module, "write_all", half_then(error))
                with pytest.raises((EftlocalError, KeyboardInterrupt)):
                    journal.add(ROWS[1])
    sizes = (len(encoder(path)(journal_module.as_line(row))) for row in (ROWS[0], ROWS[2]))
    assert path.stat().st_size == sum(sizes)
    assert there(path) == [ROWS[0], ROWS[2]]


def test_rows_go_to_the_disk_once_a_second_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, synced = [100.0], [0]
    path = tmp_path / "out.jsonl"
    monkeypatch.setattr(journal_module.time, "monotonic", lambda: now[0])
    journal = opened(path, sync_seconds=1.0)
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced[0] += 1
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    counts = []
    for seconds in (0.1, 0.8, 0.2, 0.3, 5.0):
        now[0] += seconds
        journal.add(ROWS[0])
        journal.sync()
        counts.append(synced[0])
        assert len(path.read_bytes().splitlines()) == len(counts)  # with the system at once
    assert counts == [0, 0, 1, 1, 2]
    journal.sync()
    now[0] += 5.0
    journal.sync()
    assert synced[0] == 2  # nothing waited
    for _ in range(2):
        journal.add(ROWS[0])
        journal.sync()
        now[0] += 0.5
    assert synced[0] == 3
    journal.close()
    journal.close()
    assert synced[0] == 4


def test_a_failed_sync_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "out.jsonl"
    with opened(path) as journal:
        journal.add(ROWS[0])
        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(EftlocalError, match="Input/output error; what is done is kept, so see"):
            journal.sync()
        journal.sync()
    monkeypatch.undo()
    assert there(path) == ROWS[:1]


WRITE = """
rows = []
with opened(take=rows.append, sync_seconds=1) as journal:
    for n in range(len(rows), 100_000):
        journal.add({"n": n, "text": "x" * (n % 90)})
        journal.sync()
        print(n, flush=True)
"""


@BOTH
def test_killed_after_any_row_it_goes_on_with_the_next(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    told = -1
    for rows in (1, 37, 400):
        with subprocess.Popen(words(WRITE, path), stdout=subprocess.PIPE) as process:
            assert process.stdout
            numbers = [int(process.stdout.readline()) for _ in range(rows)]
            process.kill()
        found = [row["n"] for row in there(path)]
        assert numbers[0] > told and found == list(range(len(found))) and numbers[-1] in found
        told = numbers[-1]


# Rows taken out ----------------------------------------------------------------------------------


@BOTH
def test_rows_are_taken_out(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = written(path)
    path.write_bytes(whole[:-1])  # the last row is torn too
    path.chmod(0o640)
    assert there(path, keep=lambda row: row["n"] != 0) == [ROWS[1]]
    assert there(path) == [ROWS[1]]
    assert path.stat().st_mode & 0o777 == 0o640 or os.name != "posix"
    assert not list(tmp_path.glob("*.part"))


KILLED = """
step = sys.argv[2]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def keep(row):
    if step == "reading" and row["n"] == 2:
        kill()
    return row["n"] != 0
if step == "fsync":
    os.fsync = kill
if step == "replace":
    Path.replace = kill
if step == "replaced":
    disk.sync_folder = kill
opened(keep=keep)
"""


@POSIX
@pytest.mark.parametrize("step", ["reading", "fsync", "replace", "replaced"])
def test_killed_while_rows_are_taken_out_the_file_is_the_old_or_the_new(
    step: str, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    written(path)
    found = child(KILLED, path, step)
    assert found.returncode == -signal.SIGKILL, found.stderr
    new = step == "replaced"
    assert there(path) == (ROWS[1:] if new else ROWS)
    assert there(path, keep=lambda row: row["n"] != 0) == ROWS[1:]


@POSIX
def test_a_full_disk_while_rows_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = written(path)
    code = FILL.replace("opened()", "opened(take=id, keep=bool)").replace(
        "while True", "while False"
    )
    found = child(code, path, len(whole) - 1)
    assert json.loads(found.stdout) == [0, f"cannot write {path}: File too large"]
    assert path.read_bytes() == whole and not list(tmp_path.glob("*.part"))
