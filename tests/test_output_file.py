"""One rule for every file that a verb is asked to write, checked before the work."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.disk import replacing
from eftlocal.errors import UsageError
from eftlocal.output_file import check_outputs, write_whole
from eftlocal.presets.reading import user_path

POSIX = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and links of POSIX")

# Every option of every verb that names a file to write; {} is the file, {prompts} an input.
WRITERS = {
    "inspect --html": ["inspect", "hi", "--html", "{}"],
    "inspect --plot": ["inspect", "--prompts", "{prompts}", "--plot", "{}"],
    "bench --json": ["bench", "--prompts", "{prompts}", "--json", "{}"],
    "bench --plot": ["bench", "--plot", "{}"],
    "doctor --report": ["doctor", "--report", "{}"],
    "eval --html": ["eval", "{prompts}", "--out", "{out}", "--html", "{}"],
    "eval --plot": ["eval", "{prompts}", "--out", "{out}", "--plot", "{}"],
}
ROWS = {
    "eval --out": ["eval", "{prompts}", "--out", "{}"],
    "batch": ["batch", "{prompts}", "{}"],
    "batch merge": ["batch", "merge", "{}", "{prompts}"],
}


def refused(command: list[str], file: Path | str, folder: Path) -> str:
    """What a verb says instead of writing `file`; in `folder` nothing is changed."""
    prompts = folder / "prompts.jsonl"
    if not prompts.exists():
        prompts.write_text('{"prompt": "hi"}\n')
    before = state(folder)
    places = {"prompts": str(prompts), "out": str(folder / "rows.jsonl")}
    words = [word.format(str(file), **places) for word in command]
    result = CliRunner().invoke(app, words, prog_name="eftlocal")
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("eftlocal: ") and result.stderr.count("\n") == 1
    assert not result.stdout
    assert state(folder) == before
    return result.stderr


def state(folder: Path) -> dict[str, object]:
    return {
        p.name: (p.read_bytes() if p.is_file() else None, p.is_symlink())
        for p in sorted(folder.iterdir())
    }


@POSIX
@pytest.mark.parametrize("what", WRITERS)
def test_nothing_is_written_over_or_through_anything(what: str, tmp_path: Path) -> None:
    command, png = WRITERS[what], ".png"
    model = tmp_path / f"model{png}"
    shutil.copy(Path(sys.modules["eftlocal"].__file__ or "").parent / "demo" / "tuned.gguf", model)
    assert "is a model, which would be lost" in refused(command, model, tmp_path)
    target, link = tmp_path / "notes.txt", tmp_path / f"link{png}"
    target.write_text("mine")
    link.symlink_to(target)
    assert f"is a link to {target}" in refused(command, link, tmp_path)
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    assert "is a link to" in refused(command, link, tmp_path)
    (tmp_path / f"folder{png}").mkdir()
    assert "is a folder" in refused(command, tmp_path / f"folder{png}", tmp_path)
    os.mkfifo(tmp_path / f"pipe{png}")
    assert "is a pipe or a device" in refused(command, tmp_path / f"pipe{png}", tmp_path)
    assert "there is no folder" in refused(command, tmp_path / "no" / f"x{png}", tmp_path)
    assert "eftlocal: " in refused(command, "", tmp_path)
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text("")
    presets = tmp_path / f"presets{png}"
    presets.hardlink_to(user_path())
    assert "is a file of presets" in refused(command, presets, tmp_path)


@POSIX
@pytest.mark.parametrize("what", [name for name, words in WRITERS.items() if "{prompts}" in words])
def test_an_input_is_not_written_over_under_another_name(what: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hi"}\n')
    same = tmp_path / "same.png"
    same.hardlink_to(prompts)
    own = "the prompts" if what.startswith("eval") else "--prompts"
    told = f"{own} and {what.split()[1]} are the same file"
    assert told in refused(WRITERS[what], same, tmp_path)


@pytest.mark.parametrize("suffix", [".manifest.json", ".lock"])
def test_an_input_is_not_what_stands_beside_a_file_of_rows(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    prompts = tmp_path / f"out.jsonl{suffix}"
    prompts.write_text('{"prompt": "hi"}\n')
    with pytest.raises(UsageError) as told:
        check_outputs({}, {"--prompts": prompts}, rows={"--out": out})
    assert str(told.value) == f"--prompts: {prompts} would be lost: --out writes {prompts.name}"


@POSIX
@pytest.mark.parametrize("what", ROWS)
def test_a_file_of_rows_takes_the_place_of_nothing_else(what: str, tmp_path: Path) -> None:
    command = ROWS[what]
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is a pipe or a device" in refused(command, tmp_path / "pipe.jsonl", tmp_path)
    assert "is a folder" in refused(command, tmp_path, tmp_path)
    assert "there is no folder" in refused(command, tmp_path / "no" / "x.jsonl", tmp_path)
    assert "prompts.jsonl" in refused(command, tmp_path / "prompts.jsonl", tmp_path)


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(UsageError, match="--html and --plot are the same file"):
        check_outputs({"--html": page, "--plot": tmp_path / "." / "page.html"})
    with pytest.raises(UsageError, match="--json: - is standard output; name a file"):
        check_outputs({"--json": Path("-")})
    check_outputs({"--json": Path("-"), "--html": page}, stdout=["--json"])
    assert not page.exists()


@POSIX
def test_a_whole_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_whole(file, "one\r\n")
    file.chmod(0o640)
    with pytest.raises(KeyError), replacing(file) as half:
        half.write(b"tw")
        raise KeyError
    assert file.read_bytes() == b"one\r\n"
    write_whole(file, b"two")
    assert file.read_bytes() == b"two" and file.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_several_may_write_a_file_at_once(tmp_path: Path) -> None:
    """It is one of theirs at any time; what a killed one has left goes after an hour."""
    file = tmp_path / "page.html"
    left, young, users = (
        tmp_path / f"page.html.{name}.part" for name in ("0" * 16, "1" * 16, "notes")
    )
    for old in (left, young, users):
        old.write_text("half")
    for old in (left, users):
        os.utime(old, (0, 0))
    with replacing(file) as one:
        one.write(b"one")
        with replacing(file) as two:
            two.write(b"two")
        assert file.read_bytes() == b"two"
    assert file.read_bytes() == b"one"
    assert set(tmp_path.iterdir()) == {file, young, users}
