"""An answer as it comes, as the choices of OpenAI's chunks: together they are the whole one's."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any

from eftlocal.answer import Answer
from eftlocal.batch.completion_body import (
    FINISHED,
    Piece,
    by_text,
    finite,
    shown_tokens,
    token_entry,
)
from eftlocal.generation import Step


@dataclass
class ChoiceChunks:
    """One answer in chunks.

    Args:
        index: among the answers to a request.
        raw: it goes on with a text, and is no message.
        logprobs: they were asked for; tops: also those of the most probable tokens.
        piece: the bytes of a token.
    """

    index: int
    raw: bool
    logprobs: bool
    tops: bool
    piece: Piece

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._steps: list[Step] = []
        self._texts: list[str] = []
        self._starts = [0]  # where each token's text begins, and where the next will
        self._sent = 0  # characters
        self._told = 0  # tokens

    def begin(self) -> dict[str, Any]:
        """The first chunk of a message, which says whose it is."""
        return self._choice({"role": "assistant", "content": ""}, 0, None)

    def add(self, step: Step) -> dict[str, Any] | None:
        """What a token adds; None where nothing can be shown yet."""
        self._steps.append(step)
        self._texts.append(self._decoder.decode(self.piece(step.token)))
        self._starts.append(self._starts[-1] + len(self._texts[-1]))
        if step.finish_reason is not None or not step.text:
            return None
        self._sent += len(step.text)
        settled = self._told
        while settled < len(self._steps) and self._starts[settled + 1] <= self._sent:
            settled += 1
        return self._choice(self._delta(step.text), settled, None)

    def end(self, answer: Answer) -> dict[str, Any]:
        """The last chunk: what was held back, and why it ended."""
        text, count = answer.text[self._sent :], shown_tokens(answer, self._texts)
        found = self._choice(self._delta(text) if text else self._delta(None), count, answer)
        own = {"finish_reason": answer.finish_reason, "stop": answer.stop, "seed": answer.seed}
        return {**found, "eftlocal": own}

    def _delta(self, text: str | None) -> Any:
        if self.raw:
            return text or ""
        return {} if text is None else {"content": text}

    def _choice(self, delta: Any, settled: int, answer: Answer | None) -> dict[str, Any]:
        told, self._told = self._told, max(self._told, settled)
        return {
            "index": self.index,
            "text" if self.raw else "delta": delta,
            "logprobs": self._logprobs(told, self._told) if self.logprobs else None,
            "finish_reason": FINISHED.get(answer.finish_reason or "") if answer else None,
        }

    def _logprobs(self, first: int, end: int) -> dict[str, Any]:
        steps, texts = self._steps[first:end], self._texts[first:end]
        nats = finite([0.0 if step.logprob is None else step.logprob for step in steps])
        if not self.raw:
            content = [
                {
                    **token_entry(self.piece(step.token), value),
                    "top_logprobs": [
                        token_entry(self.piece(t, special=True), *finite([v])) for t, v in step.top
                    ],
                }
                for step, value in zip(steps, nats, strict=True)
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": texts,
            "token_logprobs": nats,
            "top_logprobs": [
                by_text(step.token, text, value, step.top, self.piece)
                for step, text, value in zip(steps, texts, nats, strict=True)
            ]
            if self.tops
            else None,
            "text_offset": self._starts[first:end],
        }
