"""Proxy-tuning with transformers: three models, full logits at each step, caches, one loop.

A GGUF is converted once, an adapter in GGUF merged into the weights. llama.cpp has the rows of a
llama's q and k heads in another order than transformers: (heads, half, 2) for (heads, 2, half).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map
from gguf.constants import Keys
from transformers import AutoModelForCausalLM, DynamicCache

from peers.table import Asked, Heard


def converted(
    files: Mapping[str, str], adapters: Mapping[str, str], folder: Path
) -> dict[str, str]:
    """Role to a folder with its model as transformers keeps one, in float32, the adapter merged.

    Reading a GGUF takes long and much memory, which are not those of answering.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    made: dict[tuple[str, str | None], str] = {}
    with redirect_stderr(io.StringIO()):  # a bar of gguf's own
        for role, name in files.items():
            if (key := (name, adapters.get(role))) in made:
                continue
            file, made[key] = Path(name), str(folder / role)
            model = AutoModelForCausalLM.from_pretrained(
                str(file.parent), gguf_file=file.name, dtype=torch.float32
            )
            if key[1] is not None:
                merge(model, key[1])
            model.hf_quantizer.remove_quantization_config(model)  # it is not quantized any more
            model.save_pretrained(made[key])
    return {role: made[name, adapters.get(role)] for role, name in files.items()}


def merge(model: Any, adapter: str) -> None:
    """Adds alpha / rank * B A to every weight that the adapter has matrices for."""
    reader = GGUFReader(adapter)
    scale = reader.get_field(Keys.Adapter.LORA_ALPHA).contents()
    parts = {t.name: torch.tensor(dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in model.named_parameters():
        target = f"{names.get_name(name, try_suffixes=('.weight',))}"
        if (a := parts.pop(f"{target}.lora_a", None)) is None:
            continue
        b = parts.pop(f"{target}.lora_b")
        if n := heads.get(target.split(".")[-2]):
            b = b.reshape(n, -1, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        weight.data += scale / len(a) * b @ a
    if parts:
        raise ValueError(f"{adapter}: no weight for {', '.join(parts)}")


class Proxy:
    """base + alpha (tuned - reference), of one prompt or of several, padded on the left."""

    def __init__(self, asked: Asked) -> None:
        torch.set_num_threads(asked.threads)
        self._asked = asked
        dtype = getattr(torch, asked.dtype)
        loaded = {
            folder: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
            for folder in sorted(set(asked.files.values()))
        }
        self._models = {role: loaded[folder] for role, folder in asked.files.items()}

    @torch.inference_mode()
    def answer(self, prompts: list[list[int]]) -> Heard:
        began = self._asked.now()
        longest, ends = max(map(len, prompts)), set(self._asked.ends)
        given = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        caches = {role: DynamicCache() for role in self._models}
        answers: list[list[int]] = [[] for _ in prompts]
        running, first = set(range(len(prompts))), 0.0
        while running:
            logits = {
                role: model(
                    input_ids=given,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=caches[role],
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
                for role, model in self._models.items()
            }
            delta = logits["tuned"] - logits["reference"]
            chosen = (logits["base"] + self._asked.alpha * delta).argmax(-1)
            for i, token in enumerate(chosen.tolist()):
                if i in running:
                    answers[i].append(token)
                    if token in ends or len(answers[i]) == self._asked.tokens:
                        running.discard(i)
            first = first or self._asked.now() - began
            given, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(given)], dim=1)
        return Heard(answers, first, len(prompts), self._asked.now() - began)

    def facts(self) -> dict[str, Any]:
        return {"dtype": self._asked.dtype}


open_way = Proxy
