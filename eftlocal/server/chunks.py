"""An answer as it comes, as the choices of OpenAI's chunks: together they are the whole one's."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from typing import Any

from eftlocal.answer import Answer
from eftlocal.batch.completion_body import (
    Piece,
    by_text,
    finish_of,
    finite,
    shown_tokens,
    token_entry,
)
from eftlocal.generation import Step
from eftlocal.request import Request
from eftlocal.thinking import Marks
from eftlocal.tool_calls import CallReader, Said, call_id


class ChoiceChunks:
    """One answer in chunks.

    Args:
        index: among the answers to a request.
        piece: the bytes of a token.
        send: told each choice of a chunk. The first comes with the first token, when nothing can
            be refused any more.
        name: of the completion.
        marks: of the answer's thinking, where they are known; asked once a token came.
    """

    def __init__(
        self,
        index: int,
        request: Request,
        piece: Piece,
        send: Callable[[dict[str, Any]], object],
        name: str = "",
        marks: Callable[[], Marks | None] = lambda: None,
    ) -> None:
        self._index, self._request, self._piece, self._send = index, request, piece, send
        self._name, self._marks = f"{name} {index}", marks
        self._reader: CallReader | None = None
        self._calls = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._steps: list[Step] = []
        self._texts: list[str] = []
        self._starts = [0]  # where each token's text begins, and where the next will
        self._sent = 0  # characters that were taken on; a reader may hold some of them back
        self._told = 0  # tokens

    def add(self, step: Step) -> None:
        """Sends what a token adds, where something can be shown."""
        self._begin()
        self._steps.append(step)
        self._texts.append(self._decoder.decode(self._piece(step.token)))
        self._starts.append(self._starts[-1] + len(self._texts[-1]))
        if step.finish_reason is not None or not step.text:
            return
        self._sent += len(step.text)
        delta = self._delta(self._read(step.text))
        if not delta:
            return
        shown = self._sent if self._reader is None else self._reader.settled
        settled = self._told
        while settled < len(self._steps) and self._starts[settled + 1] <= shown:
            settled += 1
        self._send(self._choice(delta, settled, None))

    def end(self, answer: Answer, told: Mapping[str, Any]) -> None:
        """Sends what was held back, why it ended, and what else is told of it."""
        self._begin()
        rest = answer.text[self._sent :]
        said = Said(rest, []) if self._reader is None else self._reader.finish(rest)
        if said.calls:  # some clients look no further where they see why it ended
            self._send(self._choice(self._delta(said), 0, None))
            said = Said("", [])
        count = shown_tokens(answer, self._texts)
        delta = self._delta(said)
        if self._reader is not None and not answer.text:
            delta["content"] = ""  # null is of calls alone
        found = self._choice(delta, count, answer)
        own = {"finish_reason": answer.finish_reason, "stop": answer.stop, "seed": answer.seed}
        self._send({**found, "eftlocal": {**own, **told}})

    def _begin(self) -> None:
        """The first chunk of a message says whose it is."""
        if self._steps or self._request.raw:
            return
        tools = self._request.tools
        self._reader = tools.reader(self._marks()) if tools else None
        first = {"role": "assistant", "content": None if tools else ""}
        self._send(self._choice(first, 0, None))

    def _read(self, text: str) -> Said:
        return Said(text, []) if self._reader is None else self._reader.push(text)

    def _delta(self, said: Said) -> Any:
        if self._request.raw:
            return said.text
        delta: dict[str, Any] = {"content": said.text} if said.text else {}
        if said.calls:
            indices = range(self._calls, self._calls + len(said.calls))
            delta["tool_calls"] = [
                {"index": i, **call.told(call_id(self._name, i))}
                for i, call in zip(indices, said.calls, strict=True)
            ]
            self._calls += len(said.calls)
        return delta

    def _choice(self, delta: Any, settled: int, answer: Answer | None) -> dict[str, Any]:
        told, self._told = self._told, max(self._told, settled)
        return {
            "index": self._index,
            "text" if self._request.raw else "delta": delta,
            "logprobs": self._logprobs(told, self._told) if self._request.logprobs else None,
            "finish_reason": finish_of(answer, self._calls > 0) if answer else None,
        }

    def _logprobs(self, first: int, end: int) -> dict[str, Any]:
        steps, texts = self._steps[first:end], self._texts[first:end]
        nats = finite([0.0 if step.logprob is None else step.logprob for step in steps])
        if not self._request.raw:
            content = [
                {
                    **token_entry(self._piece(step.token), value),
                    "top_logprobs": [
                        token_entry(self._piece(t, special=True), *finite([v])) for t, v in step.top
                    ],
                }
                for step, value in zip(steps, nats, strict=True)
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": texts,
            "token_logprobs": nats,
            "top_logprobs": [
                by_text(step.token, text, value, step.top, self._piece)
                for step, text, value in zip(steps, texts, nats, strict=True)
            ]
            if self._request.top_logprobs
            else None,
            "text_offset": self._starts[first:end],
        }
