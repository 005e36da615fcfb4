"""A GGUF that llama.cpp runs and that says what a test wrote: its next token depends on the last
one alone. What a prompt ends with begins a script; everything else ends the answer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_STAND_INS = {byte: chr(byte) for byte in _PRINTABLE}
_STAND_INS |= {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}  # as byte-level BPE has them
_HEADS, _WIDTH = 8, 1024


def scripted_model(
    path: Path, template: str, scripts: Mapping[str, str], control: Sequence[str] = ()
) -> Path:
    """Writes it.

    Args:
        scripts: the letter that ends a prompt, and the answer to it.
        control: marks that are one control token each wherever an answer has them.
    """
    names = [*_STAND_INS.values(), "<|begin|>", "<|end|>", *control]
    bos, eos = 256, 257
    chains: list[list[int]] = []
    for first, text in scripts.items():
        chain = [names.index(first)]
        for name in _pieces(text, control, names):
            if name not in control:
                assert name not in names
                names.append(name)
            chain.append(names.index(name))
        chains.append([*chain, eos])
    follows = dict.fromkeys(range(len(names)), eos)
    follows |= {a: b for chain in chains for a, b in itertools.pairwise(chain)}
    assert len(names) <= _WIDTH

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("scripted")
    writer.add_block_count(1)
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(32)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(names))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    special = {bos, eos, *(names.index(mark) for mark in control)}
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL
            for t in range(len(names))
        ]
    )
    writer.add_token_merges(["a b"])  # llama.cpp wants one
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(True)
    writer.add_chat_template(template)
    embedding = np.zeros((len(names), _WIDTH), np.float16)
    embedding[list(follows), list(follows.values())] = 1.0
    zero, flat = np.zeros((_WIDTH, _WIDTH), np.float16), np.zeros((32, _WIDTH), np.float16)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", np.eye(len(names), _WIDTH, dtype=np.float16))
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", zero)
    for name, matrix in (("ffn_gate", flat), ("ffn_up", flat), ("ffn_down", flat.T.copy())):
        writer.add_tensor(f"blk.0.{name}.weight", matrix)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _pieces(text: str, control: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """The text in names of tokens: of three bytes and more, so that marks and characters fall into
    several, and none that there is already."""
    parts = re.split("(" + "|".join(map(re.escape, control)) + ")", text) if control else [text]
    for part in parts:
        if part in control:
            yield part
            continue
        data = "".join(_STAND_INS[byte] for byte in part.encode())
        while data:
            size = next(n for n in range(3, len(data) + 3) if data[:n] not in names)
            size = len(data) if len(data) - size < 3 else size
            yield data[:size]
            data = data[size:]
