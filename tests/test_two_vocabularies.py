"""A base and a pair of another vocabulary, from the door to the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eftlocal import Defaults, Emulator, Recipe, Sampling
from eftlocal.decoding.sequence import Choice
from eftlocal.errors import PromptError
from eftlocal.study.influence import inspect
from eftlocal.study.verdict import pieces_of
from eftlocal.study.view import as_data
from eftlocal.thinking import Marks
from eftlocal_tui.engine.answering import _live

GREEDY = Sampling(temperature=0.0)
QUESTION = "In which country is Toulouse?"


def test_alpha_0_is_the_base_alone(cross: Emulator) -> None:
    asked = {"sampling": GREEDY, "max_tokens": 12, "speculation": "off"}
    alone = cross.generate(QUESTION, recipe="base", **asked)
    assert cross.generate(QUESTION, recipe=Recipe.proxy(0.0), **asked).tokens == alone.tokens
    assert cross.generate(QUESTION, recipe=Recipe.proxy(1.0), **asked).tokens != alone.tokens


def test_a_scored_text_fits_as_it_is_spelled(cross: Emulator) -> None:
    word, spelled = " occupation", len(cross.models["tuned"].tokenize("occupation occupation")) // 2
    most = cross.ensemble.translations["tuned"].most
    count = 200 // spelled
    assert (256 - 20) // most < count  # the longest token, that many times, would not fit
    found = cross.logprobs(word * count, prompt="Toulouse", raw=True, recipe="proxy")
    assert len(found.tokens) == count and np.isfinite(found.logprobs).all()
    with pytest.raises(PromptError, match=r"has \d+ tokens and \d+ fit after its prompt"):
        cross.logprobs(word * 2 * count, prompt="Toulouse", raw=True, recipe="proxy")


def test_prompt_logprobs_of_a_text_and_of_its_ids_are_one(cross: Emulator) -> None:
    text = "The occupation of Marie Curie"
    ids = cross.text_model.tokenize(text)
    asked = {"recipe": "proxy", "max_tokens": 0, "prompt_logprobs": True}
    of_text = cross.generate(text, raw=True, **asked).prompt
    of_ids = cross.generate(ids, **asked).prompt
    assert of_text and of_ids and list(of_text.tokens) == list(of_ids.tokens) == ids
    assert np.array_equal(of_text.logprobs, of_ids.logprobs, equal_nan=True)


def test_translated_rows_that_do_not_cancel_are_warned_of(cross: Emulator) -> None:
    (translated,) = cross.notes("proxy")
    assert translated.startswith("tuned and reference have another vocabulary than base")
    assert cross.notes("upscale") == (translated,)
    alone, poor = cross.notes("tuned")
    assert alone.startswith("tuned has") and poor.startswith("the weights of tuned sum to 1, not 0")
    assert "sum to 0.5" in cross.notes(Recipe.upscale(0.5))[1]
    assert cross.notes("base") == ()


def test_inspection_shows_the_pieces_of_each_token(cross: Emulator) -> None:
    answer = " France is a country\u00e9"
    found = inspect(cross, QUESTION, answer, recipe="proxy")
    small = cross.models["tuned"]
    pieces = [token.spelled["tuned"] for token in found.tokens]
    assert pieces == [token.spelled["reference"] for token in found.tokens]
    assert any(len(each) > 1 for each in pieces)
    for token, each in zip(found.tokens, pieces, strict=True):
        if token.text.isascii() and token.text:
            assert "".join(each) == token.text
            assert len(each) == len(small.tokenize(token.text, continues=True))
    long = next(token for token in found.tokens if len(token.spelled["tuned"]) > 1)
    assert pieces_of(long).startswith("to tuned and reference “")
    told = as_data(found)["tokens"][long.index]["spelled"]
    assert told["tuned"] == list(long.spelled["tuned"])


def test_a_translated_role_s_probability_is_that_of_a_text(cross: Emulator) -> None:
    """A token that is one there, too, has the probability that the small model itself gives it."""
    text = "!"
    (token,) = inspect(cross, "Well", text, raw=True, recipe="proxy").tokens
    scored = cross.logprobs(text, prompt="Well", raw=True, recipe="proxy")
    small, own = cross.models["tuned"], Defaults(Recipe.single("tuned"))
    with Emulator.from_files(tuned=small.path, n_ctx=256, defaults=own, threads=1) as alone:
        itself = alone.logprobs(text, prompt="Well", raw=True, recipe="tuned").logprobs
    assert token.logprobs["tuned"] == pytest.approx(itself[0], abs=1e-3)
    assert scored.roles["tuned"][0] == pytest.approx(itself[0], abs=1e-3)


def test_inspection_of_one_vocabulary_has_no_pieces(demo: Emulator) -> None:
    (token, *_) = inspect(demo, QUESTION, " France", recipe="proxy").tokens
    assert token.spelled == {} and pieces_of(token) == ""


def test_thinking_that_the_tuned_role_s_prompt_opens(cross_files: dict[str, Path]) -> None:
    opens = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    with Emulator.from_files(
        **cross_files, prompts={"tuned": opens}, n_ctx=256, threads=1
    ) as emulator:
        assert emulator.text_role == "base"
        with emulator.stream(QUESTION, max_tokens=2) as stream:
            assert stream.marks == Marks("<think>", "</think>", opened=True)


def test_a_saved_conversation_goes_on(cross: Emulator, tmp_path: Path) -> None:
    asked = {"sampling": GREEDY, "max_tokens": 8, "speculation": "off", "recipe": "proxy"}
    first = cross.generate(QUESTION, **asked)
    cross.save_state(tmp_path / "state", QUESTION)
    cross.generate("Another question, which takes its place.", **asked)
    cross.load_state(tmp_path / "state")
    again = cross.generate(QUESTION, **asked)
    assert again.tokens == first.tokens
    for role, count in again.timing.prompt_tokens.items():
        assert again.timing.reused_tokens[role] == count - 1


def test_the_chat_counts_each_context_in_its_own_tokens(cross: Emulator) -> None:
    said = " occupation" * 8
    with cross.stream(QUESTION, recipe="base") as stream:
        ids = cross.text_model.tokenize(said, continues=True)
        stream.sequence.choices.extend(map(Choice, ids))
        live, prompts = _live(cross.ensemble, stream), stream.answer().timing.prompt_tokens
    own = cross.models["tuned"].tokenize(said, continues=True)
    assert prompts["tuned"] + len(own) > prompts["base"] + len(ids)  # so the pair's is fullest
    assert live.context_used == prompts["tuned"] + len(own)
