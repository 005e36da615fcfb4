"""The ways to be compared: a name, what answers, and what a reader must know of its settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

PLAIN, DRAFTS = "this program, no drafts", "this program"
TOGETHER = "this program, side by side"
TORCH = "transformers"
TORCH_TOGETHER = "transformers, side by side"
PROCESSOR = "llama-cpp-python, three models"
ALONE = "llama-cpp-python, base alone"
LOOKUP = "base alone, prompt lookup"


class Way(NamedTuple):
    """One way to answer.

    Attributes:
        module: of this package; its `open_way` takes an `Asked` and gives what answers.
        kind: what that module is asked for.
        combines: gives base + alpha (tuned - reference), not the base alone.
        together: answers all prompts at once.
        settings: what a reader must know of it.
    """

    module: str
    kind: str
    combines: bool
    together: bool
    settings: str


WAYS: dict[str, Way] = {
    DRAFTS: Way("ours", "drafts", True, False, "drafts of automatic length, as by default"),
    PLAIN: Way("ours", "plain", True, False, "speculation off"),
    PROCESSOR: Way(
        "llama_way",
        "processor",
        True,
        False,
        "`create_completion` of the base with a LogitsProcessor that evaluates two more `Llama`s "
        "token by token; `logits_all=False`, their rows by `llama_get_logits_ith`",
    ),
    TORCH: Way(
        "torch_way",
        "one",
        True,
        False,
        "the GGUF's weights, dequantized by `from_pretrained(..., gguf_file=...)`, saved before; "
        "a KV cache for each model, full logits of the last token; the adapter merged; base and "
        "reference of one file are one model with two caches",
    ),
    ALONE: Way("llama_way", "alone", False, False, "`create_completion`, `temperature=0`"),
    LOOKUP: Way(
        "llama_way",
        "lookup",
        False,
        False,
        "`draft_model=LlamaPromptLookupDecoding(num_pred_tokens=2)`, as its README advises for "
        "CPUs: drafts are copied from what was said. llama-cpp-python has no drafting by a model",
    ),
    TOGETHER: Way("ours", "together", True, True, "a `Scheduler`, a place each, no drafts"),
    TORCH_TOGETHER: Way("torch_way", "together", True, True, "one batch, padded on the left"),
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What every way is told.

    Attributes:
        files, adapters: by role; for PyTorch folders, and no adapters.
        n_ctx: tokens of a context, prompt and answer together.
        tokens: most of an answer.
        ends: tokens that end an answer.
        places: answers at once, of a way that answers together.
        dtype: of weights in PyTorch.
        clock: of Python's module `time`.
    """

    kind: str
    files: Mapping[str, str]
    adapters: Mapping[str, str]
    alpha: float
    threads: int
    n_ctx: int
    tokens: int
    ends: tuple[int, ...]
    places: int = 1
    dtype: str = "float32"
    clock: str = "perf_counter"

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return float(getattr(time, self.clock)())


@dataclass(frozen=True)
class Heard:
    """Answers of a way: one, or those of all prompts.

    Attributes:
        tokens: of each answer, an end token included.
        first: seconds from the call to the first token.
        at_first: tokens that came with it.
        seconds: from the call to the last token.
    """

    tokens: list[list[int]]
    first: float
    at_first: int
    seconds: float

    @property
    def count(self) -> int:
        return sum(map(len, self.tokens))

    @property
    def rate(self) -> float:
        """Tokens a second after the first; NaN where no more came."""
        later, seconds = self.count - self.at_first, self.seconds - self.first
        return later / seconds if later > 0 and seconds > 0 else float("nan")
