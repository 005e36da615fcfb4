"""Tiny random models of transformers, and the same weights as GGUF files. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from random_gguf import SPECIAL, vocabulary

LAYERS, VOCAB = 2, 320
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.12,  # so that logits differ by whole nats
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
# by the name that people say: transformers' class, its own settings, the architecture in a GGUF
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("Llama", {}, "llama"),
    "mistral": ("Mistral", {"sliding_window": None}, "llama"),
    "qwen2": ("Qwen2", {}, "qwen2"),
    "qwen3": ("Qwen3", {"head_dim": 32}, "qwen3"),
    "gemma3": ("Gemma3", {"head_dim": 32, "query_pre_attn_scalar": 32}, "gemma3"),
    "phi3": ("Phi3", {}, "phi3"),
}


def tiny_model(kind: str, *, tied: bool) -> Any:
    """A random model of one of MODELS in float32, the same one each time."""
    name, own, _ = MODELS[kind]
    config_of = getattr(transformers, f"{name}{'Text' * (kind == 'gemma3')}Config")
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(
        config_of(**_SIZES, **own, tie_word_embeddings=tied, attn_implementation="eager")
    )
    for key, weights in model.named_parameters():
        if "norm" in key or key.endswith("bias"):  # neither all 1 nor all 0
            weights.data += 0.2 * torch.randn_like(weights)
    return model.eval()


def write_gguf(path: Path, model: Any, kind: str) -> Path:
    """Writes the model as an F32 GGUF file."""
    arch = MODELS[kind][2]
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if arch == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    tokens, merges = vocabulary(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (VOCAB - len(SPECIAL)) + [3] * len(SPECIAL))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(VOCAB - 4)
    writer.add_eos_token_id(VOCAB - 3)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], LAYERS)
    for key, weights in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weights.numpy()
        if arch == "llama" and "q_proj" in key:
            values = _permuted(values, config.num_attention_heads)
        elif arch == "llama" and "k_proj" in key:
            values = _permuted(values, config.num_key_value_heads)
        elif arch == "gemma3" and "norm" in key:
            values = values + 1
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Row 2i of a head is its row i, row 2i + 1 the one half a head further."""
    rows = np.arange(len(weights)).reshape(heads, -1)
    half = rows.shape[1] // 2
    order = np.stack([rows[:, :half], rows[:, half:]], axis=-1)
    return weights[order.ravel()]
