"""The training loop: rows of ids in their order, a warm-up, a flat part, a linear way down."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from model import Llama
from optim import optimizers, product_type

Rows = tuple[np.ndarray, np.ndarray]  # ids (rows, length + 1), loss weights (rows, length)


@dataclass(frozen=True)
class Schedule:
    """Learning rates of one run, and the tokens of one step."""

    muon_lr: float
    adam_lr: float
    tokens: int
    warmup: float = 0.02
    decay_from: float = 0.4


def factor(progress: float, s: Schedule) -> float:
    """What the learning rates are multiplied by, at a progress in [0, 1)."""
    if progress < s.warmup:
        return (progress + 1e-3) / s.warmup
    return 1.0 if progress < s.decay_from else (1.0 - progress) / (1.0 - s.decay_from)


def split(segment: Rows, tokens: int) -> list[Rows]:
    """Batches of about so many tokens."""
    ids, weights = segment
    rows = max(1, tokens // weights.shape[1])
    return [(ids[i : i + rows], weights[i : i + rows]) for i in range(0, len(ids), rows)]


def fit(
    model: Llama,
    segments: list[Rows],
    schedule: Schedule,
    name: str,
    device: str = "cpu",
    compiled: bool = False,
) -> float:
    """Train in place over the segments once, in their order; each has rows of its own length.

    Returns the mean loss of the last tenth of the steps, in nats a token.
    """
    batches = [batch for segment in segments for batch in split(segment, schedule.tokens)]
    steps = len(batches)
    model.to(device).train()
    loss_of = torch.compile(model.loss) if compiled else model.loss
    half = product_type(device) is torch.bfloat16
    all_optimizers = optimizers(model, schedule.muon_lr, schedule.adam_lr)
    base_lr = [[g["lr"] for g in o.param_groups] for o in all_optimizers]
    started, tail = time.time(), []
    for step, (ids, weights) in enumerate(batches):
        batch = torch.from_numpy(ids.astype(np.int64)).to(device)
        mask = torch.from_numpy(weights).to(device)
        scale = factor(step / steps, schedule)
        for optimizer, rates in zip(all_optimizers, base_lr, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = loss_of(batch, mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in all_optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step >= 0.9 * steps:
            tail.append(loss.item())
        if step % 50 == 0 or step == steps - 1:
            seconds = time.time() - started
            speed = (step + 1) * schedule.tokens / seconds
            at = f"{name} {step + 1}/{steps}"
            print(f"{at} loss {loss.item():.3f} {speed:,.0f} token/s", flush=True)
    model.to("cpu").eval()
    return float(np.mean(tail))
