"""A GGUF's weights as a transformers model, with a LoRA adapter to be trained on it."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from eftlocal.errors import DoesNotFitError, ModelFileError, UsageError
from eftlocal.gguf_file.header import Header
from eftlocal.loading.host import host_memory_free
from eftlocal.loading.placement import gib


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


def device_of(wanted: str) -> str:
    """Where it is trained; auto is an NVIDIA, AMD or Apple GPU, else the CPU.

    Raises:
        UsageError: this PyTorch has no such device here.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [name for name, is_there in there.items() if is_there] + ["cpu"]
    if wanted == "auto":
        return found[0]
    if wanted not in found:
        raise UsageError(f"--device {wanted}: PyTorch {torch.__version__} finds {', '.join(found)}")
    return wanted


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster there than float32; many CPUs take eight times as long."""
    import torch

    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device == "cuda" and torch.cuda.is_bf16_supported()


def check_memory(header: Header) -> None:
    """Refuses a model whose weights alone, in float32, do not fit the host's memory.

    Raises:
        DoesNotFitError: with the numbers.
    """
    needed, free = 4 * sum(math.prod(t.shape) for t in header.tensors), host_memory_free()
    if free is not None and needed > free:
        raise DoesNotFitError(
            f"{header.path}: its weights take {gib(needed)} in float32, in which they are trained "
            f"on, and {gib(free)} are free; take a smaller model"
        )


def load(file: Path, *, rank: int, alpha: float, seed: int, device: str) -> Any:
    """A PEFT model: the file's weights in float32, frozen, and a new adapter on every projection.

    Source of the method: Hu et al. 2021, arXiv 2106.09685.

    Args:
        rank: of the adapter's matrices.
        alpha: the adapter's output is multiplied by alpha / rank.
        seed: of the adapter's random matrices.
        device: PyTorch's name of it.

    Raises:
        ModelFileError: transformers cannot read the file; the line says why.
    """
    import peft
    import torch
    import transformers

    with _quiet():
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(file.parent), gguf_file=file.name, dtype=torch.float32
            )
        except (ValueError, KeyError, NotImplementedError, OSError) as error:
            raise ModelFileError(f"{file}: transformers cannot read its weights: {error}") from None
        model.config.use_cache = False
        model.name_or_path = file.name  # what the adapter's config names, without its folder
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        return peft.get_peft_model(model, config).to(device)


def save(model: Any, folder: Path) -> None:
    """Writes the adapter as PEFT does."""
    with _quiet():
        model.save_pretrained(str(folder), save_embedding_layers=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """What these libraries say of their own workings, bars among it, is not for a person here."""
    import transformers

    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
