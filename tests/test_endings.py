"""Why an answer ends, and what is kept of it, where several ends meet in one token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eftlocal import Emulator, Sampling, Speculation
from eftlocal.answer import Answer
from eftlocal.batch.completion_body import completion_body
from eftlocal.decoding.sequence import Choice, RunningSequence
from eftlocal.generation import Generation
from eftlocal.logits.recipe import Recipe
from eftlocal.request import Request
from eftlocal.scheduler import Scheduler

GREEDY = Sampling(temperature=0.0)
QUESTION = "In which country is Toulouse?"


class Roomy:
    """An ensemble's room, in tokens beyond what the answer has."""

    def __init__(self, room: int = 1000) -> None:
        self.left = room

    def room(self, sequence: RunningSequence) -> int:
        return self.left - len(sequence.choices)


def taken(
    pieces: list[bytes], *, ends: bool = False, room: int = 1000, **limits: Any
) -> tuple[str, str | None, str | None, int]:
    """(text, finish_reason, stop, tokens) of an answer whose tokens have these bytes."""
    sequence = RunningSequence(
        0, {"base": [1]}, Recipe.single("base"), GREEDY, frozenset([99] if ends else [])
    )
    known = list(dict.fromkeys(pieces))
    sequence.choices = [Choice(known.index(piece)) for piece in pieces] + [Choice(99)] * ends
    by_id = dict(enumerate(known)) | {99: b""}
    ensemble: Any = Roomy(room)
    generation = Generation(ensemble, sequence, piece=by_id.__getitem__, **limits)
    text = ""
    for index in range(len(sequence.choices)):
        step = generation.take(index)
        assert generation.take(index) is step  # interrupted, it is asked for again
        text += step.text
        if step.finish_reason is not None:
            return text, step.finish_reason, step.stop, len(sequence.choices)
    raise AssertionError("the answer did not end")


@pytest.mark.parametrize(
    ("pieces", "more", "wanted"),
    [
        # A stop string that is whole exactly at max_tokens.
        ([b"on", b"e.", b"x"], {"stop": ["."], "max_tokens": 2}, ("one", "stop", ".", 2)),
        # Held back because it might become the longer one: settled at the end.
        ([b"a", b"b", b"c"], {"stop": ["b", "bd"], "max_tokens": 2}, ("a", "stop", "b", 2)),
        ([b"a", b"b", b"d"], {"stop": ["b", "bd"], "max_tokens": 3}, ("a", "stop", "bd", 3)),
        # The beginning of one only: it is text.
        ([b"a", b"\nU", b"s"], {"stop": ["\nUs"], "max_tokens": 2}, ("a\nU", "length", None, 2)),
        # The context is full at the same token.
        ([b"a", b"b", b"c"], {"stop": ["b", "bd"], "room": 2}, ("a", "stop", "b", 2)),
        ([b"a", b"b", b"c"], {"room": 2}, ("ab", "context", None, 2)),
        # The end token at max_tokens, and with a stop string held back.
        ([b"a"], {"ends": True, "max_tokens": 2}, ("a", "stop", None, 2)),
        ([b"ab"], {"ends": True, "stop": ["b", "bd"], "max_tokens": 2}, ("a", "stop", "b", 2)),
        # A part of a character at the end, alone and in a stop string.
        ([b"a", "é".encode()[:1]], {"max_tokens": 2}, ("a\ufffd", "length", None, 2)),
        (
            [b"a", "é".encode()[:1]],
            {"stop": ["\ufffd"], "max_tokens": 2},
            ("a", "stop", "\ufffd", 2),
        ),
        # Of several in one token the first, and there the longest; what follows is dropped.
        ([b"one, two. three"], {"stop": [".", ", two", ","]}, ("one", "stop", ", two", 1)),
        # Drafts brought tokens beyond the end: they are taken back.
        ([b"a", b".", b"c", b"d"], {"stop": ["."]}, ("a", "stop", ".", 2)),
        # A loop whose last token is a stop string.
        ([b"la"] * 15 + [b"!"], {"stop": ["!"], "loop_guard": 16}, ("la" * 15, "stop", "!", 16)),
        ([b"b"] * 20, {"stop": ["bd"], "loop_guard": 16}, ("b" * 16, "repetition", None, 16)),
    ],
)  # fmt: skip
def test_what_ends_an_answer(
    pieces: list[bytes], more: dict[str, Any], wanted: tuple[str, str, str | None, int]
) -> None:
    assert taken(pieces, **more) == wanted


