"""llama-cpp-python's own `create_completion`: the base alone, or two more models in a processor."""

from __future__ import annotations

from typing import Any

import numpy as np
from llama_cpp import Llama, LogitsProcessorList
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from numpy.typing import NDArray

from peers.table import Asked, Heard

Row = NDArray[np.float32]


class Delta:
    """scores + alpha (tuned - reference), both models fed what the base was."""

    def __init__(self, alpha: float, tuned: Llama, reference: Llama) -> None:
        self._alpha, self._models = alpha, (tuned, reference)

    def __call__(self, input_ids: NDArray[np.intc], scores: Row) -> Row:
        rows = []
        for model in self._models:
            model.eval(input_ids[model.n_tokens :].tolist())
            row = model._ctx.get_logits_ith(-1)  # `scores` has none without logits_all
            rows.append(np.ctypeslib.as_array(row, shape=(model.n_vocab(),)))
        tuned, reference = rows
        return scores + self._alpha * (tuned - reference)

    def reset(self) -> None:
        for model in self._models:
            model.reset()


class Completion:
    """`create_completion` of the base. What it samples is noted as it comes: tokens, and when."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        lookup = LlamaPromptLookupDecoding(num_pred_tokens=2) if asked.kind == "lookup" else None
        self._base = self._load("base", draft_model=lookup)
        self._delta = None
        if asked.kind == "processor":
            self._delta = Delta(asked.alpha, self._load("tuned"), self._load("reference"))
        self._sampled: list[tuple[float, int]] = []
        sample = self._base.sample

        def noted(*args: Any, **options: Any) -> int:
            token = sample(*args, **options)
            self._sampled.append((asked.now(), int(token)))
            return token

        self._base.sample = noted

    def _load(self, role: str, **options: Any) -> Llama:
        asked = self._asked
        return Llama(
            asked.files[role],
            lora_path=asked.adapters.get(role),
            n_ctx=asked.n_ctx,
            n_threads=asked.threads,
            n_threads_batch=asked.threads,
            verbose=False,
            **options,
        )

    def answer(self, prompts: list[list[int]]) -> Heard:
        (prompt,) = prompts
        self._base.reset()
        processors = None
        if self._delta is not None:
            self._delta.reset()
            processors = LogitsProcessorList([self._delta])
        self._sampled.clear()
        began = self._asked.now()
        self._base.create_completion(
            prompt,
            max_tokens=self._asked.tokens,
            temperature=0.0,
            logits_processor=processors,
        )
        # It goes on to the end of a character that takes several tokens.
        times, tokens = zip(*self._sampled[: self._asked.tokens], strict=True)
        return Heard([list(tokens)], times[0] - began, 1, times[-1] - began)

    def facts(self) -> dict[str, Any]:
        return {}


open_way = Completion
