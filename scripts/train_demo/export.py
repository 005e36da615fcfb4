"""Write a model and its tokenizer as a GGUF of the llama architecture."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from model import NORM_EPS, ROPE_BASE, Llama
from tokenizers import Tokenizer
from torch import Tensor
from vocabularies import BYTES, END

CONTEXT_LENGTH = 512
CHAT_TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'assistant' -%}{{ 'Answer: ' + (m['content'] | trim) + eos_token }}"
    "{%- elif m['role'] == 'user' -%}{{ 'Question: ' + m['content'] + '\\n' }}"
    "{%- else -%}{{ m['content'] + '\\n' }}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ 'Answer:' }}{%- endif -%}"
)


def write(
    path: Path,
    model: Llama,
    tokenizer: Tokenizer,
    pre: str | None,
    name: str,
    chat: bool,
    kind: str = "Q8_0",
) -> None:
    """Quantize every matrix to `kind` ("F32", "F16" or "Q8_0"), norms stay F32; atomic."""
    c = model.config
    part = path.with_suffix(".part")
    w = gguf.GGUFWriter(part, "llama")
    w.add_name(name)
    w.add_license("MIT")
    w.add_context_length(CONTEXT_LENGTH)
    w.add_embedding_length(c.dim)
    w.add_block_count(c.layers)
    w.add_feed_forward_length(c.ffn)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.heads)
    w.add_layer_norm_rms_eps(NORM_EPS)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(ROPE_BASE)
    w.add_vocab_size(c.vocab)
    w.add_file_type({"F32": 0, "F16": 1, "Q8_0": 7}[kind])
    add_tokenizer(w, tokenizer, pre, c.vocab)
    if chat:
        w.add_chat_template(CHAT_TEMPLATE)
    quantization = gguf.GGMLQuantizationType[kind]
    for key, value in tensors(model).items():
        if value.ndim == 1 or kind == "F32":
            w.add_tensor(key, value)
        else:
            w.add_tensor(key, gguf.quants.quantize(value, quantization), raw_dtype=quantization)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    part.replace(path)


def add_tokenizer(w: gguf.GGUFWriter, tokenizer: Tokenizer, pre: str | None, vocab: int) -> None:
    """Vocabulary, merges or scores, and the end token; no token is put before a text.

    `pre` is llama.cpp's name of the pre-tokenizer, None for a vocabulary like SentencePiece's.
    """
    data = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(data["vocab"], key=data["vocab"].__getitem__)
    tokens += [f"<|unused{i}|>" for i in range(len(tokens), vocab)]
    kinds = [gguf.TokenType.NORMAL] * vocab
    kinds[END] = gguf.TokenType.CONTROL
    if pre is None:
        kinds[data["vocab"]["<unk>"]] = gguf.TokenType.UNKNOWN
        for text in BYTES:
            kinds[data["vocab"][text]] = gguf.TokenType.BYTE
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        w.add_token_scores([-float(i) for i in range(vocab)])  # what was merged first goes first
        w.add_unk_token_id(data["vocab"]["<unk>"])
        w.add_add_space_prefix(False)
    else:
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(pre)
        w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in data["merges"]])
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_bos_token_id(END)
    w.add_eos_token_id(END)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)


def read(path: Path, model: Llama) -> Llama:
    """The weights of a file that `write` wrote, as that quantized them, put into a model."""
    found = {t.name: t for t in gguf.GGUFReader(path).tensors}
    with torch.no_grad():
        for key, part in parameters(model).items():
            values = gguf.quants.dequantize(found[key].data, found[key].tensor_type)
            part.copy_(torch.from_numpy(np.array(values, np.float32)).view_as(part))
    return model


def tensors(model: Llama) -> dict[str, np.ndarray]:
    """Weights by llama.cpp's names, float32."""
    return {
        key: np.ascontiguousarray(t.detach().float().numpy())
        for key, t in parameters(model).items()
    }


def parameters(model: Llama) -> dict[str, Tensor]:
    """The parameters, in the parts that a file has, by llama.cpp's names; the output matrix is the
    embedding."""
    out: dict[str, Tensor] = {
        "token_embd.weight": model.embed.weight,
        "output_norm.weight": model.norm,
    }
    for i, block in enumerate(model.blocks):
        q, k, v = block.qkv.weight.chunk(3)
        gate, up = block.gate_up.weight.chunk(2)
        out |= {
            f"blk.{i}.attn_norm.weight": block.attn_norm,
            f"blk.{i}.attn_q.weight": q,
            f"blk.{i}.attn_k.weight": k,
            f"blk.{i}.attn_v.weight": v,
            f"blk.{i}.attn_output.weight": block.out.weight,
            f"blk.{i}.ffn_norm.weight": block.ffn_norm,
            f"blk.{i}.ffn_gate.weight": gate,
            f"blk.{i}.ffn_up.weight": up,
            f"blk.{i}.ffn_down.weight": block.down.weight,
        }
    return out
