"""Decodes of a few random layers of a model's shape, timed in each type of weights.

Random weights cost what trained ones do. Enough layers are made that they lie in memory, not in
the processor's caches, as those of the model do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

import eftlocal
from eftlocal import llama
from eftlocal.disk import beside, cache_folder
from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.parser import block_of, constants
from eftlocal.llama.quantize import quantized
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.speculation.measurement import measure, recall, remember

UNIT = 1e9  # weights that a curve's seconds are for
_MINIATURE = 1 << 28  # weights: in 4 bits more than the caches of most processors hold
_BLOCK = 1 << 20  # random weights, written again and again
_N_CTX = 64
_KEY = "weights"


@dataclass(frozen=True)
class Shape:
    """The widths of a model's layers, as a dense transformer; of a mixture, the experts used."""

    n_embd: int
    n_ff: int
    n_heads: int
    n_heads_kv: int
    head: int
    n_layers: int

    @classmethod
    def of(cls, header: Header) -> Shape:
        expert, used = header.number("expert_feed_forward_length"), 0
        if header.number("expert_count"):
            used = header.number("expert_used_count")
        return cls(
            header.n_embd,
            (expert or max(header.n_ff)) * max(1, used),
            max(header.n_heads),
            max(1, *header.n_heads_kv),
            header.key_length,
            header.n_layers,
        )

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of each matrix of a layer."""
        q, kv = self.n_heads * self.head, self.n_heads_kv * self.head
        return {
            "attn_q": (q, self.n_embd),
            "attn_k": (kv, self.n_embd),
            "attn_v": (kv, self.n_embd),
            "attn_output": (self.n_embd, q),
            "ffn_gate": (self.n_ff, self.n_embd),
            "ffn_up": (self.n_ff, self.n_embd),
            "ffn_down": (self.n_embd, self.n_ff),
        }

    @property
    def weights(self) -> int:
        """Of a layer."""
        return sum(rows * columns for rows, columns in self.matrices.values())

    def allows(self, type_: str) -> bool:
        """Whether every row is a whole number of the type's blocks."""
        block, _ = block_of(type_)
        return all(columns % block == 0 for _, columns in self.matrices.values())


def write_miniature(path: Path, shape: Shape, type_: str) -> int:
    """A model of a few layers with random weights; returns how many those of the layers are."""
    from gguf import GGUFWriter

    from eftlocal.selftest import add_vocabulary

    layers = min(shape.n_layers, ceil(_MINIATURE / shape.weights))
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(_N_CTX)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_heads_kv)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = add_vocabulary(writer)
    rng = np.random.default_rng(0)
    made: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        if (rows, columns) not in made:
            some = max(1, min(rows, _BLOCK // columns))
            values = rng.standard_normal((some, columns), np.float32) / np.sqrt(columns)
            block = np.frombuffer(quantized(values, type_), np.uint8).reshape(some, -1)
            made[rows, columns] = block[np.arange(rows) % some]
        kind = constants.GGMLQuantizationType[type_]
        writer.add_tensor(f"{name}.weight", made[rows, columns], raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.n_embd, np.float32))

    matrix("token_embd", tokens, shape.n_embd)
    for layer in range(layers):
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
        for name, (rows, columns) in shape.matrices.items():
            matrix(f"blk.{layer}.{name}", rows, columns)
    norm("output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return layers * shape.weights + tokens * shape.n_embd


def curves(
    shape: Shape,
    types: Iterable[str],
    *,
    threads: int,
    devices: Sequence[str] = (),
    again: bool = False,
    progress: Callable[[float], object] = lambda share: None,
) -> dict[str, Curve]:
    """Seconds by rows of a billion weights in each type, measured once and remembered.

    Args:
        devices: where the weights are; none is the CPU.
        again: what is remembered does not count.
        progress: called with the share of the types that is done.
    """
    found: dict[str, Curve] = {}
    wanted = list(types)
    for number, type_ in enumerate(wanted):
        progress(number / len(wanted))
        used = [device for device in llama.devices() if device.name in devices]
        said = [eftlocal.__version__, llama.build(), type_, str(threads)]
        said += [str(asdict(shape)), *(f"{device.name} {device.description}" for device in used)]
        key = hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]
        costs = None if again else recall(key, (_KEY,))
        if costs is None:
            costs = _measured(shape, type_, threads, devices)
            remember(costs, key)
        found[type_] = costs.curves[_KEY]
    progress(1.0)
    return found


def _measured(shape: Shape, type_: str, threads: int, devices: Sequence[str]) -> Costs:
    path = cache_folder() / "miniature.gguf"  # one name: what a kill leaves, the next replaces
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(beside(path, ".lock")):  # two that measure would slow each other down
        try:
            weights = write_miniature(path, shape, type_)
            with (
                llama.Model(
                    path, gpu_layers=-1 if devices else 0, devices=devices, mapped=False
                ) as model,
                llama.Context(model, n_ctx=_N_CTX, n_batch=_N_CTX, n_threads=threads) as context,
            ):
                curve = measure({_KEY: context}, 0).curves[_KEY]
        finally:
            path.unlink(missing_ok=True)
    seconds = [s * UNIT / weights for s in curve.seconds]
    return Costs({_KEY: Curve(dict(zip(curve.rows, seconds, strict=True)))})
