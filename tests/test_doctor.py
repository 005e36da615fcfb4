"""The self-test, its crash report, and the doctor that shows them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from eftlocal import selftest
from eftlocal.cli import doctor as doctor_module
from eftlocal.selftest import (
    LAYERS,
    SelfTestResult,
    advice,
    crash_in_words,
    crash_name,
    run_in_child,
    write_random_model,
)

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
ENGINE = {
    "llama_cpp": "9.9",
    "backends": ["CUDA", "CPU"],
    "devices": [
        {
            "name": "[red]CUDA0",
            "description": "a card",
            "kind": "gpu",
            "memory_free": 3 * 2**30,
            "memory_total": 2**32,
        }
    ],
    "supports_rpc": True,
    "supports_gpu_offload": False,
    "system_info": "CPU : AVX2 = 1 | AMX_INT8 = 1 |",
}


BUILT = {"key": "of scripts/setup.py"}


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def said(*lines: dict[str, Any]) -> str:
    return f"print({chr(10).join(json.dumps(line) for line in lines)!r}, flush=True)\n"


# The child


@POSIX
@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("SIGSEGV", "miscompiled"),
        ("SIGILL", "another CPU"),
        ("SIGKILL", "memory ran out"),
        ("SIGUSR1", "SIGUSR1"),
    ],
)
def test_crash_in_plain_words(name: str, meaning: str, tmp_path: Path) -> None:
    code = said(ENGINE) + f"import os, signal; os.kill(os.getpid(), signal.{name})"
    result = run_in_child(command=child(code), build_file=tmp_path / "none")
    assert not result.ok and result.advice
    assert result.message.startswith(f"llama.cpp crashed with {name}")
    assert meaning in result.message and "\n" not in result.message
    assert result.facts["llama_cpp"] == "9.9"  # said before the crash, so not lost


def test_windows_exception_codes() -> None:
    assert crash_name(0xC0000005) == "SIGSEGV"
    assert "an access violation" in crash_in_words(0xC0000005, "SIGSEGV")
    assert crash_name(0) == crash_name(1) == ""
    assert crash_name(-200) == "SIG200"


@pytest.mark.parametrize(
    ("kind", "build", "words"),
    [
        ("SIGSEGV", {"cpu_has_amx": True, "amx_cure": {"applied": False}}, "-fno-tree-dse"),
        ("SIGSEGV", {"cpu_has_amx": True, "amx_cure": {"applied": True}}, "CC=clang"),
        ("SIGSEGV", {"accelerator": "cuda"}, "--cpu"),
        ("wrong", {"asked_for": "vulkan", "accelerator": "vulkan"}, "GPU's Vulkan driver"),
        ("wrong", {"asked_for": "vulkan", "accelerator_why": "by CMAKE_ARGS"}, "--forget --cpu"),
        ("SIGSEGV", BUILT, "CC=clang"),
        ("SIGILL", {"accelerator": "cuda"}, "scripts/setup.py --rebuild"),
        ("SIGKILL", {}, "memory"),
        ("wrong", BUILT, "CC=clang"),
        ("wrong", {}, "CC=clang"),
        ("missing", BUILT, ".venv"),
        ("missing", {}, "install eftlocal again"),
        ("error", BUILT, "scripts/setup.py --rebuild"),
        ("error", {}, "--no-binary llama-cpp-python"),
    ],
)
def test_advice(kind: str, build: dict[str, Any], words: str) -> None:
    assert words in advice(kind, build)


@pytest.mark.parametrize(
    ("amx", "nvidia", "pip", "command"),
    [
        (False, False, True, 'CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_RPC=on" "PY" -m pip install'),
        (False, True, True, '"-DLLAVA_BUILD=OFF -DGGML_CUDA=on -DGGML_RPC=on" "PY" -m pip'),
        (
            True,
            False,
            True,
            'CFLAGS="-fno-tree-dse -fno-dse" CXXFLAGS="-fno-tree-dse -fno-dse" "PY" -m pip',
        ),
        (False, False, False, 'uv pip install --python "PY" --reinstall'),
    ],
)
def test_an_installation_without_a_checkout_is_told_how_to_build_llama_cpp(
    amx: bool, nvidia: bool, pip: bool, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(selftest, "cpu_has_amx", lambda: amx)
    monkeypatch.setattr(selftest.shutil, "which", lambda _: "/usr/bin/it" if nvidia else None)
    monkeypatch.setattr(selftest.Path, "glob", lambda *_: iter(()))
    monkeypatch.setattr(selftest, "find_spec", lambda _: object() if pip else None)
    told = selftest.rebuild({})
    assert command.replace("PY", sys.executable) in told and "\n" not in told
    assert told.startswith("CMAKE_ARGS=") and "--no-binary" in told


def test_verdicts_of_the_child() -> None:
    good = SelfTestResult(True, "fine", facts={"seconds": 1})
    code = said(ENGINE, vars(good))
    result = run_in_child(command=child(code))
    assert (result.ok, result.message, result.advice) == (True, "fine", "")
    assert result.facts == {**ENGINE, "seconds": 1}
    bad = run_in_child(command=child(said(ENGINE, vars(SelfTestResult(False, "rows disagree")))))
    assert (bad.ok, bad.message) == (False, "rows disagree") and "--rebuild" in bad.advice


def test_child_that_fails_without_a_verdict() -> None:
    missing = run_in_child(command=child("import no_such_module_anywhere"))
    assert missing.message == "ModuleNotFoundError: No module named 'no_such_module_anywhere'"
    assert ".venv" in missing.advice
    silent = run_in_child(command=child("raise SystemExit(3)"))
    assert not silent.ok and "exit code 3" in silent.message
    nothing = run_in_child(python="/no/such/python")
    assert not nothing.ok and "could not be started" in nothing.message
    hanging = run_in_child(command=child("import threading; threading.Event().wait()"), timeout=0.2)
    assert not hanging.ok and hanging.message.startswith("still running after")


def test_build_facts_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    for text in ("", "[1]", '{"half":'):
        path.write_text(text)
        assert selftest.read_build_facts(path) == {}
    assert selftest.read_build_facts(tmp_path / "none") == {}


# The test itself


def test_random_model_has_every_quantization(tmp_path: Path) -> None:
    path, again = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write_random_model(path)
    write_random_model(again)
    assert path.read_bytes() == again.read_bytes()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for layer, quantization in enumerate(LAYERS):
        tensor = tensors[f"blk.{layer}.ffn_down.weight"]
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert tensor.tensor_type.name == quantization
        assert weights.shape == (256, 512)
        assert np.isclose(weights.std() * np.sqrt(512), 1.0, atol=0.1)
        assert abs(weights.mean()) < 0.1 * weights.std()


def test_this_build_passes() -> None:
    result = run_in_child()
    assert result.ok, result.message
    assert result.facts["tokens"] == 64
    assert result.facts["cpu"]["mean_total_variation"] < 0.1
    assert result.facts["devices"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [("nan", "not numbers"), ("shuffle", "disagree"), ("zero", "all logits are the same")],
)
def test_a_build_that_computes_wrongly_fails(
    damage: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = selftest._rows

    def wrong(model: Any, calls: Any) -> Any:
        rows = right(model, calls)
        if damage == "zero":
            return rows * 0
        if len(calls) == 1:
            if damage == "nan":
                rows[3, 4] = np.nan
            else:
                rows = rows[::-1]
        return rows

    monkeypatch.setattr(selftest, "_rows", wrong)
    result = selftest.run()
    assert not result.ok and words in result.message and result.message.startswith("on cpu")


def test_a_gpu_build_without_a_gpu_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from eftlocal import llama

    cpu = [device for device in llama.devices() if device.kind == "cpu"]
    monkeypatch.setattr(llama, "devices", lambda: cpu)
    monkeypatch.setattr(selftest, "read_build_facts", lambda: {"accelerator": "cuda"})
    result = selftest.run()
    assert not result.ok and "built for cuda" in result.message


# The doctor


def run_doctor(
    monkeypatch: pytest.MonkeyPatch, result: SelfTestResult, *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(doctor_module, "run_in_child", lambda: result)
    app = typer.Typer()
    app.command()(doctor_module.doctor)
    outcome = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return outcome.exit_code, outcome.output


HEALTHY = SelfTestResult(True, "all agree", facts={**ENGINE, "seconds": 1.0})
CRASHED = SelfTestResult(False, "it crashed", "do this next")


@pytest.mark.parametrize(
    ("result", "code", "said"),
    [
        (HEALTHY, 0, ["[red]CUDA0 (gpu): a card, 3.0 of 4.0 GiB free", "all agree", "9.9"]),
        (
            CRASHED,
            8,
            ["failed: it crashed", "do this next", "unknown: llama.cpp could not be asked"],
        ),
    ],
)
def test_doctor(
    result: SelfTestResult, code: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, shown = run_doctor(monkeypatch, result)
    assert found == code and all(words in shown for words in [*said, "llama-cpp-python"])


def test_doctor_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"accelerator": "cpu", "amx_cure": {"applied": True, "why": "tested"}}
    monkeypatch.setattr(doctor_module, "read_build_facts", lambda: facts)
    code, shown = run_doctor(monkeypatch, HEALTHY, "--json")
    report = json.loads(shown)
    assert code == 0
    assert report["build"] == facts
    assert report["devices"] == ENGINE["devices"]
    assert report["rpc"] is True and report["gpu_offload"] is False
    assert report["amx"]["build"] is True and report["amx"]["cure"]["applied"] is True
    assert report["versions"]["numpy"] == np.__version__
    assert report["selftest"] == {
        "ok": True,
        "message": "all agree",
        "advice": "",
        "measured": {"seconds": 1.0},
    }
    code, shown = run_doctor(monkeypatch, CRASHED, "--json")
    assert code == 8 and json.loads(shown)["devices"] is None


def test_doctor_shows_how_it_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "read_build_facts", dict)
    report = doctor_module.collect(HEALTHY)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(doctor_module.as_table(report))
    shown = console.export_text()
    assert "as pip or uv installed it" in shown and "--no-binary" in report["rebuild"]
    report["build"] = {"accelerator": "cpu", "cmake_args": ["-DGGML_RPC=on"], "cxxflags": ["-O1"]}
    report["rpc"] = False
    console.print(doctor_module.as_table(report))
    text = console.export_text()
    assert "-DGGML_RPC=on" in text and "-O1" in text
    assert "no; to build it in: python3 scripts/setup.py --rpc" in text


def test_amx_is_read_from_cpuinfo(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    assert doctor_module.cpu_has_amx(path) is False
    path.write_text("flags : fpu amx_tile\n")
    assert doctor_module.cpu_has_amx(path) is True
    path.write_text("flags : fpu\n")
    assert doctor_module.cpu_has_amx(path) is False
