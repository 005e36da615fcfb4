"""A LoRA that PEFT made, converted: llama.cpp's logits are PyTorch's, for every architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.llama import Context, Model, Span

torch = pytest.importorskip(
    "torch", reason="needs torch: python3 scripts/setup.py --extra tune", exc_type=ImportError
)

import peft  # noqa: E402
from tiny_transformers import MODELS, tiny_model, write_gguf  # noqa: E402

TOKENS = list(range(40, 72))
# llama.cpp looks GELU up in a table of float16
CLOSE = {**dict.fromkeys(MODELS, 2e-5), "gemma3": 5e-3}
ADAPTERS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": "all-linear", "r": 4, "lora_alpha": 8},
    # one alpha will not do; and A and B mean the same whatever fan_in_fan_out says
    "everything": {
        "target_modules": r".*(_proj|embed_tokens|lm_head)",
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "rank_pattern": {"down_proj": 6},
        "alpha_pattern": {"o_proj": 5, r"layers\.1\.mlp\.down_proj": 9},
    },
}


def of_torch(model: Any) -> NDArray[np.float32]:
    """(tokens, vocab) float32."""
    with torch.no_grad():
        return np.asarray(model(torch.tensor([TOKENS])).logits[0].float())


def of_llama_cpp(file: Path, *adapters: tuple[Path, float]) -> NDArray[np.float32]:
    exact: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32", "flash_attention": "off"}
    with (
        Model(file) as model,
        Context(model, n_ctx=64, n_threads=1, adapters=adapters, **exact) as c,
    ):
        return c.decode([Span(0, TOKENS, len(TOKENS))]).copy()


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_pytorch(kind: str, adapter: str, tmp_path: Path) -> None:
    settings = ADAPTERS[adapter]
    model = tiny_model(kind, tied=adapter == "linear")
    base, lora = write_gguf(tmp_path / "base.gguf", model, kind), tmp_path / "lora.gguf"
    plain = of_torch(model)
    assert np.abs(of_llama_cpp(base) - plain).max() < CLOSE[kind]

    torch.manual_seed(1)
    tuned = peft.get_peft_model(
        model, peft.LoraConfig(**settings, init_lora_weights=False, task_type="CAUSAL_LM")
    ).eval()
    tuned.save_pretrained(tmp_path / "peft")
    config = tmp_path / "peft" / "adapter_config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(said | {"fan_in_fan_out": True}), encoding="utf-8")

    arguments = ["models", "adapter", str(tmp_path / "peft"), str(lora), "--base", str(base)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    expected = of_torch(tuned)
    differs = np.abs(of_llama_cpp(base, (lora, 1.0)) - expected).max()
    print(f"{kind}, {adapter}: largest difference of logits {differs:.1e}")
    assert np.abs(expected - plain).max() > 0.5  # what is compared is there
    assert differs < CLOSE[kind]