def test_a_token_taken_back_leaves_no_text() -> None:
    """As after an interrupt in the middle of a step, and then a dial that is turned."""
    sequence = RunningSequence(0, {"base": [1]}, Recipe.single("base"), GREEDY, frozenset())
    sequence.choices = [Choice(0), Choice(1)]
    ensemble: Any = Roomy()
    generation = Generation(ensemble, sequence, piece=[b"one", b" two", b" three"].__getitem__)
    assert generation.take(0).text == "one"
    assert generation.take(1).text == " two"
    sequence.cut(1)
    sequence.choices.append(Choice(2))
    assert generation.take(1).text == " three"


@pytest.mark.parametrize("length", [0, 1, 4])
def test_at_every_token_of_an_answer(demo: Emulator, length: int) -> None:
    """Whatever max_tokens is, what the text was cut at is the reason; drafts change nothing."""
    options: dict[str, Any] = {"sampling": GREEDY, "speculation": Speculation(length=length)}
    whole = demo.generate(QUESTION, **options)
    stop = whole.text[9:12]
    cut = whole.text[: whole.text.index(stop)]
    for most in range(1, len(whole.tokens) + 1):
        answer = demo.generate(QUESTION, stop=[stop], max_tokens=most, logprobs=True, **options)
        assert answer.tokens == whole.tokens[: len(answer.tokens)]
        assert (answer.finish_reason, answer.stop) in (("length", None), ("stop", stop))
        assert (answer.finish_reason == "stop") == (len(answer.text) < len(text_of(demo, answer)))
        assert cut.startswith(answer.text) or answer.finish_reason == "length"
        assert answer.logprobs is not None and len(answer.logprobs) == len(answer.tokens)
    assert answer.text == cut and answer.finish_reason == "stop"


def text_of(em: Emulator, answer: Answer) -> str:
    return b"".join(map(em.piece, answer.tokens)).decode("utf-8", "replace")


def test_a_scheduler_says_the_same(demo: Emulator) -> None:
    most = len(demo.generate(QUESTION, sampling=GREEDY).tokens) - 3
    text = demo.generate(QUESTION, sampling=GREEDY, max_tokens=most).text
    stop = text[-4:]  # whole at max_tokens, and the beginning of another
    options: dict[str, Any] = {"sampling": GREEDY, "max_tokens": most, "stop": [stop, stop + "~"]}
    with Scheduler(demo) as scheduler:
        call = scheduler.add(QUESTION, **options)
        while scheduler:
            scheduler.step()
    assert (call.answer().finish_reason, call.answer().stop) == ("stop", stop)
    assert call.answer().text == demo.generate(QUESTION, **options).text == text[:-4]


@pytest.mark.parametrize("raw", [False, True])
def test_log_probabilities_are_those_of_the_text_that_is_kept(demo: Emulator, raw: bool) -> None:
    whole = demo.generate(QUESTION, sampling=GREEDY)
    for at in range(1, len(whole.text) - 2):
        stop = whole.text[at : at + 3]
        answer = demo.generate(QUESTION, sampling=GREEDY, stop=[stop], logprobs=True)
        request = Request((QUESTION,), raw=raw, logprobs=True)
        body = completion_body(request, [answer], id="1", created=0, model="", piece=demo.piece)
        told = body["choices"][0]["logprobs"]
        texts = told["tokens"] if raw else [entry["token"] for entry in told["content"]]
        assert "".join(texts).startswith(answer.text)
        assert len("".join(texts[:-1])) < max(1, len(answer.text))
        nats = told["token_logprobs"] if raw else [e["logprob"] for e in told["content"]]
        assert nats == pytest.approx(np.array(answer.logprobs)[: len(texts)].tolist())
        if raw:
            assert len(told["text_offset"]) == len(texts)
