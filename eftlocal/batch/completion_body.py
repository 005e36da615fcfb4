"""Answers as OpenAI's `chat.completion` or `text_completion` object.

What OpenAI has no field for is under one key, "eftlocal". Nothing here knows of files.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Protocol

from eftlocal.answer import Answer
from eftlocal.logits.recipe import TUNED, Recipe
from eftlocal.request import Prompt, Request
from eftlocal.tool_calls import call_id

# An answer that goes round in a circle did not come to its end: it was cut, as by a limit.
FINISHED = {"stop": "stop", "length": "length", "context": "length", "repetition": "length"}
_LEAST = -9999.0  # what OpenAI writes for a log-probability of minus infinity
Top = Sequence[tuple[int, float]]


class Piece(Protocol):
    """The bytes of a token, as `Emulator.piece`."""

    def __call__(self, token: int, *, special: bool = False) -> bytes: ...


def completion_body(
    request: Request,
    answers: Sequence[Answer],
    *,
    id: str,
    created: int,
    model: str,
    piece: Piece,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """The object of a request's answers, as plain data for JSON.

    Args:
        answers: in the order of `Request.calls`.
        id: without its prefix.
        created: seconds since 1970.
        recipe: that the answers were drawn under.
    """
    choices = [
        _choice(i, answer, request, request.prompts[i // request.n], piece, id)
        for i, answer in enumerate(answers)
    ]
    return {
        "id": f"{'cmpl' if request.raw else 'chatcmpl'}-{id}",
        "object": "text_completion" if request.raw else "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_of(answers, request.n),
        "eftlocal": {} if recipe is None else {"recipe": str(recipe)},
    }


def _choice(
    index: int, answer: Answer, request: Request, prompt: Prompt, piece: Piece, id: str
) -> dict[str, Any]:
    before = _Echo(answer, prompt, piece) if request.echo else None
    choice: dict[str, Any] = {"index": index}
    called = False
    if request.raw:
        choice["text"] = (before.text if before else "") + answer.text
    else:
        choice["message"] = message = _message(answer, request, f"{id} {index}")
        called = "tool_calls" in message
    if answer.logprobs is None:
        choice["logprobs"] = None
    elif request.raw:
        choice["logprobs"] = _text_logprobs(answer, piece, before)
    else:
        choice["logprobs"] = _chat_logprobs(answer, piece)
    return choice | {
        "finish_reason": finish_of(answer, called),
        "eftlocal": {
            "finish_reason": answer.finish_reason,
            "stop": answer.stop,
            "seed": answer.seed,
            "timings": timings_of(answer),
            "speculation": speculation_of(answer),
        },
    }


def _message(answer: Answer, request: Request, id: str) -> dict[str, Any]:
    """An answer's text, and the calls in it where they are read."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if request.tools is not None:
        text, calls = request.tools.reader(answer.marks).finish(answer.text)
        message["content"] = text
        if calls:
            message["content"] = text or None
            message["tool_calls"] = [call.told(call_id(id, i)) for i, call in enumerate(calls)]
    return message


def finish_of(answer: Answer, called: bool) -> str | None:
    """Why an answer ended, in OpenAI's words; one that was cut says so, whatever it calls."""
    finished = FINISHED.get(answer.finish_reason or "")
    return "tool_calls" if called and finished == "stop" else finished


