"""The scripts: each tells its use, and none takes an option for the name of a file to write."""

from __future__ import annotations

import json
import logging
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import fuzz_files
import llama_cpp
import numpy as np
import pytest
from _answered import answered
from fuzz_files import Case, Sources, Worker, cases_of, fuzz, make_case
from fuzzing.edits import EDITS
from gguf import LlamaFileType
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from processor import not_with_amx
from random_blocks import TYPES, random_blocks
from random_gguf import LOGITS_STD, QUANTIZATIONS, SHAPES, Shape, tensor_type, write_random_model

from eftlocal import Emulator
from eftlocal.batch.lines import Line
from eftlocal.gguf_file.header import read_header
from eftlocal.llama import Context, Model, Span, repacked_types
from eftlocal.request import Request

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path for path in (ROOT / "scripts").glob("*.py") if "__main__" in path.read_text("utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_printed_and_nothing_else_is_done(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    signal.signal(signal.SIGINT, handler)
    assert not ended.value.code
    assert "usage" in capsys.readouterr().out.lower()
    assert not list(tmp_path.iterdir())


def test_no_tracked_file_is_named_like_an_option() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else map(str, ROOT.rglob("*"))
    assert not [name for name in names if Path(name).name.startswith("-")]


# Random models, which benchmarks time -----------------------------------------------------------

TEXT = "Any text at all, Größe 42 🙂\n"
TINY = SHAPES["tiny"]


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_decodes_as_a_trained_model_would(tmp_path: Path, quantization: str) -> None:
    path = write_random_model(tmp_path / "tiny.gguf", "tiny", quantization)
    with Model(path) as model, Context(model, n_ctx=64, n_threads=1) as context:
        assert model.vocab_size == TINY.n_vocab and model.n_layers == TINY.n_layers
        tokens = model.tokenize(TEXT, add_bos=True)
        assert tokens[0] == model.bos and b"".join(map(model.piece, tokens)) == TEXT.encode()
        logits = context.decode([Span(0, tokens, len(tokens))])
        assert logits.shape == (len(tokens), TINY.n_vocab) and np.isfinite(logits).all()
        # Neither flat nor one-hot, and no ties that greedy decoding would break at random.
        assert 0.5 * LOGITS_STD < logits.std() < 2 * LOGITS_STD
        best = np.sort(logits, axis=1)[:, -2:]
        assert (best[:, 0] < best[:, 1]).all()


@pytest.mark.parametrize("kind", TYPES)
def test_header_tells_the_quantization(tmp_path: Path, kind: str) -> None:
    header = read_header(write_random_model(tmp_path / "tiny.gguf", "tiny", kind))
    declared = LlamaFileType(header.metadata["general.file_type"]).name
    assert declared in (f"MOSTLY_{kind}", f"MOSTLY_{kind}_M", f"MOSTLY_{kind}_MOE")
    assert {t.type.name for t in header.tensors if len(t.shape) > 1} == {kind}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("std", [0.02, 0.0005])
def test_blocks_have_mean_0_and_the_deviation_asked_for(kind: str, std: float) -> None:
    of = GGMLQuantizationType[kind]
    blocks = random_blocks(of, std, 1 << 20, np.random.default_rng(0))
    halves = blocks.view(np.float16) if kind == "F16" else dequantize(blocks, of)
    values = halves.astype(np.float32)
    assert np.std(values) == pytest.approx(std, rel=0.03)
    assert abs(np.mean(values)) < 0.02 * std


@pytest.mark.parametrize(
    ("ours", "theirs", "tied"),
    [
        ("Q4_K_M", "Q4_K_M", True),
        ("Q5_K_M", "Q5_K_M", False),
        ("Q4_0+Q6_K", "Q4_0", True),
        ("Q4_0+Q6_K", "Q4_0", False),
        ("Q8_0", "Q8_0", True),
    ],
)
def test_mixtures_are_those_of_llama_cpps_quantizer(
    tmp_path: Path, ours: str, theirs: str, tied: bool
) -> None:
    sizes = Shape(16, 256, 4, 2, 256, 512, tied=tied)
    whole = write_random_model(tmp_path / "f16.gguf", sizes, "F16")
    made = tmp_path / "quantized.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{theirs}"), 1
    assert llama_cpp.llama_model_quantize(bytes(whole), bytes(made), params) == 0
    found = {t.name: t.type for t in read_header(made).tensors if len(t.shape) > 1}
    assert found == {name: tensor_type(name, ours, sizes) for name in found}
    written = read_header(write_random_model(tmp_path / "ours.gguf", sizes, ours))
    assert found == {t.name: t.type for t in written.tensors if len(t.shape) > 1}


@not_with_amx
def test_the_types_that_the_cpu_repacks(tmp_path: Path) -> None:
    told: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    log, handler = logging.getLogger("eftlocal.llama"), Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        repacked = set()
        for kind in TYPES:
            told.clear()
            with Model(write_random_model(tmp_path / f"{kind}.gguf", "tiny", kind)):
                pass
            if any("REPACK" in line for line in told):
                repacked.add(kind)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert repacked == repacked_types() & set(TYPES)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    first, again, other = (
        write_random_model(tmp_path / f"{i}.gguf", "tiny", "Q8_0", seed).read_bytes()
        for i, seed in enumerate((1, 1, 2))
    )
    assert first == again and len(first) == len(other) and first != other


def test_what_it_cannot_write_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown shape 'huge'"):
        write_random_model(tmp_path / "a.gguf", "huge")
    for name in ("Q2_K", "Q4_0+Q2_K", "Q4_0+"):
        with pytest.raises(ValueError, match=f"unknown quantization '{re.escape(name)}'"):
            write_random_model(tmp_path / "a.gguf", "tiny", name)
    assert not list(tmp_path.iterdir())


# The fuzzer of model files ----------------------------------------------------------------------


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


def test_what_a_stopped_script_has_answered_is_not_asked_again(tmp_path: Path) -> None:
    def load() -> Emulator:
        raise AssertionError("nothing is missing")

    out = tmp_path / "rows.jsonl"
    asked = [Line(0, name, Request(("Where?",))) for name in ("a", "b")]
    rows = {name: {"id": name, "text": name, "distinct_2": 1.0} for name in ("b", "a", "old")}
    out.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
    assert answered(out, asked, load) == {"a": rows["a"], "b": rows["b"]}
    out.write_text(json.dumps(rows["a"]) + "\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="nothing is missing"):
        answered(out, asked, load)
