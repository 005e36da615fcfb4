"""`eftlocal doctor --report`: what helps is in it, and what is private is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import eftlocal
from eftlocal.cli.app import app
from eftlocal.cli.doctor import collect
from eftlocal.cli.report import last_error, report
from eftlocal.presets.reading import user_path
from eftlocal.selftest import SelfTestResult

SECRET = "a-secret-prompt-xyzzy"
TOKEN = "hf_notARealTokenOfAnyone"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a cache in it, and secrets in the environment."""
    home = tmp_path / "someone"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("EFTLOCAL_CACHE", str(home / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-anotherSecret")
    monkeypatch.setenv("https_proxy", "http://user:hunter2@proxy:1/")
    monkeypatch.setenv("EFTLOCAL_API_KEY", "serverSecret")
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
    return home


def written() -> tuple[dict[str, Any], str]:
    found = report(collect(SelfTestResult(True, "fine", "", {})))
    return found, json.dumps(found)


def test_what_is_private_is_not_in_it(home: Path) -> None:
    file = home / "models" / f"{TOKEN}.gguf"
    for words in (
        ["run", SECRET, "--base", str(file), "--tuned", str(file), "--reference", str(file)],
        ["run", SECRET, SECRET],
        ["run", f"-{SECRET}"],
        ["run", "--raw", SECRET, "--system", SECRET],
        ["models", "show", SECRET],
    ):
        result = CliRunner().invoke(app, words, prog_name="eftlocal")
        assert result.exit_code in (2, 3), result.output
        found, text = written()
        for private in (SECRET, TOKEN, "sk-another", "hunter2", "serverSecret", str(home)):
            assert private not in text, words
    user_path().parent.mkdir(parents=True, exist_ok=True)
    assert found["settings"]["HF_TOKEN"] == found["settings"]["https_proxy"] == "(set)"
    assert found["settings"]["GGML_VK_VISIBLE_DEVICES"] == "0"
    assert found["settings"]["EFTLOCAL_CACHE"] == "~/cache"
    assert "EFTLOCAL_API_KEY" not in found["settings"] and "OPENAI_API_KEY" not in text


def test_the_last_error_is_in_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written()[0]["last_error"] is None
    roles = [part for role in ("base", "tuned", "reference") for part in (f"--{role}", "no.gguf")]
    monkeypatch.setattr(sys, "argv", ["eftlocal", "run", SECRET])
    CliRunner().invoke(app, ["run", SECRET, *roles], prog_name="eftlocal")
    found = written()[0]["last_error"]
    assert found["kind"] == "ModelFileError" and found["exit_code"] == 3
    assert found["verb"] == "run" and found["message"].startswith("no.gguf: no such file")
    CliRunner().invoke(app, ["models", "show", SECRET], prog_name="eftlocal")
    found = written()[0]["last_error"]
    assert found["kind"] == "UsageError" and found["message"] is None


def test_a_fault_of_the_program_is_kept_by_its_place(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(SECRET)

    with monkeypatch.context() as patch:
        patch.setattr("eftlocal.presets.reading.load_presets", broken)
        result = CliRunner().invoke(app, ["models", "show", "demo"], prog_name="eftlocal")
    assert isinstance(result.exception, KeyError)
    found, text = written()[0]["last_error"], json.dumps(last_error())
    assert found["kind"] == "KeyError" and SECRET not in text
    assert found["where"][-1].endswith("broken") and found["where"][-2].startswith("reading.py:")


def test_a_record_that_is_damaged_or_cannot_be_kept_is_no_failure(home: Path) -> None:
    (home / "cache").mkdir()
    for damage in (b"", b"[1", b"[" * 100_000, b"3", b"\xff", b"{" + b" " * 70_000 + b"}"):
        (home / "cache" / "last-error.json").write_bytes(damage)
        assert last_error() is None
    os.environ["EFTLOCAL_CACHE"] = str(home / "cache" / "last-error.json" / "x")
    assert CliRunner().invoke(app, ["models", "show", "nosuch"]).exit_code == 2


def test_the_file_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    root = Path(eftlocal.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "eftlocal", "doctor", "--report"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tui")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("eftlocal-report.json: written; look through it")
    found = json.loads((tmp_path / "eftlocal-report.json").read_text("utf-8"))
    assert found["versions"]["eftlocal"] == eftlocal.__version__ and found["selftest"]["ok"]
    assert "demo" in found["presets"]["names"] and found["devices"]
    lost = CliRunner().invoke(app, ["doctor", "file"], prog_name="eftlocal")
    assert lost.exit_code == 2 and "a file is for --report" in lost.stderr