def usage_of(answers: Sequence[Answer], n: int = 1) -> dict[str, Any]:
    """Tokens as OpenAI counts them: a prompt once, however many answers it has.

    Prompts differ by role: the tuned model's (or the first role's) counts, and an answer's end
    token is one of its tokens.
    """
    prompt = cached = 0
    for answer in answers[::n]:
        timing = answer.timing
        role = TUNED if TUNED in timing.prompt_tokens else next(iter(timing.prompt_tokens), "")
        prompt += timing.prompt_tokens.get(role, 0)
        cached += timing.reused_tokens.get(role, 0)
    answered = sum(answer.timing.tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answered,
        "total_tokens": prompt + answered,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings_of(answer: Answer) -> dict[str, Any]:
    """Seconds, tokens a second, and the tokens of each role's prompt."""
    timing = answer.timing
    return {
        "first_token": round(timing.first_token, 6),
        "seconds": round(timing.seconds, 6),
        "tokens_per_second": round(timing.tokens_per_second, 3),
        "prompt_tokens": dict(timing.prompt_tokens),
        "reused_tokens": dict(timing.reused_tokens),
    }


def speculation_of(answer: Answer) -> dict[str, Any]:
    """What became of the drafts; acceptance is None where nothing was drafted."""
    totals = answer.speculation
    return {
        "acceptance": totals.acceptance,
        "rounds": totals.rounds,
        "drafts": totals.drafts,
        "looked_up": totals.looked_up,
        "drafted": totals.drafted,
        "accepted": sum(totals.accepted),
    }


class _Echo:
    """A prompt that is part of the text.

    Attributes:
        text: of the prompt.
        texts: of its tokens; together they are the text.
    """

    def __init__(self, answer: Answer, prompt: Prompt, piece: Piece) -> None:
        self.scored = answer.prompt
        if isinstance(prompt, str):
            pieces = self.scored.pieces if self.scored else ()
        else:
            pieces = tuple(piece(token, special=True) for token in prompt if isinstance(token, int))
        self.texts = _whole_characters(pieces)
        self.text = "".join(self.texts)
        if isinstance(prompt, str):
            # BOS, and a space that the tokenizer put before, are no part of what was given.
            self._cut(len(self.text) - len(prompt) if self.text.endswith(prompt) else 0)
            self.text = prompt

    def _cut(self, count: int) -> None:
        for i, text in enumerate(self.texts):
            self.texts[i] = text[count:]
            count = max(0, count - len(text))


def _text_logprobs(answer: Answer, piece: Piece, before: _Echo | None) -> dict[str, Any]:
    """The form of older completions. A character of several tokens is shown by the last of them.

    With the prompt before it every token is listed, the end token too, so that lists are as long
    as the tokens that `usage` counts.
    """
    texts = _whole_characters([piece(token) for token in answer.tokens])
    count = len(texts) if before else shown_tokens(answer, texts)
    tokens, texts = answer.tokens[:count], texts[:count]
    nats: list[float | None] = [*finite((answer.logprobs or ())[:count])]
    tops: list[Top | None] = [*(answer.top_logprobs or ((),) * count)[:count]]
    if before is not None and (scored := before.scored):
        tokens, texts = (*scored.tokens, *tokens), [*before.texts, *texts]
        known = [None if math.isnan(value) else finite([value])[0] for value in scored.logprobs]
        nats, tops = [*known, *nats], [*scored.top, *tops]
    asked = answer.top_logprobs is not None or any(tops)
    return {
        "tokens": texts,
        "token_logprobs": nats,
        "top_logprobs": [
            by_text(*place, piece) for place in zip(tokens, texts, nats, tops, strict=True)
        ]
        if asked
        else None,
        "text_offset": list(accumulate(map(len, texts), initial=0))[: len(texts)],
    }


def by_text(
    token: int, text: str, nats: float | None, top: Top | None, piece: Piece
) -> dict[str, float] | None:
    """The most probable tokens by their texts, and the one that stands there."""
    if nats is None or top is None:
        return None
    found: dict[str, float] = {}
    for other, logprob in top:
        name = text if other == token else _name(piece(other, special=True))
        found.setdefault(name, finite([logprob])[0])  # of two that look alike, the likelier
    if all(other != token for other, _ in top):
        found.setdefault(text, nats)
    return found


def _chat_logprobs(answer: Answer, piece: Piece) -> dict[str, Any]:
    """Each token of the text. A character of several tokens is in none of them: `bytes` has it."""
    pieces = [piece(token) for token in answer.tokens]
    count = shown_tokens(answer, _whole_characters(pieces))
    tops = answer.top_logprobs or ((),) * count
    content = [
        {
            **token_entry(data, nats),
            "top_logprobs": [token_entry(piece(t, special=True), *finite([v])) for t, v in top],
        }
        for data, nats, top in zip(
            pieces[:count], finite((answer.logprobs or ())[:count]), tops[:count], strict=True
        )
    ]
    return {"content": content, "refusal": None}


def token_entry(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def shown_tokens(answer: Answer, texts: Sequence[str]) -> int:
    """Tokens of the text: no end token, and none of a stop string, unless it begins with text that
    was kept."""
    if answer.stop is not None:
        starts = accumulate(map(len, texts), initial=0)
        return sum(start < len(answer.text) for start in [*starts][:-1])
    return len(texts) - (answer.finish_reason == "stop")


def _whole_characters(pieces: Iterable[bytes]) -> list[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(data) for data in pieces]


def _name(data: bytes) -> str:
    """A token by itself, as OpenAI names one that is no text."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def finite(logprobs: Sequence[float]) -> list[float]:
    """Log-probabilities as JSON can hold them."""
    return [float(value) if math.isfinite(value) else _LEAST for value in logprobs]
