"""Outputs of batches and sweeps that version 0.1.0 wrote: a run goes on with them, or says why not.

tests/samples/runs holds them: `batch in.jsonl out.jsonl --max-tokens 24`, and the two sweeps below.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.journal.manifest import manifest_path, of_versions, read_manifest, write_manifest
from eftlocal.sources import Sources

SAMPLES = Path(__file__).with_name("samples") / "runs"
BATCH = ["batch", "in.jsonl", "out.jsonl", "--max-tokens", "24"]
SWEEP = [
    *("sweep", "--questions", "demo", "--limit", "2", "--out", "sweep.jsonl"),
    *("--delta-top-p", "0.9,off", "--json"),
]
DRAFTS = [
    *("sweep", "--prompts", "prompts.txt", "--system", "be brief", "--top-k", "20", "--seed", "3"),
    *("--recipe", "upscale;base=1,tuned=1,reference=-1", "--temperature", "0.8", "--json"),
    *("--speculative", "4", "--out", "drafts.jsonl"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The samples, as if the installed packages had written them."""
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True)
    for name in ("out.jsonl", "sweep.jsonl", "drafts.jsonl"):
        found = {key: str(value) for key, value in (read_manifest(tmp_path / name) or {}).items()}
        assert found.keys() >= of_versions().keys()
        write_manifest(tmp_path / name, found | of_versions())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    found = CliRunner().invoke(app, arguments, prog_name="eftlocal")
    assert found.exit_code == code, found.output
    return found


@pytest.mark.parametrize("words", [BATCH, [*SWEEP, "--beta", "0,1"], DRAFTS], ids=lambda w: w[-1])
def test_finished_runs_load_nothing(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sources, "load", None)
    before = {path.name: path.read_bytes() for path in folder.glob("*.jsonl*")}
    found = run(*words)
    if words is BATCH:
        assert "nothing left to do" in found.stderr
    else:
        assert all(point["n"] == 2 for point in json.loads(found.stdout)["points"])
    after = {path.name: path.read_bytes() for path in folder.glob("*.jsonl*")}
    assert {name: after[name] for name in before} == before


def test_figures_are_those_of_the_rows(folder: Path) -> None:
    points = json.loads(run(*SWEEP, "--beta", "0,1").stdout)["points"]
    rows = [json.loads(line) for line in Path("sweep.jsonl").read_text("utf-8").splitlines()]
    for metric in rows[0]["values"]:
        for n, point in enumerate(points):
            mean = (rows[n]["values"][metric] + rows[n + 4]["values"][metric]) / 2
            assert point["metrics"][metric]["mean"] == pytest.approx(mean, abs=1e-12)


def test_a_batch_goes_on_after_its_last_whole_row(folder: Path) -> None:
    out = folder / "out.jsonl"
    rows = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(rows[:2]) + rows[2][:50])
    run(*BATCH)
    again = out.read_bytes().splitlines(keepends=True)
    assert again[:2] == rows[:2] and len(again) == 4
    assert sorted(map(_told, again)) == sorted(map(_told, rows))


def _told(row: bytes) -> tuple[Any, ...]:
    found = json.loads(row)
    choice = found["response"]["body"]["choices"][0]
    return found["id"], found["custom_id"], choice["message"]["content"], choice["eftlocal"]["seed"]


def test_a_sweep_goes_on_and_takes_further_points(folder: Path) -> None:
    out = folder / "sweep.jsonl"
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    cut = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(cut[:5]) + cut[5][:50])
    points = json.loads(run(*SWEEP, "--beta", "0,1,2").stdout)["points"]
    assert [point["n"] for point in points] == [2] * 6
    again = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert again[:5] == rows[:5] and len(again) == 12
    found = {(row["point"], row["prompt"]): row for row in again}
    for row in rows:
        new = found[row["point"], row["prompt"]]
        assert new["text"] == row["text"] and new["seed"] == row["seed"]
        assert new["dials"] == row["dials"] and new["finish_reason"] == row["finish_reason"]
        assert new["values"].keys() == row["values"].keys()
        for metric in row["values"].keys() - {"tokens_per_second"}:
            # Another processor has other kernels: up to 2e-4 was seen.
            assert new["values"][metric] == pytest.approx(row["values"][metric], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        (BATCH, ["--seed", "1"], "seed was 0 and is 1"),
        (BATCH, ["--alpha", "2", "--recipe", "proxy"], "recipe was upscale: +1 base, +1 tuned"),
        (BATCH, ["--max-tokens", "9"], "max-tokens was 24 and is 9"),
        (SWEEP, ["--seed", "1"], "seed was 0 and is 1"),
        (SWEEP, ["--limit", "3"], "prompts was 2, sha256 13208210f260716a and is 3, sha256 "),
        (DRAFTS, ["--speculative", "5"], "speculative was Speculation(length=4, rule='coupled'"),
    ],
)
def test_another_run_is_refused_by_what_differs(
    words: list[str], more: list[str], says: str, folder: Path
) -> None:
    found = run(*words, *more, code=2)
    assert says in found.stderr and found.stderr.count("\n") == 1


def test_the_manifests_say_what_they_said(folder: Path) -> None:
    for name in ("out.jsonl", "sweep.jsonl", "drafts.jsonl"):
        before = manifest_path(folder / name).read_bytes()
        words = {"out.jsonl": BATCH, "sweep.jsonl": SWEEP, "drafts.jsonl": DRAFTS}[name]
        (folder / name).unlink()
        run(*words)
        assert manifest_path(folder / name).read_bytes() == before
