"""The training of an adapter: loss on the answers alone, and how it goes on after an interrupt."""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eftlocal.disk import replacing
from eftlocal.errors import InterruptedRunError, UsageError
from eftlocal.tuning.tokens import Encoded
from eftlocal.tuning.weights import device, has_bfloat16, load

_SAVED = "training.pt"
_EVERY = 60.0  # seconds between two saves
_WARM_UP = 0.1  # of all steps


@dataclass(frozen=True)
class Options:
    """How an adapter is trained.

    Attributes:
        rank, alpha: of the adapter, as in `weights.load`.
        learning_rate: the largest; it rises over the first tenth and falls as a cosine (AdamW).
        passes: over all examples.
        batch: examples in a step.
        seed: of the order of the examples and of the adapter's first values.
    """

    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 5e-4
    passes: int = 2
    batch: int = 8
    seed: int = 0


class Progress(NamedTuple):
    """After a step: how far it is, and the losses in nats a token.

    Attributes:
        held_out: of the held-out answers; None where it was not measured after this step.
    """

    step: int
    steps: int
    loss: float
    held_out: float | None = None


def train(
    file: Path,
    trained: Sequence[Encoded],
    held_out: Sequence[Encoded],
    folder: Path,
    options: Options = Options(),
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[float, float]:
    """Trains an adapter, and writes it as PEFT does (adapter_model.safetensors and its config).

    A run that was ended goes on where it was saved last, at most a minute before.

    Args:
        file: the GGUF whose weights it is trained on.
        folder: for the adapter and for what an unfinished run needs; made if missing.
        on_progress: called after each step.

    Returns:
        The loss of the held-out answers before and after, nats a token.

    Raises:
        UsageError: the folder has an unfinished run with other options or examples.
        ModelFileError: transformers cannot read the file.
        InterruptedRunError: Ctrl-C; the adapter as it is by then is in the folder.
    """
    import torch

    model = load(file, rank=options.rank, alpha=options.alpha, seed=options.seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=0.0)
    plan = _plan([len(e.ids) for e in trained], options)
    told = repr((sorted(asdict(options).items()), file.name, list(trained), list(held_out)))
    what = hashlib.sha256(told.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / _SAVED
    step, before = 0, math.nan
    if saved.is_file():
        state = torch.load(saved, weights_only=True, map_location=device())
        if state["what"] != what:
            raise UsageError(
                f"{saved} is of a run with other options or examples; remove it, or give another "
                "folder"
            )
        step, before = state["step"], state["before"]
        for weight, values in zip(weights, state["weights"], strict=True):
            weight.data.copy_(values)
        optimizer.load_state_dict(state["optimizer"])

    def save() -> None:
        with replacing(saved) as out:
            torch.save(
                {
                    "what": what,
                    "step": step,
                    "before": before,
                    "weights": [weight.detach() for weight in weights],
                    "optimizer": optimizer.state_dict(),
                },
                out,
            )

    after = math.nan
    last_save = time.monotonic()
    try:
        if step == 0:
            before = _held_out_loss(model, held_out, options.batch)
            on_progress(Progress(0, len(plan), math.nan, before))
        while step < len(plan):
            rate = options.learning_rate * _schedule(step, len(plan))
            for group in optimizer.param_groups:
                group["lr"] = rate
            model.train()
            loss = _loss(model, [trained[i] for i in plan[step]])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step == len(plan):
                after = _held_out_loss(model, held_out, options.batch)
            on_progress(
                Progress(step, len(plan), loss.item(), after if step == len(plan) else None)
            )
            if time.monotonic() - last_save > _EVERY:
                save()
                last_save = time.monotonic()
    except KeyboardInterrupt:
        optimizer.zero_grad(set_to_none=True)
        save()
        model.save_pretrained(str(folder), save_embedding_layers=False)
        raise InterruptedRunError(
            f"stopped after step {step} of {len(plan)}; the adapter so far is in {folder}, and "
            "the same command goes on"
        ) from None
    model.save_pretrained(str(folder), save_embedding_layers=False)
    saved.unlink(missing_ok=True)
    return before, after


def _plan(lengths: Sequence[int], options: Options) -> list[list[int]]:
    """The examples of each step: every one once a pass, those of like length together."""
    rng = random.Random(options.seed)
    steps: list[list[int]] = []
    for _ in range(options.passes):
        order = rng.sample(range(len(lengths)), len(lengths))
        batches = []
        for i in range(0, len(order), 16 * options.batch):
            near = sorted(order[i : i + 16 * options.batch], key=lambda k: lengths[k])
            batches += [near[k : k + options.batch] for k in range(0, len(near), options.batch)]
        rng.shuffle(batches)
        steps += batches
    return steps


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _loss(model: Any, batch: Sequence[Encoded], reduction: str = "mean") -> Any:
    """Cross-entropy of the answers' tokens, a scalar tensor in nats: their mean, or their sum."""
    import torch

    where = device()
    longest = max(len(e.ids) for e in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    seen = torch.zeros_like(ids)
    answered = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, example in enumerate(batch):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        seen[row, :n] = 1
        answered[row, example.n_prompt : n] = True
    ids, seen, answered = ids.to(where), seen.to(where), answered.to(where)
    first = min(e.n_prompt for e in batch) - 1  # nothing is predicted before it
    with torch.autocast(where, dtype=torch.bfloat16, enabled=has_bfloat16()):
        out = model(input_ids=ids, attention_mask=seen, logits_to_keep=longest - first)
    answered, following = answered[:, first + 1 :], ids[:, first + 1 :]
    predicted, right = out.logits[:, :-1][answered], following[answered]  # (answered, vocab)
    return torch.nn.functional.cross_entropy(predicted.float(), right, reduction=reduction)


def _held_out_loss(model: Any, held_out: Sequence[Encoded], batch: int) -> float:
    """Mean over the tokens of all held-out answers, nats."""
    import torch

    model.eval()
    order = sorted(held_out, key=lambda e: len(e.ids))
    total = 0.0
    with torch.no_grad():
        for i in range(0, len(order), batch):
            total += _loss(model, order[i : i + batch], "sum").item()
    return total / sum(len(e.ids) - e.n_prompt for e in order)
