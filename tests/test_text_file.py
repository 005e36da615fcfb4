"""One rule for every text that is read whole."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.disk import LARGEST, read_text
from eftlocal.errors import PromptError, UsageError

POSIX = pytest.mark.skipif(os.name != "posix", reason="devices and pipes of POSIX")

# Every option that names a text to read; {} is the file.
READERS = {
    "--grammar": ["run", "hi", "--grammar", "{}"],
    "--json-schema": ["run", "hi", "--json-schema", "{}"],
    "--chat-template": ["run", "hi", "--chat-template", "base={}"],
    "--answer-file": ["inspect", "hi", "--answer-file", "{}"],
    "inspect --prompts": ["inspect", "--prompts", "{}"],
    "bench --prompts": ["bench", "--prompts", "{}"],
    "eval FILE": ["eval", "--out", "o.jsonl", "{}"],
}


def refused(what: str, file: Path) -> str:
    words = [word.format(file) for word in READERS[what]]
    result = CliRunner().invoke(app, words, prog_name="eftlocal")
    assert result.exit_code in (2, 7), (result.output, result.exception)
    assert result.stderr.startswith("eftlocal: ") and result.stderr.count("\n") == 1
    return result.stderr


@POSIX
@pytest.mark.parametrize("what", READERS)
def test_what_is_no_text_is_one_line(what: str, tmp_path: Path) -> None:
    file, pipe = tmp_path / "file.txt", tmp_path / "pipe"
    assert "no such file" in refused(what, file).lower()
    assert "cannot be read: Is a directory" in refused(what, tmp_path)
    assert f"/dev/zero: more than {LARGEST >> 20} MiB" in refused(what, Path("/dev/zero"))
    os.mkfifo(pipe)  # nobody writes into it, and nobody waits
    refused(what, pipe)
    file.write_bytes(codecs.BOM_UTF8 + b"ab\xffc")
    assert "not valid UTF-8: byte 0xff at offset 5; convert it to UTF-8" in refused(what, file)
    file.write_text("text", "utf-16")
    assert "not UTF-8 but UTF-16" in refused(what, file)
    file.chmod(0)
    if os.geteuid():
        assert "cannot be read: Permission denied" in refused(what, file)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(codecs.BOM_UTF8 + b"\xef\xbb\xbfa\r\n")
    assert read_text(file) == "\ufeffa\r\n"
    with pytest.raises(PromptError, match="--x: more than 0 MiB"):
        read_text(file, "--x", not_text=PromptError, largest=3)
    with pytest.raises(UsageError, match="no file's name has a NUL"):
        read_text(Path("a\0b"))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--grammar", 'root ::= "France"\n'),
        ("--json-schema", '{"type": "integer"}'),
        ("--lark", 'start: "France"\n'),
    ],
)
def test_a_grammar_with_a_byte_order_mark_is_one(option: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "form"
    file.write_bytes(codecs.BOM_UTF8 + text.encode())
    words = ["run", "Where is Toulouse?", option, str(file), "--quiet", "--temperature", "0"]
    words += ["--speculative", "off", "--threads", "1", "--max-tokens", "4"]
    result = CliRunner().invoke(app, words, prog_name="eftlocal")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "France" or result.stdout.strip().lstrip("-").isdigit()


@POSIX
def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # A writer is there before the reader, as in `--grammar <(command)`, and slow.
    both = os.open(pipe, os.O_RDWR)
    writer = os.open(pipe, os.O_WRONLY)
    os.close(both)

    def write() -> None:
        for piece in (b"one ", b"two"):
            os.write(writer, piece)
        os.close(writer)

    thread = threading.Timer(0.05, write)
    reader_first = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    thread.start()
    text = read_text(pipe)
    thread.join()
    os.close(reader_first)
    assert text == "one two"


@POSIX
def test_stdin_without_end_ends_with_a_line() -> None:
    with Path("/dev/zero").open("rb") as zeros:
        done = subprocess.run(
            [sys.executable, "-m", "eftlocal", "run"], stdin=zeros, capture_output=True, text=True
        )
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr == f"eftlocal: stdin: more than {LARGEST >> 20} MiB; give a smaller text\n"
