"""The benchmarks run, and measure what they say. Nothing here depends on how long it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from bench_step import Pair

import eftlocal
from eftlocal import Emulator, Recipe, Sampling

ROOT = Path(eftlocal.__file__).parents[1]
SCRIPTS = Path(__file__).parents[1] / "scripts"
N_CTX = 256


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / script, *arguments]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        list(map(str, command)), capture_output=True, encoding="utf-8", env=env, timeout=120
    )


def report(script: str, *arguments: str | Path) -> dict[str, Any]:
    done = run(script, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1 and found["machine"]["llama_system_info"]
    return found


def check_combine(found: dict[str, Any]) -> None:
    lines = {(line["recipe"], line["sampling"]): line for line in found["results"]}
    assert len(lines) == len(found["results"]) == 24
    for (_, sampling), line in lines.items():
        for figures in (line["alone_us"], line["ours_us"], line["naive_us"]):
            assert 0 < figures["median"] <= figures["p90"]
        assert line["naive_over_ours"] > 0
        # Both versions draw from the same set, up to a token at the edge of a nucleus.
        ours, naive = np.array(line["candidates"]["ours"]), np.array(line["candidates"]["naive"])
        assert (np.abs(ours - naive) <= 1 + 0.01 * naive).all(), line
        assert (ours >= 1).all() and (
            ours <= {"greedy": 1, "top_k 40": 40}.get(sampling, 1e9)
        ).all()


def test_combine_on_synthetic_rows() -> None:
    found = report("bench_combine.py", "--vocab", "4096", "--repeats", "3")
    assert found["vocab"] == 4096 and found["repeats"] == 3 and found["rows"] == "synthetic"
    check_combine(found)
    (whole,) = (
        line["candidates"]["ours"]
        for line in found["results"]
        if (line["recipe"], line["sampling"]) == ("upscale", "temperature 1")
    )
    assert set(whole) == {4096}


def test_combine_on_real_rows(demo_files: dict[str, Path]) -> None:
    found = report("bench_combine.py", "--repeats", "2", "--model", *demo_files.values())
    assert found["rows"] == "real"
    check_combine(found)


def test_step_on_random_models(tmp_path: Path) -> None:
    options = (
        "--shapes",
        "tiny,tiny,tiny",
        "--quantization",
        "base=Q4_0,tuned=Q8_0,reference=Q8_0",
    )
    engine = ("--threads", "1", "--pairs", "3", "--n-past", "16", "--n-ctx", str(N_CTX))
    found = report("bench_step.py", *options, *engine, "--cache", tmp_path)

    files = sorted(tmp_path.iterdir())
    assert [file.name.split("-")[2] for file in files] == ["Q4_0", "Q8_0", "Q8_0"]
    assert files[1].read_bytes() != files[2].read_bytes()

    timing, memory = found["time"], found["memory"]
    low, high = timing["ratio_interval_95"]
    assert 0 < low <= timing["ratio"] <= high
    assert timing["pairs"] == 3 and 0 < timing["combine_and_draw_share"] < 1
    assert 0 < timing["decode_in_step_ms"]["median"] < timing["step_ms"]["median"]
    assert timing["bare_ms"]["median"] > 0

    assert memory["files"] == sum(file.stat().st_size for file in files)
    # 2 layers of 2 heads of 64 float16 numbers, keys and values, in three contexts
    caches = [size for name, size in memory["buffers"].items() if name.startswith("KV ")]
    assert sum(caches) == 3 * N_CTX * 2 * 2 * 64 * 2 * 2
    assert memory["before"]["rss"] < memory["after"]["rss"] <= memory["after"]["rss_peak"]


def test_step_and_bare_decodes_do_the_same_work(demo_files: dict[str, Path]) -> None:
    with Emulator.from_files(**demo_files, n_ctx=64, threads=1) as emulator:
        prompts = {role: [5, 6, 7, 8] for role in demo_files}
        ensemble = emulator.ensemble
        sequence = ensemble.open(prompts, recipe=Recipe.upscale(), sampling=Sampling())
        emulator.rounds([sequence])
        pair = Pair(emulator.rounds, sequence)
        pair.set_token(9)

        def last_rows() -> list[np.ndarray]:
            return [
                np.ctypeslib.as_array(
                    llama_cpp.llama_get_logits(context.handle), (context.model.vocab_size,)
                ).copy()
                for context in pair.contexts
            ]

        rows = []
        for decode in (pair.bare, pair.step, pair.bare):
            decode()
            rows.append(last_rows())
            assert sequence.tokens() == [9]
            for context in pair.contexts:
                assert list(context.tokens(sequence.slot)) == [5, 6, 7, 8]
                memory = llama_cpp.llama_get_memory(context.handle)
                assert llama_cpp.llama_memory_seq_pos_max(memory, sequence.slot) == 3
        assert len(rows[0]) == 3
        for bare, step, again in zip(*rows, strict=True):
            assert (bare == step).all() and (bare == again).all()


@pytest.mark.parametrize(
    ("script", "arguments", "line"),
    [
        ("bench_step.py", ["--shapes", "9b,1b,1b"], "--shapes 9b,1b,1b: give three of tiny"),
        ("bench_step.py", ["--quantization", "Q3_K"], "--quantization Q3_K: use Q4_0"),
        ("bench_step.py", ["--quantization", "bass=Q4_0"], "there is no role bass"),
        ("bench_step.py", ["--base", "a.gguf"], "give --base, --tuned and --reference"),
        ("bench_combine.py", ["--model", "a.gguf", "b.gguf"], "takes one file or three, not 2"),
    ],
)
def test_wrong_options_are_named_in_one_line(script: str, arguments: list[str], line: str) -> None:
    done = run(script, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert line in done.stderr and done.stderr.count("\n") == 1
