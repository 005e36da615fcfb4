"""An answer as OpenAI's `chat.completion` or `text_completion` object.

What OpenAI has no field for is under one key, "eftlocal". Nothing here knows of files.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from eftlocal.answer import Answer
from eftlocal.logits.recipe import TUNED, Recipe

Piece = Callable[[int], bytes]

# An answer that goes round in a circle did not come to its end: it was cut, as by a limit.
_FINISHED = {"stop": "stop", "length": "length", "context": "length", "repetition": "length"}
_LEAST = -9999.0  # what OpenAI writes for a log-probability of minus infinity


def completion_body(
    answer: Answer,
    *,
    id: str,
    created: int,
    model: str,
    raw: bool,
    piece: Piece,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """The object of one answer, as plain data for JSON.

    Args:
        id: without its prefix.
        created: seconds since 1970.
        raw: the prompt was a text to go on with: `text_completion`.
        piece: the bytes of a token.
        recipe: that the answer was drawn under.
    """
    logprobs = None if answer.logprobs is None else logprobs_of(answer, piece, raw=raw)
    choice: dict[str, Any] = {"index": 0}
    if raw:
        choice["text"] = answer.text
    else:
        choice["message"] = {"role": "assistant", "content": answer.text, "refusal": None}
    choice |= {"logprobs": logprobs, "finish_reason": _FINISHED.get(answer.finish_reason or "")}
    ours = {
        "finish_reason": answer.finish_reason,
        "stop": answer.stop,
        "seed": answer.seed,
        "timings": timings_of(answer),
        "speculation": speculation_of(answer),
    }
    if recipe is not None:
        ours["recipe"] = str(recipe)
    return {
        "id": f"{'cmpl' if raw else 'chatcmpl'}-{id}",
        "object": "text_completion" if raw else "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage_of(answer),
        "eftlocal": ours,
    }


def usage_of(answer: Answer) -> dict[str, Any]:
    """Tokens as OpenAI counts them. Prompts differ by role: the tuned model's (or the first
    role's) counts, and the answer's end token is one of its tokens."""
    timing = answer.timing
    role = TUNED if TUNED in timing.prompt_tokens else next(iter(timing.prompt_tokens), "")
    prompt = timing.prompt_tokens.get(role, 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": timing.tokens,
        "total_tokens": prompt + timing.tokens,
        "prompt_tokens_details": {"cached_tokens": timing.reused_tokens.get(role, 0)},
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


def logprobs_of(answer: Answer, piece: Piece, *, raw: bool) -> dict[str, Any]:
    """Each token of the text with its log-probability (nats): no end token, and none of a stop
    string, unless it begins with text that was kept.

    A character of several tokens is in none of their texts: `bytes` has them, and in the older
    form, which has no bytes, the token that ends it shows it.
    """
    pieces = [piece(token) for token in answer.tokens]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(data) for data in pieces]
    starts = list(accumulate(map(len, texts), initial=0))
    count = len(pieces)
    if answer.stop is not None:
        count = sum(start < len(answer.text) for start in starts[:-1])
    elif answer.finish_reason == "stop":
        count -= 1
    pieces, texts = pieces[:count], texts[:count]
    nats = finite((answer.logprobs or ())[:count])
    if not raw:
        content = [
            {
                "token": data.decode("utf-8", "replace"),
                "logprob": logprob,
                "bytes": list(data),
                "top_logprobs": [],
            }
            for data, logprob in zip(pieces, nats, strict=True)
        ]
        return {"content": content, "refusal": None}
    return {
        "tokens": texts,
        "token_logprobs": nats,
        "top_logprobs": None,
        "text_offset": starts[:count],
    }


def finite(logprobs: Sequence[float]) -> list[float]:
    """Log-probabilities as JSON can hold them."""
    return [value if math.isfinite(value) else _LEAST for value in logprobs]
