"""The benchmarks run, and measure what they say. Nothing here depends on how long it takes."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from bench_step import Pair
from draft_ceiling import ceiling, expected, simulated, simulated_ceiling
from draft_lanes import Lane, Turn, figures, ratio
from synthetic_rule import SyntheticRule, even_seeds

import eftlocal
from eftlocal import Emulator, Recipe, Sampling, llama
from eftlocal.decoding.rounds import Rounds
from eftlocal.logits.candidates import Candidates
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.speculation.drafting import Plan
from eftlocal.speculation.rules import Draft
from eftlocal.speculation.settings import Speculation

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


def test_an_evaluation_beside_a_batch() -> None:
    done = run("bench_eval.py", "--prompts", "3", "--turns", "2", "--parallel", "1,2")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head == "3 prompts, 1 thread(s), 2 turns"
    assert [line.partition(" at once: evaluation / batch ")[0] for line in lines] == ["1", "2"]


def test_combine_on_synthetic_rows_beside_another_checkout() -> None:
    few = ("--settings", "default", "unsure_below 0.9", "mask of 1%", "logprobs, top 5")
    found = report("bench_combine.py", ROOT, "--vocab", "4096", "20000", "--repeats", "2", *few)
    assert found["rows"] == "synthetic" and found["compared"]
    lines = {(line["vocab"], line["setting"]): line for line in found["results"]}
    assert len(lines) == len(found["results"]) == 8
    for (_, setting), line in lines.items():
        figures = [value for value in line.values() if isinstance(value, dict)]
        if setting == "default":
            figures += figures.pop().values()
        assert len(figures) == (8 if setting == "default" else 5)
        for figure in figures:
            value, low, high = figure["ratio"]
            assert len(figure["us"]) == 2 and min(figure["us"]) > 0 and 0 < low <= value <= high


def test_combine_on_real_rows(demo_files: dict[str, Path]) -> None:
    found = report("bench_combine.py", "--repeats", "2", "--model", *demo_files.values())
    assert found["rows"] == "real" and not found["compared"]
    settings = [line["setting"] for line in found["results"]]
    assert len(settings) == len(set(settings)) == 15


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


# Speculation -------------------------------------------------------------------------------------


def plan(*, draft: float = 1.0, one: float = 10.0, more: float = 1.0) -> Plan:
    """A verifying decode of n rows costs one + more * (n - 1)."""
    costs = Costs(
        {"tuned": Curve({1: draft, 17: 17 * draft}), "base": Curve({1: one, 17: one + 16 * more})}
    )
    return Plan.of(costs, ("tuned",), ("base",), 1)


def test_the_ceiling_by_hand() -> None:
    # k = 1: two drafter decodes if accepted, one if not, and 11 for two rows; plain takes 11.
    assert expected(plan(), 1, 0.5) == pytest.approx((1.5 / 12.5) / (1 / 11))
    assert expected(plan(), 0, 0.5) == pytest.approx(1.0)
    assert ceiling(plan(), 0.0) == (0, 1.0)
    # Always accepted: k + 1 tokens for k + 1 drafter decodes and 10 + k.
    best = ceiling(plan(), 1.0 - 1e-12)
    assert best.length == 16 and best.speed_up == pytest.approx(17 / 43 * 11)
    free = ceiling(plan(draft=0.0, more=0.0), 0.8)
    assert free.length == 16 and free.speed_up == pytest.approx(sum(0.8**j for j in range(17)))


def test_the_ceiling_agrees_with_the_plan_that_chooses_lengths() -> None:
    for rate in (0.1, 0.5, 0.7, 0.9):
        for more in (0.5, 2.0, 5.0):
            of = plan(more=more)
            best = ceiling(of, rate)
            length, speed = of.longest(16, rate, rate)
            if best.length:
                assert (length, speed / of.plain) == (best.length, pytest.approx(best.speed_up))


def test_simulated_rounds_by_hand_and_on_average() -> None:
    decisions = [True, True, False, True, False, False]
    # k = 2: [a a bonus] takes 2 + 12 + 1, then [a refused] 2 + 12, then [refused] 2 + 12.
    speed = simulated(plan(), 2, lambda seed, at: decisions[at], [(0, 6)])
    assert speed == pytest.approx(6 / (15 + 14 + 14) * 11)
    assert simulated(plan(), 0, lambda seed, at: decisions[at], [(0, 6)]) == pytest.approx(1.0)
    rule = SyntheticRule(0.8)
    many = [(seed, 500) for seed in range(8)]
    assert simulated(plan(), 4, rule.accepts, many) == pytest.approx(
        expected(plan(), 4, 0.8), rel=0.04
    )
    assert simulated_ceiling(plan(), rule.accepts, many).speed_up == pytest.approx(
        ceiling(plan(), 0.8).speed_up, rel=0.04
    )


def test_the_synthetic_rule_accepts_at_its_rate_and_never_repeats_a_refused_draft() -> None:
    row = Candidates(None, np.zeros(9, dtype=np.float32))
    for rate in (0.0, 0.6, 0.9):
        rule, accepted = SyntheticRule(rate), 0
        for at in range(2000):
            token, kept = rule.choose(row, Draft(at % 9, row), 3, at)
            assert kept == (token == at % 9) == rule.accepts(3, at) and 0 <= token < 9
            accepted += kept
        assert accepted / 2000 == pytest.approx(rate, abs=0.05)
        assert rule.likelihood(row, row, 3, 0) == rate


def test_seeds_that_come_near_the_rates() -> None:
    rates, tokens = (0.6, 0.9), 16
    seeds = even_seeds(rates, tokens, 4)
    assert len(set(seeds)) == 4 and seeds == sorted(seeds) and seeds[-1] < 400

    def off(seed: int) -> float:
        shares = [
            (rate, np.mean([SyntheticRule(rate).accepts(seed, at) for at in range(tokens)]))
            for rate in rates
        ]
        return float(max(abs(share - rate) for rate, share in shares))

    others = [off(seed) for seed in range(400) if seed not in seeds]
    assert max(map(off, seeds)) <= min(others)


def test_a_lane_counts_what_its_rounds_did(tiny: Emulator) -> None:
    rule = SyntheticRule(0.8)
    rounds = Rounds(tiny.ensemble, rules={"coupled": rule})
    lane = Lane("fixed 3", rounds, Recipe.upscale(), Speculation(length=3, source="model"))
    ends, tiny.ensemble.stop_tokens = tiny.ensemble.stop_tokens, frozenset()

    class NoWatch:
        seconds = 0.0

    try:
        before = {role: c.decoded for role, c in tiny.ensemble.contexts.items()}
        prompts = {role: range(20, 40) for role in tiny.roles}
        sequence = lane.open(prompts, Sampling(), 5)
        assert all(c.decoded - before[role] == 20 for role, c in tiny.ensemble.contexts.items())
        assert not sequence.choices
        lane.turn(sequence, 40, NoWatch())  # type: ignore[arg-type]
        lane.close(sequence)
    finally:
        tiny.ensemble.stop_tokens = ends
    (turn,), ((seed, tokens),) = lane.turns, lane.runs
    assert turn.tokens == tokens >= 40 and seed == 5
    # The first token has no draft; what becomes of the others is what the rule decides.
    position = rounds_made = 1
    while position < tokens:
        accepted = 0
        while accepted < 3 and rule.accepts(5, position + accepted):
            accepted += 1
        position, rounds_made = position + accepted + 1, rounds_made + 1
    assert lane.totals[0].rounds == rounds_made and position == tokens


def test_figures_of_lanes_by_hand(tiny: Emulator) -> None:
    def lane(*turns: Turn) -> Lane:
        made = Lane("", Rounds(tiny.ensemble), Recipe.upscale(), turns=list(turns))
        sequence = made.open({role: [5, 6] for role in tiny.roles}, Sampling(), 0)
        made.rounds([sequence])
        made.close(sequence)
        return made

    plain = lane(Turn(8, 8.0, 6.0), Turn(8, 16.0, 12.0))  # the machine was busy in the second
    twice = lane(Turn(8, 4.0, 3.0), Turn(10, 10.0, 9.5))
    found = figures(twice, plain, plain)
    assert found["speed_up"] == found["over_base"] == pytest.approx(2.0)
    assert found["speed_up_interval_95"] == [pytest.approx(2.0), pytest.approx(2.0)]
    assert list(ratio(plain, twice)) == [pytest.approx(0.5)] * 3
    assert found["tokens_per_second"] == pytest.approx(18 / 14)
    assert found["outside_decode_share"] == pytest.approx((0.25 + 0.05) / 2)
    assert found["outside_decode_ms_a_round"] == pytest.approx(1500.0)


def test_speculation_on_the_demo_and_on_random_models(tmp_path: Path) -> None:
    preset = "preset"
    kinds = ("--quantization", preset, "--quantization", "IQ4_NL")
    options = ("--shapes", "tiny,tiny,tiny", "--rates", "0,0.8", "--cache", tmp_path, *kinds)
    short = ("--tokens", "16", "--repeats", "1", "--cold-tokens", "8", "--n-past", "8")
    found = report("bench_speculation.py", *options, *short, "--questions", "1", "--threads", "1")
    demo, trios = found["demo"], found["shapes"]["trios"]
    assert list(demo["modes"]) == ["base alone", "plain", "auto"] + [
        f"fixed {k}" for k in (1, 2, 4, 8)
    ]
    assert demo["modes"]["plain"]["speed_up"] == demo["modes"]["base alone"]["over_base"] == 1.0
    assert demo["modes"]["fixed 4"]["acceptance"] > 0 and demo["ceiling"]["speed_up"] >= 1.0
    assert list(trios) == [preset, "IQ4_NL"]
    assert trios[preset]["quantization"]["base"] == "Q4_K_M" and not trios[preset]["over_first"]
    compared = trios["IQ4_NL"]["over_first"]
    assert {"base alone", "plain", "auto at 0", "auto at 0.8"} <= set(compared)
    assert all(value > 0 and 0 < low <= high for value, low, high in compared.values())
    for shapes in trios.values():
        check_trio(shapes, demo)


def check_trio(shapes: dict[str, Any], demo: dict[str, Any]) -> None:
    for curves in (demo["costs_ms"], shapes["costs_ms"]):
        assert list(curves) == ["base", "tuned", "reference"] and curves["base"]["17"] > 0
    assert list(shapes["rates"]) == ["0", "0.8"] and shapes["cold_start_at_0"]["tokens"] >= 8
    assert shapes["rates"]["0"]["ceiling"] >= 1.0 and "fixed" not in shapes["rates"]["0"]
    of = shapes["rates"]["0.8"]
    for mode in ("auto", "fixed"):
        assert of[mode]["share_of_ceiling"] == pytest.approx(
            of[mode]["speed_up"] / of[mode]["ceiling_by_draws"]
        )
        assert of[mode]["ceiling_in_runs"] >= 1.0 and of[mode]["share_in_runs"] > 0
        assert of[mode]["tokens"] >= 8 and 0 < of[mode]["outside_decode_share"] < 1
        assert 0 < of[mode]["combine_share"] < 1
    assert of["fixed"]["length"] >= 1


def test_the_run_for_a_gpu_on_the_cpu(tmp_path: Path) -> None:
    told = tmp_path / "gpu.json"
    shapes = ("--shapes", "tiny,tiny,tiny", "--shapes", "70b,8b,8b")
    short = (
        "--tokens",
        "16",
        "--repeats",
        "1",
        "--rates",
        "0.8",
        "--minutes",
        "2",
        "--threads",
        "1",
    )
    done = run("bench_gpu.py", "--device", "cpu", *shapes, *short, "--json", told)
    assert done.returncode == 0, done.stderr
    found = json.loads(told.read_text("utf-8"))
    assert len(found["checks"]) == 6 and all(fine for fine, _ in found["checks"].values())
    assert "the others decoded nothing" in found["checks"]["alpha 0 is the base alone"][1]
    tiny, huge = found["shapes"].values()
    assert tiny["rates"]["0.8"]["auto"]["tokens"] >= 16 and tiny["device_bytes"] == 0
    # What there is no time or no room for is not begun.
    assert list(huge) == ["left_out"] and "left out: " + huge["left_out"] in done.stdout
    assert "auto at 0.8" in done.stdout


def test_the_run_for_a_gpu_wants_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llama, "devices", lambda: [])
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / "bench_gpu.py"), run_name="__main__")
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == ""
    assert told.err.startswith("bench_gpu: llama.cpp finds no GPU here")
    assert told.err.count("\n") == 1


def test_rows_by_type_and_roles_side_by_side(tmp_path: Path) -> None:
    options = ("--shape", "tiny", "--small", "tiny", "--quantizations", "Q4_K_M,Q4_0+Q6_K")
    short = ("--threads", "1", "--seconds", "0.01", "--times", "2", "--prompt", "8")
    found = report("bench_rows.py", *options, *short, "--cache", tmp_path)
    assert [line["quantization"] for line in found["rows"]] == ["Q4_K_M", "Q4_0+Q6_K"]
    for line in found["rows"]:
        assert list(line["median_ms"]) == [str(n) for n in range(1, 18)]
        assert all(0 < line["least_ms"][n] <= line["median_ms"][n] for n in line["median_ms"])
        assert line["prompt_tokens_per_second"] > 0
    beside = found["side_by_side"]
    assert (beside["threads"], beside["threads_each"]) == (1, 1)
    assert [line["rows"] for line in beside["rows"]] == [1, 2, 3, 4, 5, 8, 9]
    assert all(line["verify_gain"] > 0 and line["drafts_gain"] > 0 for line in beside["rows"])


def test_rows_and_prompts_with_flash_attention_and_without(tmp_path: Path) -> None:
    options = ("--model", "tiny", "--caches", "f16,q8_0", "--turns", "2", "--threads", "1")
    sizes = ("--rows", "1,2", "--past", "16,40", "--prompt", "64", "--n-batch", "32,16")
    done = run("bench_attention.py", *options, *sizes, "--cache", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    found = [line for line in lines if line and line[0] in ("f16", "q8_0", "64")]
    rows = [["f16", past, n] for past in ("16", "40") for n in ("1", "2")]
    rows += [["q8_0", *line[1:]] for line in rows]
    prompts = [["64", size, way] for size in ("32", "16") for way in ("on", "off")]
    assert [line[:3] for line in found] == rows + prompts
    # A quantized V cache is compared with nothing.
    assert [len(line) for line in found] == [8] * 4 + [4] * 4 + [4] + [7] * 3


def test_prompts_read_in_several_ways(tmp_path: Path) -> None:
    options = ("--shapes", "tiny,tiny,tiny", "--tokens", "64", "--turns", "1", "--threads", "1")
    variants = ("--variants", "64,16,64+beside")
    done = run("bench_prompt.py", *options, *variants, "--cache", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[-6:]  # those before are of the machine
    names = [f"{v}, {what}" for v in ("64", "16", "64+beside") for what in ("trio", "base alone")]
    assert [line[: len(name)] for line, name in zip(lines, names, strict=True)] == names
    assert "of the base alone" in lines[0] and "of 64's" in lines[2] and "of 64's" in lines[5]


def test_resuming_beside_reading_anew(tmp_path: Path) -> None:
    options = ("--shapes", "tiny,tiny,tiny", "--tokens", "64", "--turns", "2", "--threads", "1")
    done = run("bench_resume.py", *options, "--cache", tmp_path, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[-7:]
    names = ["read anew", "written", "written, on disk", "loaded", "resumed", "resumed, off disk"]
    assert "64 tokens" in lines[0] and "a token takes" in lines[0]
    assert [line[:20].strip() for line in lines[1:]] == names
    assert all("times as fast as anew" in line for line in lines[5:])


def test_caches_of_every_kind_against_f16() -> None:
    done = run("check_caches.py", "--windows", "1", "--size", "40", "--threads", "1")
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines()[1:]:
        kl, variation, same = re.findall(r"([-\d.]+) \[", line[18:])
        found[line[:18].strip()] = (float(kl), float(variation), float(same))
    assert len(found) == 6 and all(-1e-6 <= kl < 0.5 for kl, *_ in found.values())
    assert found["f32"][0] <= found["q8_0"][0] < found["q4_0"][0]
    assert found["f32"][2] == 1.0


PAGES = "".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
COMMANDS = sorted(set(re.findall(r"`scripts/((?:bench|draft)_\w+\.py [^`]*)`", PAGES)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_pages_are_understood(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, *arguments = shlex.split(command)
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser) -> None:
        parse(parser)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("script", "arguments", "line"),
    [
        ("bench_speculation.py", ["--rates", "0,1"], "--rates 0,1: give numbers from 0"),
        ("bench_speculation.py", ["--tokens", "7"], "--tokens must be 8 or more"),
        ("bench_speculation.py", ["--quantization", "tuned=Q9"], "--quantization tuned=Q9: use"),
        ("bench_prompt.py", ["--shapes", "8b,1b"], "--shapes 8b,1b: give three of tiny"),
        ("bench_prompt.py", ["--tokens", "9"], "--tokens must be 64 or more"),
        ("bench_resume.py", ["--shapes", "8b,1b"], "--shapes 8b,1b: give three of tiny"),
        ("bench_resume.py", ["--turns", "0"], "--turns 1 or more"),
        ("bench_gpu.py", ["--shapes", "8b,1b"], "--shapes 8b,1b: give three of tiny"),
        ("bench_gpu.py", ["--shapes", "70b,7b,7b"], "these have different vocabularies"),
        ("bench_gpu.py", ["--quantization", "Q9"], "--quantization Q9: use Q4_0"),
        ("bench_rows.py", ["--quantizations", "Q3_K"], "--quantizations Q3_K: use Q4_0"),
        ("bench_rows.py", ["--small", "9b"], "--small 9b: use one of tiny"),
        ("bench_rows.py", ["--threads", "0"], "--threads 0: give numbers"),
        ("bench_attention.py", ["--past", "0"], "--rows, --past, --n-batch and --turns: give 1"),
        ("bench_step.py", ["--shapes", "9b,1b,1b"], "--shapes 9b,1b,1b: give three of tiny"),
        ("bench_step.py", ["--quantization", "Q3_K"], "--quantization Q3_K: use Q4_0"),
        ("bench_step.py", ["--quantization", "bass=Q4_0"], "there is no role bass"),
        ("bench_step.py", ["--base", "a.gguf"], "give --base, --tuned and --reference"),
        ("bench_combine.py", ["--model", "a.gguf", "b.gguf"], "takes one file or three, not 2"),
    ],
)
def test_wrong_options_are_named_in_one_line(
    script: str,
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == ""
    assert line in told.err and told.err.count("\n") == 1
