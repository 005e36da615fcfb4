"""The network: a plain Llama decoder with tied embeddings, sized by `ModelConfig`.

RoPE rotates neighbouring pairs, as llama.cpp does for the llama architecture, so that the
export needs no permutation of the query and key matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

ROPE_BASE = 10_000.0
NORM_EPS = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one model; every matrix's row length must be a multiple of 32 (Q8_0 blocks)."""

    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int = 4096

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


def rope_table(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotation, each (length, head_dim / 2) float32."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = torch.arange(length, dtype=torch.float32)[:, None] * ROPE_BASE**-steps
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i+1) of x (batch, heads, length, head_dim)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm over the last axis."""
    return F.rms_norm(x, (x.shape[-1],), weight.type_as(x), NORM_EPS)


class Block(nn.Module):
    """One layer: attention, then a gated feed-forward, each after a norm."""

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.attn_norm = nn.Parameter(torch.ones(c.dim))
        self.ffn_norm = nn.Parameter(torch.ones(c.dim))
        self.qkv = nn.Linear(c.dim, 3 * c.dim, bias=False)
        self.out = nn.Linear(c.dim, c.dim, bias=False)
        self.gate_up = nn.Linear(c.dim, 2 * c.ffn, bias=False)
        self.down = nn.Linear(c.ffn, c.dim, bias=False)
        for matrix in (self.qkv, self.gate_up):
            nn.init.normal_(matrix.weight, std=c.dim**-0.5 * 0.5)
        for matrix in (self.out, self.down):
            nn.init.zeros_(matrix.weight)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (batch, length, dim) -> the same shape."""
        b, t, d = x.shape
        qkv = self.qkv(rms_norm(x, self.attn_norm)).view(b, t, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
        gate, up = self.gate_up(rms_norm(x, self.ffn_norm)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    """Token ids (batch, length) -> logits (batch, length, vocab)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.dim)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.dim))

    def hidden(self, ids: Tensor) -> Tensor:
        """The normed states before the output matrix, (batch, length, dim)."""
        cos, sin = rope_table(ids.shape[1], self.config.head_dim)
        cos, sin = cos.to(ids.device), sin.to(ids.device)
        x = self.embed(ids)
        if torch.is_autocast_enabled(ids.device.type):
            x = x.to(torch.get_autocast_dtype(ids.device.type))
            cos, sin = cos.type_as(x), sin.type_as(x)
        for block in self.blocks:
            x = block(x, cos, sin)
        return rms_norm(x, self.norm)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next token at every position."""
        return F.linear(self.hidden(ids), self.embed.weight)

    def loss(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted mean cross-entropy of ids[:, 1:]; weights (batch, length - 1) float32."""
        logits = F.linear(self.hidden(ids[:, :-1]), self.embed.weight).float()
        nll = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (nll * weights.flatten()).sum() / weights.sum().clamp(min=1.0)
