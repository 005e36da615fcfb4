"""Writes a model again with its tokens in another order: another vocabulary, the same model.

Usage: .venv/bin/python scripts/permuted_gguf.py IN.gguf OUT.gguf [--seed N]

The rows of the embeddings and of the output matrix are moved as their tokens are, bit for bit. So
what translation between vocabularies costs, and whether it changes anything, can be seen by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGUFValueType

_BY_TOKEN = ("tokens", "scores", "token_type")
_ROWS = ("token_embd.weight", "output.weight")


def write_permuted(source: Path, target: Path, seed: int = 0) -> None:
    """Permutes the vocabulary of a model."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    count = len(reader.fields["tokenizer.ggml.tokens"].data)
    order = np.random.default_rng(seed).permutation(count)  # which token is now at an id
    moved = np.argsort(order)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        key = name.removeprefix("tokenizer.ggml.")
        if key in _BY_TOKEN:
            value = [value[token] for token in order]
        elif key.endswith("_token_id"):
            value = int(moved[value])
        kind = field.types[0]
        sub = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub_type=sub)
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name in _ROWS:
            data = np.ascontiguousarray(data[order])
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_permuted(given.source, given.target, given.seed)


if __name__ == "__main__":
    main()
