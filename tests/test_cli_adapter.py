"""`eftlocal models adapter` on files made by hand: what is refused, and how numbers are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy
from fuzzing.tiny_models import EMBD, LAYERS, write_tiny_model
from numpy.typing import NDArray
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.gguf_file.check import check_adapter, checked_model

Tensors = dict[str, NDArray[Any]]
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_rslora": False}
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def pair(module: str, rows: int = EMBD, columns: int = EMBD, rank: int = 4) -> Tensors:
    rng = np.random.default_rng(len(module))
    return {
        f"{module}.lora_A.weight": rng.standard_normal((rank, columns), np.float32),
        f"{module}.lora_B.weight": rng.standard_normal((rows, rank), np.float32),
    }


def written(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def run(*arguments: object) -> tuple[int, str]:
    """The exit code and the line that `models adapter` ends with."""
    result = CliRunner().invoke(app, ["models", "adapter", *map(str, arguments)])
    return result.exit_code, result.output.strip()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "base.gguf")


def matrices(path: Path) -> dict[str, NDArray[np.float32]]:
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in tensors}


def of(module: str, **shape: int) -> Callable[[Tensors], Tensors]:
    return lambda _: pair(f"base_model.model.{module}", **shape)


def changed(key: str, value: Any) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, key: value}


REFUSED: dict[str, tuple[dict[str, Any], Callable[[Tensors], Tensors], str]] = {
    "DoRA": ({"use_dora": True}, dict, "is a DoRA (use_dora)"),
    "modules": ({"modules_to_save": ["lm_head"]}, dict, "holds whole modules (modules_to_save)"),
    "bias": ({"bias": "lora_only"}, dict, "trains biases (bias is 'lora_only')"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, dict, "changed the base's weights too"),
    "another type": ({"peft_type": "IA3"}, dict, "peft_type is 'IA3'; only LORA can be converted"),
    "no type": ({"peft_type": None}, dict, "peft_type is None"),
    "alpha 0": ({"lora_alpha": 0}, dict, "is 0; it must be a number, not 0"),
    "alpha as text": ({"lora_alpha": "8"}, dict, "is '8'; it must be a number"),
    "pattern": ({"alpha_pattern": {"(": 4}}, dict, "'(' is no regular expression"),
    "nothing": ({}, lambda _: {}, "has no tensors"),
    "half": ({}, lambda t: dict([*t.items()][:1]), "q_proj has only one of its two matrices"),
    "a norm": (
        *({}, changed("base_model.model.model.norm.weight", np.ones(EMBD, np.float32))),
        "tensor base_model.model.model.norm.weight is no matrix of a LoRA",
    ),
    "integers": ({}, lambda t: {k: v.astype(np.int32) for k, v in t.items()}, "is of type I32"),
    "not finite": ({}, lambda t: {k: v * np.inf for k, v in t.items()}, "values that are not fini"),
    "two ranks": (
        *({}, changed(f"{QUERY}.lora_B.weight", np.ones((EMBD, 3), np.float32))),
        "matrices of two ranks, 4 and 3",
    ),
    "another width": ({}, of("model.layers.0.self_attn.q_proj", columns=32), "64 x 32, and in"),
    "another layer": (
        *({}, of(f"model.layers.{LAYERS}.self_attn.q_proj")),
        f"base.gguf has {LAYERS} layers",
    ),
    "no such module": (
        *({}, of("model.layers.0.self_attn.qkv_proj")),
        "changes model.layers.0.self_attn.qkv_proj, which no tensor of a llama GGUF is",
    ),
    "no such tensor": (
        *({}, of("model.layers.0.mlp.gate")),
        "and base.gguf has no tensor blk.0.ffn_gate_inp.weight",
    ),
    "tied output": ({}, of("lm_head", rows=320), "the embeddings and the output are one matrix"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_gguf_adapter_can_be_is_refused(case: str, tmp_path: Path, base: Path) -> None:
    config, edit, said = REFUSED[case]
    folder = written(tmp_path / "peft", CONFIG, pair(QUERY))
    assert run(folder, tmp_path / "good.gguf", "--base", base)[0] == 0
    written(folder, CONFIG | config, edit(pair(QUERY)))
    code, line = run(folder, tmp_path / "out.gguf", "--base", base)
    assert code == 3 and said in line and line.startswith(f"eftlocal: {folder}/adapter_")
    assert "\n" not in line and not [*tmp_path.glob("out*")]


def test_files_that_cannot_be_used_are_named(tmp_path: Path, base: Path) -> None:
    out, folder = tmp_path / "out.gguf", written(tmp_path / "peft", CONFIG, pair(QUERY))
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    other = write_tiny_model(tmp_path / "gpt2.gguf", "gpt2")
    assert "of the architecture gpt2, for which" in run(folder, out, "--base", other)[1]
    assert "--type q4: give f32, f16 or bf16" in run(folder, out, "--base", base, "--type", "q4")[1]
    assert f"there is no folder {tmp_path}/no" in run(folder, tmp_path / "no/a", "--base", base)[1]
    assert run(folder, out, "--base", base)[0] == 0
    assert "out.gguf is there already" in run(folder, out, "--base", base)[1]
    assert run(folder, out, "--base", base, "--force")[0] == 0
    assert "is an adapter; give the model" in run(folder, tmp_path / "b", "--base", out)[1]
    weights.write_bytes(weights.read_bytes()[:-1])
    assert f"{weights}: is no safetensors file" in run(folder, out, "--base", base, "--force")[1]
    weights.rename(folder / "adapter_model.bin")
    assert "has adapter_model.bin only" in run(folder, out, "--base", base, "--force")[1]
    config.write_text("{")
    assert f"{config}: not JSON" in run(folder, out, "--base", base, "--force")[1]
    config.unlink()
    assert f"{config}: cannot be read" in run(folder, out, "--base", base, "--force")[1]
    check_adapter(checked_model(out), checked_model(base))  # the last that succeeded


def test_numbers_are_kept_as_they_are_stored(tmp_path: Path, base: Path) -> None:
    """Or in the type asked for; B is multiplied only where one alpha does not fit all."""
    up, gate, down = (
        f"base_model.model.model.layers.1.mlp.{x}_proj" for x in ("up", "gate", "down")
    )
    tensors = pair(up, 96) | pair(gate, 96) | pair(down, EMBD, 96)
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        kind, stored = "F32", values
        if name.startswith(gate):
            kind, stored = "F16", values.astype(np.float16)
        elif name.startswith(down):  # numpy has no bfloat16: the upper half of a float32
            kind, stored = "BF16", (values.view(np.uint32) >> 16).astype(np.uint16)
            tensors[name] = (stored.astype(np.uint32) << 16).view(np.float32)
        span = [len(data), len(data) + stored.nbytes]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": span}
        data += stored.tobytes()
    told = json.dumps(header).encode()
    folder = written(tmp_path / "peft", CONFIG | {"alpha_pattern": {"up_proj": 24}}, {})
    (folder / "adapter_model.safetensors").write_bytes(
        len(told).to_bytes(8, "little") + told + data
    )
    assert run(folder, tmp_path / "kept.gguf", "--base", base)[0] == 0
    assert run(folder, tmp_path / "f16.gguf", "--base", base, "--type", "F16")[0] == 0
    adapter = checked_model(tmp_path / "kept.gguf")
    check_adapter(adapter, checked_model(base))
    assert adapter.metadata["adapter.lora.alpha"] == 8.0
    types = {tensor.name: tensor.type.name for tensor in adapter.tensors}
    assert {types[f"blk.1.ffn_{x}.weight.lora_b"] for x in ("gate", "down")} == {"F16", "BF16"}
    kept, halved = matrices(tmp_path / "kept.gguf"), matrices(tmp_path / "f16.gguf")
    for module, factor in ((up, 3.0), (gate, 1.0), (down, 1.0)):
        name = f"blk.1.ffn_{module.rpartition('.')[2][:-5]}.weight.lora_b"
        expected = tensors[f"{module}.lora_B.weight"] * factor
        dtype = np.float16 if module == gate else np.float32
        np.testing.assert_array_equal(kept[name], expected.astype(dtype))
        np.testing.assert_array_equal(halved[name], expected.astype(np.float16))
    assert {t.type.name for t in checked_model(tmp_path / "f16.gguf").tensors} == {"F16"}


def test_modules_of_models_with_pictures_are_found(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base.gguf", "gemma3")
    found = []
    for i, prefix in enumerate(("model.", "model.language_model.", "language_model.model.")):
        module = f"base_model.model.{prefix}layers.1.self_attn.o_proj"
        out = tmp_path / f"{i}.gguf"
        assert run(written(tmp_path / "peft", CONFIG, pair(module)), out, "--base", base)[0] == 0
        found.append({*matrices(out)})
    assert found == [{f"blk.1.attn_output.weight.lora_{x}" for x in "ab"}] * 3
