"""A GGUF's weights as a transformers model, with a LoRA adapter to be trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eftlocal.errors import ModelFileError, UsageError


def require() -> None:
    """Refuses where what a tuning needs is not installed."""
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"tuning needs PyTorch, transformers and PEFT ({error}); "
            "pip install 'eftlocal[tune]' installs them"
        ) from None


def device() -> str:
    """Where it is trained: an NVIDIA, AMD or Apple GPU, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_bfloat16() -> bool:
    """Whether bfloat16 is faster there than float32; many CPUs take eight times as long."""
    import torch

    if device() == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device() == "cuda" and torch.cuda.is_bf16_supported()


def load(file: Path, *, rank: int, alpha: float, seed: int) -> Any:
    """A PEFT model: the file's weights in float32, frozen, and a new adapter on every projection.

    Source of the method: Hu et al. 2021, arXiv 2106.09685.

    Args:
        rank: of the adapter's matrices.
        alpha: the adapter's output is multiplied by alpha / rank.
        seed: of the adapter's random matrices.

    Raises:
        ModelFileError: transformers cannot read the file; the line says why.
    """
    import peft
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        )
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise ModelFileError(f"{file}: transformers cannot read its weights: {error}") from None
    model.config.use_cache = False
    model.name_or_path = file.name  # what the adapter's config names, without this machine's folder
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config).to(device())
