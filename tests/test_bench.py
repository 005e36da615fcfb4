"""`eftlocal bench`: real runs on the demo models; how long they take is never judged."""

from __future__ import annotations

import inspect
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_speculative
from typer.testing import CliRunner, Result

from eftlocal import Emulator
from eftlocal.cli.app import app
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.settings import Speculation
from eftlocal.study import benchmark, machine
from eftlocal.study.benchmark import BUILT_IN, Settings, built_in, measure, prefill, read_prompts
from eftlocal.study.machine import Nvidia, Rapl

SHORT = ["--max-tokens", "6", "--repeat", "1", "--prompt-tokens", "16", "--threads", "1"]
NAMES = ["base alone", "plain emulation", "speculative, auto", "speculative, 2"]


@pytest.fixture(autouse=True)
def no_meters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the machine tells of its energy must not decide a test."""
    monkeypatch.setattr(machine, "POWERCAP", tmp_path / "none")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)


@pytest.fixture
def two_prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("Where is Braga?\n\n  What is a fig?  \n", "utf-8")
    return path


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], prog_name="eftlocal")


def test_json_table_and_picture(two_prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    more = ("--prompts", two_prompts, "--speculative", "2", "--json", file, "--plot", picture)
    result = bench(*SHORT, *more)
    assert result.exit_code == 0, result.output
    for name in NAMES:
        assert name in result.stdout
    assert "not offered" in result.stdout and "n/a" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(json.loads(file.read_text("utf-8"))["modes"]) == NAMES


def test_figures_fit_each_other(two_prompts: Path) -> None:
    result = bench(
        *SHORT, "--prompts", two_prompts, "--speculative", "2", "--temperature", "0", "--json", "-"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["preset"] == "demo" and report["meters"] == []
    assert report["settings"]["prompts"] == 2 and report["settings"]["prompt_tokens"] == 16
    assert report["not_measured"] == {"llama.cpp's own drafts": "not offered by this build"}
    found = report["modes"]
    for name in NAMES:
        of = found[name]
        assert of["answers"] == 2
        keys = ["prefill_tokens_per_second", "first_token_seconds", "prefill_over_plain"]
        if name != "speculative, auto":  # which may bring all six tokens in its first round
            keys.append("decode_over_plain")
        for key in keys:
            value, low, high = of[key]
            assert 0 < low <= value <= high
        assert of["joules_per_token"] == [None] * 3
    # A base ends a chat at once; its speed is measured all the same.
    assert found["base alone"]["rounds"] == 12
    assert found["plain emulation"]["decode_over_plain"] == [1.0, 1.0, 1.0]
    assert found["base alone"]["drafts"] == found["plain emulation"]["drafts"] == 0
    # Coupled drafts of two in answers of six tokens: the same text in fewer rounds.
    fixed, plain = found["speculative, 2"], found["plain emulation"]
    assert fixed["same_text_as_plain"] == 1.0 and fixed["rounds"] < plain["rounds"] == 12
    assert fixed["acceptance"] == pytest.approx(
        sum(fixed["accepted_by_position"]) / sum(fixed["tried_by_position"])
    )
    assert fixed["accepted_length"] == pytest.approx(
        sum(fixed["accepted_by_position"]) / fixed["drafts"]
    )
    assert found["base alone"]["peak_bytes"] <= plain["peak_bytes"]
    assert found["base alone"]["recipe"] == "base: +1 base"


def test_files_and_modes_in_turn(tiny_files: dict[str, Path], two_prompts: Path) -> None:
    files = [part for role, path in tiny_files.items() for part in (f"--{role}", str(path))]
    options = [*SHORT, "--n-ctx", "64", "--draft-rule", "rejection", "--draft-source", "model"]
    result = bench(*files, *options, "--prompts", two_prompts, "--json", "-")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["preset"] is None and report["settings"]["rule"] == "rejection"
    assert [model["file"] for model in report["models"].values()] == [
        path.name for path in tiny_files.values()
    ]


def test_what_the_files_hold_and_what_is_said_of_them(
    tiny_files: dict[str, Path], two_prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Emulator, "notes", lambda emulator: ("faster files can be had",))
    files = [part for role, path in tiny_files.items() for part in (f"--{role}", str(path))]
    result = bench(*files, *SHORT, "--n-ctx", "64", "--prompts", two_prompts)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for role in tiny_files:
        assert [line for line in lines if line.startswith(f"{role}: llama") and "F16" in line]
    assert "faster files can be had" in lines


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--preset", "dem"], 2, "demo"),
        (["--preset", "demo", "--base", "x"], 2, "exclude each other"),
        (["--base", "no.gguf"], 2, "only base; give --tuned and --reference, or"),
        (["--base", "n.gguf", "--tuned", "n.gguf", "--reference", "n.gguf"], 3, "n.gguf"),
        (["--prompts", "nowhere.txt"], 2, "nowhere.txt: cannot be read"),
        (["--json", "nowhere/b.json"], 2, "--json: there is no folder nowhere"),
        (["--json", "."], 2, "--json: . is a folder"),
        (["--plot", "nowhere/b.png"], 2, "there is no folder nowhere"),
        (["--prompt-tokens", "999999"], 2, "--prompt-tokens 999999: a context holds"),
        (["--prompt-tokens", "0"], 2, "--prompt-tokens 0"),
        (["--temperature", "-1"], 2, "--temperature is -1"),
        (["--draft-rule", "coin"], 2, "--draft-rule is 'coin'"),
        (["--threads", "0"], 2, "threads is 0"),
        (["--speculative", "17"], 2, "--speculative"),
        (["--repeat", "0"], 2, "--repeat"),
    ],
)
def test_refused_in_one_line(arguments: list[str], code: int, says: str) -> None:
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    result = bench(*arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr and "Traceback" not in result.output
    if not result.stderr.startswith("Usage:"):
        assert result.stderr.startswith("eftlocal: ") and result.stderr.count("\n") == 1


# Prompts -----------------------------------------------------------------------------------------


def test_prompts_of_a_file(two_prompts: Path, tmp_path: Path) -> None:
    assert read_prompts(two_prompts) == ("Where is Braga?", "What is a fig?")
    records = tmp_path / "prompts.jsonl"
    records.write_text('{"prompt": "One\\ntwo", "id": 7}\n\n{"prompt": " three"}\n', "utf-8")
    assert read_prompts(records) == ("One\ntwo", " three")


def test_the_demo_is_asked_what_it_knows() -> None:
    assert built_in("smollm2-1.7b") == BUILT_IN
    assert not set(built_in("demo")) & set(BUILT_IN) and len(set(built_in("demo"))) > 3


# Measuring ---------------------------------------------------------------------------------------


def test_every_run_begins_with_empty_caches(tiny: Emulator) -> None:
    decoded = {role: context.decoded for role, context in tiny.ensemble.contexts.items()}
    for _ in range(2):
        assert prefill(tiny, Recipe.single("base"), 50) > 0
    now = {
        role: context.decoded - decoded[role] for role, context in tiny.ensemble.contexts.items()
    }
    assert now == {"base": 100, "tuned": 0, "reference": 0}
    assert not tiny.ensemble.running


def test_modes_take_turns_and_each_begins_once(tiny: Emulator) -> None:
    chosen = benchmark.modes(tiny.roles, Recipe.upscale(), Speculation(source="model"), [2, 2])
    assert [mode.name for mode in chosen] == NAMES
    assert [mode.speculation.length for mode in chosen] == [0, 0, None, 2]
    steps: list[None] = []
    settings = Settings(
        ["Hello", "Goodbye"], Sampling(), Speculation(source="model"), max_tokens=4, repeat=2
    )
    runs = measure(tiny, chosen, settings, 8, advance=lambda: steps.append(None))
    order = [run.mode for run in runs]
    assert [order[i] for i in range(0, 16, 4)] == NAMES
    assert [run.turn for run in runs] == [i // 4 for i in range(16)]
    assert len(steps) == 32
    assert all(run.joules is None and run.prefill > 0 for run in runs)
    assert all(0 < len(run.answer.tokens) <= 4 for run in runs)


def test_llama_cpps_own_drafts_are_told_if_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    assert benchmark.llama_cpp_drafts() == benchmark.NOT_OFFERED

    class LlamaModelDrafts(llama_speculative.LlamaDraftModel):
        def __init__(self, model: object) -> None:
            self.model = model

        def __call__(self, input_ids: np.ndarray, /, **kwargs: object) -> np.ndarray:
            return input_ids[:0]

    assert not inspect.isabstract(LlamaModelDrafts)
    monkeypatch.setattr(llama_speculative, "Drafts", LlamaModelDrafts, raising=False)
    assert benchmark.llama_cpp_drafts() == "offered as Drafts, not measured yet"


# Energy ------------------------------------------------------------------------------------------


def test_rapl_sums_packages_and_wraps_around(tmp_path: Path) -> None:
    for name, value in (("intel-rapl:0", 900), ("intel-rapl:1", 50), ("intel-rapl:0:0", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    meter = Rapl.find(tmp_path)
    assert meter is not None and meter.joules() == 0.0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100\n")  # 900 to 1000, and 100 more
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("60\n")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("99\n")  # a part of package 0
    assert meter.joules() == pytest.approx(210e-6)
    assert meter.joules() == pytest.approx(210e-6)
    assert Rapl.find(tmp_path / "none") is None
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert Rapl.find(tmp_path) is None


@pytest.mark.skipif(not hasattr(stat, "S_IXUSR"), reason="needs a script as a program")
def test_nvidia_power_becomes_energy(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in *loop*) while echo "0, 50.0"; do sleep 0.01; done;; *) echo "0, 50.0";; '
        "esac\n"
    )
    program.chmod(0o755)
    with Nvidia.open(str(program)) as meter:
        assert meter is not None
        before = meter.joules()
        while (after := meter.joules()) == before:  # until the first line has come
            continue
        assert after > before
    program.write_text('#!/bin/sh\necho "0, [N/A]"\n')
    with Nvidia.open(str(program)) as meter:
        assert meter is None
    with Nvidia.open(str(tmp_path / "none")) as meter:
        assert meter is None
