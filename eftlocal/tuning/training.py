"""The training of an adapter: loss on the answers alone, and how it goes on after an interrupt."""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eftlocal.disk import hash_rest, replacing
from eftlocal.errors import InterruptedRunError, UsageError
from eftlocal.native import SignalsLater
from eftlocal.tuning.tokens import Encoded
from eftlocal.tuning.weights import device_of, has_bfloat16, load, save

SAVED = "training.pt"  # what an unfinished run needs, in its folder
_EVERY = 60.0  # seconds between two saves
_WARM_UP = 0.1  # of all steps
_STEPS = 100  # about as many teach a behaviour
_MOST_PASSES = 8


@dataclass(frozen=True)
class Options:
    """How an adapter is trained.

    Attributes:
        rank, alpha: of the adapter, as in `weights.load`.
        learning_rate: the largest; it rises over the first tenth and falls as a cosine (AdamW).
        passes: over all examples; None is as many as make about 100 steps, 8 at most.
        batch: examples in a step.
        seed: of the order of the examples and of the adapter's first values.
    """

    rank: int = 8
    alpha: float = 16.0
    learning_rate: float = 5e-4
    passes: int | None = None
    batch: int = 8
    seed: int = 0

    def passes_over(self, examples: int) -> int:
        """The passes over so many examples."""
        if self.passes is not None:
            return self.passes
        return min(_MOST_PASSES, max(1, round(_STEPS * self.batch / examples)))

    def steps_over(self, examples: int) -> int:
        """The steps of all passes over so many examples."""
        return self.passes_over(examples) * math.ceil(examples / self.batch)


class Progress(NamedTuple):
    """After a step: how far it is, and its loss in nats a token; None before the first."""

    step: int
    steps: int
    loss: float | None = None


class Losses(NamedTuple):
    """Of the held-out answers, nats a token."""

    before: float
    after: float


def train(
    file: Path,
    trained: Sequence[Encoded],
    held_out: Sequence[Encoded],
    folder: Path,
    options: Options = Options(),
    *,
    device: str = "auto",
    threads: int | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Losses:
    """Trains an adapter, and writes it as PEFT does (adapter_model.safetensors and its config).

    A run that was ended goes on where it was saved last, at most a minute before; its adapter is
    then that of a run that was not ended.

    Args:
        file: the GGUF whose weights it is trained on.
        folder: for the adapter and for what an unfinished run needs; made if missing.
        device: as in `weights.device_of`.
        threads: of the CPU; None is every physical core.
        on_progress: called before the first step, and after each.

    Raises:
        UsageError: the folder has an unfinished run of other examples, another model or other
            options, or one that cannot be read.
        ModelFileError: transformers cannot read the file.
        InterruptedRunError: Ctrl-C; the adapter as it is by then is in the folder, unless nothing
            was trained yet.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    plan = _plan([len(e.ids) for e in trained], options)
    bound = _bound(file, trained, held_out, options)
    saved = folder / SAVED
    state = _read(saved, bound)
    at = device_of(device)
    model = load(file, rank=options.rank, alpha=options.alpha, seed=options.seed, device=at)
    run = _Run(model, options, at)
    before = math.nan
    if state:
        before = run.restore(state, saved)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if math.isnan(before):
            before = run.loss(held_out)
        on_progress(Progress(run.step, len(plan)))
        last_save = time.monotonic()
        while run.step < len(plan):
            with SignalsLater():  # an interrupt comes between two steps
                loss = run.learn([trained[i] for i in plan[run.step]], len(plan))
                if time.monotonic() - last_save > _EVERY:
                    run.save(saved, bound, before)
                    last_save = time.monotonic()
            on_progress(Progress(run.step, len(plan), loss))
        after = run.loss(held_out)
    except KeyboardInterrupt:
        with SignalsLater(), suppress(KeyboardInterrupt):
            if run.step:
                run.save(saved, bound, before)
                save(model, folder)
        raise InterruptedRunError(f"stopped after step {run.step} of {len(plan)}") from None
    save(model, folder)
    saved.unlink(missing_ok=True)
    return Losses(before, after)


class _Run:
    """A model that is being trained: its optimizer, and how many steps it has taken."""

    def __init__(self, model: Any, options: Options, device: str) -> None:
        import torch

        self.step = 0
        self._model, self._options, self._device = model, options, device
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, weight_decay=0.0)

    def learn(self, batch: Sequence[Encoded], steps: int) -> float:
        """Takes one of so many steps; gives the loss before it."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = self._options.learning_rate * _schedule(self.step, steps)
        self._model.train()
        loss = _loss(self._model, batch, self._device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.item())

    def loss(self, examples: Sequence[Encoded]) -> float:
        """Mean over the tokens of all answers, nats."""
        import torch

        self._model.eval()
        order = sorted(examples, key=lambda e: len(e.ids))
        total, size = 0.0, self._options.batch
        with torch.no_grad():
            for i in range(0, len(order), size):
                total += _loss(self._model, order[i : i + size], self._device, "sum").item()
        return total / sum(len(e.ids) - e.n_prompt for e in order)

    def save(self, file: Path, bound: Mapping[str, Any], before: float) -> None:
        import torch

        state = {
            "bound": dict(bound),
            "step": self.step,
            "before": before,
            "weights": [weight.detach() for weight in self._weights],
            "optimizer": self._optimizer.state_dict(),
        }
        with replacing(file) as out:
            torch.save(state, out)

    def restore(self, state: Mapping[str, Any], file: Path) -> float:
        """Goes on from a state; gives the loss before the training.

        Raises:
            UsageError: it is not whole.
        """
        try:
            for weight, values in zip(self._weights, state["weights"], strict=True):
                weight.data.copy_(values)
            self._optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])
            return float(state["before"])
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise _unreadable(file, error) from None


