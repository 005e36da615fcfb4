"""The fuzzer of model files: a few dozen of its cases, and that it finds what it looks for."""

from __future__ import annotations

from pathlib import Path

import fuzz_files
import pytest
from fuzz_files import Case, Sources, Worker, cases_of, fuzz, make_case
from fuzzing.edits import EDITS


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources.written(tmp_path_factory.mktemp("sources"))


def test_no_case_takes_the_process_down(sources: Sources, tmp_path: Path) -> None:
    counts, faults = fuzz(cases_of(sources, list(EDITS), 50, seed=12), tmp_path)
    assert not faults, [(case.kind, case.number, case.what, found) for case, found in faults]
    ended = {outcome for _, outcome in counts}
    assert {"header", "loaded"} <= ended and sum(counts.values()) == 50


def test_sane_files_load(sources: Sources, tmp_path: Path) -> None:
    cases = [
        Case("header", i, name, "nothing", {"model.gguf": file.to_bytes()})
        for i, (name, file) in enumerate(sources.models.items())
    ]
    counts, _ = fuzz(iter(cases), tmp_path)
    assert counts == {("header", "loaded"): len(cases)}


def test_a_case_is_made_by_its_number_alone(sources: Sources) -> None:
    for kind in EDITS:
        one, again, other = (make_case(sources, kind, n, seed=3) for n in (5, 5, 6))
        assert one == again and one.files != other.files


SCRIPTED = """
import os, sys, time
for line in sys.stdin:
    {act}
"""


@pytest.mark.parametrize(
    ("act", "found"),
    [
        ("os.abort()", "death"),
        ("time.sleep(60)", "hang"),
        ("keep = bytearray(1 << 28); time.sleep(60)", "memory"),
    ],
)
def test_what_happens_to_a_worker_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, found: str
) -> None:
    monkeypatch.setattr(fuzz_files, "MEMORY", 200 << 20)
    monkeypatch.setattr(fuzz_files, "WORKER", ["-c", SCRIPTED.format(act=act)])
    worker = Worker(tmp_path)
    try:
        assert worker.run(tmp_path / "model.gguf", None, 2.0)["outcome"] == found
    finally:
        worker.close()
