"""Outputs that version 0.1.0 wrote: a batch goes on with them, an evaluation says why not.

tests/samples/runs holds them: `batch in.jsonl out.jsonl --max-tokens 24`, and a sweep.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.journal.manifest import (
    manifest_path,
    of_roles,
    of_versions,
    read_manifest,
    write_manifest,
)
from eftlocal.sources import Sources

SAMPLES = Path(__file__).with_name("samples") / "runs"
BATCH = ["batch", "in.jsonl", "out.jsonl", "--max-tokens", "24"]
SWEEP = ["eval", "demo", "--limit", "2", "--out", "sweep.jsonl", "--delta-top-p", "0.9,off"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The samples, as if the installed packages had written them, with the demo of today."""
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True)
    for name in ("out.jsonl",):
        found = {key: str(value) for key, value in (read_manifest(tmp_path / name) or {}).items()}
        assert found.keys() >= of_versions().keys()
        models = of_roles(Sources.of_preset("demo", offline=True).roles)
        assert found.keys() >= models.keys()
        write_manifest(tmp_path / name, found | of_versions() | models)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    found = CliRunner().invoke(app, arguments, prog_name="eftlocal")
    assert found.exit_code == code, found.output
    return found


def test_a_finished_run_loads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sources, "load", None)
    before = {path.name: path.read_bytes() for path in folder.glob("*.jsonl*")}
    assert "nothing left to do" in run(*BATCH).stderr
    after = {path.name: path.read_bytes() for path in folder.glob("*.jsonl*")}
    assert {name: after[name] for name in before} == before


def test_a_sweep_is_refused_and_left_alone(folder: Path) -> None:
    before = (folder / "sweep.jsonl").read_bytes()
    found = run(*SWEEP, "--beta", "0,1", code=2)
    assert "sweep.jsonl holds another evaluation: " in found.stderr
    assert "task" in found.stderr and found.stderr.count("\n") == 1
    assert (folder / "sweep.jsonl").read_bytes() == before


def test_a_batch_goes_on_after_its_last_whole_row(folder: Path) -> None:
    out = folder / "out.jsonl"
    rows = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(rows[:2]) + rows[2][:50])
    run(*BATCH)
    again = out.read_bytes().splitlines(keepends=True)
    assert again[:2] == rows[:2] and len(again) == 4
    assert sorted(map(_asked, again)) == sorted(map(_asked, rows))


def _asked(row: bytes) -> tuple[Any, ...]:
    """What does not depend on the models."""
    found = json.loads(row)
    (choice,) = found["response"]["body"]["choices"]
    assert choice["message"]["content"]
    return found["id"], found["custom_id"], choice["eftlocal"]["seed"]


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        (BATCH, ["--seed", "1"], "seed was 0 and is 1"),
        (BATCH, ["--alpha", "2", "--recipe", "proxy"], "recipe was upscale: +1 base, +1 tuned"),
        (BATCH, ["--max-tokens", "9"], "max-tokens was 24 and is 9"),
    ],
)
def test_another_run_is_refused_by_what_differs(
    words: list[str], more: list[str], says: str, folder: Path
) -> None:
    found = run(*words, *more, code=2)
    assert says in found.stderr and found.stderr.count("\n") == 1


def test_the_manifest_says_what_it_said(folder: Path) -> None:
    before = manifest_path(folder / "out.jsonl").read_bytes()
    (folder / "out.jsonl").unlink()
    run(*BATCH)
    assert manifest_path(folder / "out.jsonl").read_bytes() == before
