"""Muon for the hidden matrices (Jordan et al. 2024), AdamW for embeddings and norms.

Muon orthogonalizes the momentum of a matrix by five Newton-Schulz steps; it needs fewer
passes than AdamW to memorize rare facts, which is what these models are for.
"""

from __future__ import annotations

import torch
from model import Llama
from torch import Tensor, nn

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def product_type(device: str) -> torch.dtype:
    """bfloat16 where the device multiplies it; without, its products take 70 times as long."""
    fast = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def orthogonalize(g: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to g (n, rows, columns), roughly."""
    a, b, c = NS_COEFFICIENTS
    x = g.to(product_type(g.device.type))
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; matrices of one shape are handled as one stack."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, stack in shapes.items():
                updates = []
                for p in stack:
                    state = self.state[p]
                    if "buffer" not in state:
                        state["buffer"] = torch.zeros_like(p)
                    state["buffer"].lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(state["buffer"], group["momentum"]))
                rows = shape[0]
                # fused matrices (q, k, v; gate, up) are orthogonalized part by part
                parts = max(1, rows // shape[1]) if rows % shape[1] == 0 else 1
                whole = torch.stack(updates).view(len(stack) * parts, rows // parts, shape[1])
                scale = max(1.0, (rows // parts) / shape[1]) ** 0.5
                fresh = orthogonalize(whole).view(len(stack), *shape)
                for p, update in zip(stack, fresh, strict=True):
                    p.add_(update.to(p.dtype), alpha=-group["lr"] * scale)


def optimizers(
    model: Llama, muon_lr: float, adam_lr: float, decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """Muon over the blocks' matrices, AdamW over everything else."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, muon_lr),
        torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.98), weight_decay=decay, fused=True),
    ]