def _bound(
    file: Path, trained: Sequence[Encoded], held_out: Sequence[Encoded], options: Options
) -> dict[str, Any]:
    """What a run can go on with only, by the names that a message calls them."""
    with file.open("rb") as opened:
        model = hash_rest(opened).hexdigest()
    examples = repr((list(trained), list(held_out)))
    return {
        "examples": hashlib.sha256(examples.encode()).hexdigest(),
        "model": model,
        **asdict(options),
    }


def _read(saved: Path, bound: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of the same run; None where none is there.

    Raises:
        UsageError: it is of another run, or cannot be read.
    """
    import pickle

    import torch

    if not saved.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(saved, weights_only=True, map_location="cpu")
        was = dict(state["bound"])
    except (
        *(OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, AttributeError),
        pickle.UnpicklingError,
    ) as error:
        raise _unreadable(saved, error) from None
    for name, value in bound.items():
        if was.get(name) != value:
            others = {"examples": "other examples or chat template", "model": "another model"}
            what = others.get(name, f"{name.replace('_', ' ')} {was.get(name)}, not {value}")
            raise UsageError(
                f"{saved.parent} has an unfinished run with {what}: give the same to go on, or "
                "begin anew with --replace"
            )
    return state


def _unreadable(saved: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{saved}: the state of an unfinished run cannot be read ({error}); begin anew with "
        "--replace"
    )


def _plan(lengths: Sequence[int], options: Options) -> list[list[int]]:
    """The examples of each step: every one once a pass, those of like length together."""
    rng = random.Random(options.seed)
    steps: list[list[int]] = []
    for _ in range(options.passes_over(len(lengths))):
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


def _loss(model: Any, batch: Sequence[Encoded], device: str, reduction: str = "mean") -> Any:
    """Cross-entropy of the answers' tokens, a scalar tensor in nats: their mean, or their sum."""
    import torch

    longest = max(len(e.ids) for e in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    seen = torch.zeros_like(ids)
    answered = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, example in enumerate(batch):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        seen[row, :n] = 1
        answered[row, example.n_prompt : n] = True
    ids, seen, answered = ids.to(device), seen.to(device), answered.to(device)
    first = min(e.n_prompt for e in batch) - 1  # nothing is predicted before it
    with torch.autocast(device, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
        out = model(input_ids=ids, attention_mask=seen, logits_to_keep=longest - first)
    answered, following = answered[:, first + 1 :], ids[:, first + 1 :]
    predicted, right = out.logits[:, :-1][answered], following[answered]  # (answered, vocab)
    return torch.nn.functional.cross_entropy(predicted.float(), right, reduction=reduction)
