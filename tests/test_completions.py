"""Log-probabilities of prompts and of the most probable tokens, and requests of several answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.batch.completion_body import completion_body
from eftlocal.cli.app import app
from eftlocal.errors import PromptError, UsageError
from eftlocal.logits.distribution import token_logprob, top_logprobs
from eftlocal.request import RequestDefaults, read_request
from eftlocal.scheduler import Scheduler

TEXT = "In which country is Toulouse? The answer is France."
GREEDY = Sampling(temperature=0.0)


def body_of(emulator: Emulator, fields: dict[str, Any], raw: bool | None = True) -> dict[str, Any]:
    """As a batch makes it, and as a server will."""
    request = read_request(
        fields, defaults=RequestDefaults(vocab_size=emulator.ensemble.vocab_size), raw=raw
    )
    answers = [emulator.generate(prompt, **options) for prompt, options in request.calls(1)]
    body = completion_body(request, answers, id="1", created=0, model="m", piece=emulator.piece)
    return dict(json.loads(json.dumps(body, allow_nan=False)))


def test_the_most_probable_tokens_are_those_of_a_full_sort() -> None:
    random = np.random.default_rng(0)
    scratch = np.empty(300, dtype=np.float32)
    for _ in range(50):
        row = random.normal(size=300).round(1).astype(np.float32)
        row[random.integers(300, size=30)] = -np.inf
        for k in (1, 5, 20):
            found = top_logprobs(row, k, scratch)
            by_hand = sorted(range(300), key=lambda i: (-row[i], i))[:k]
            assert [token for token, _ in found] == by_hand
            assert [lp for _, lp in found] == [token_logprob(row, i, scratch) for i in by_hand]


@pytest.mark.parametrize("recipe", [Recipe.upscale(), Recipe.proxy(0.5), Recipe.single("tuned")])
def test_a_prompts_logprobs_are_those_of_the_text(demo: Emulator, recipe: Recipe) -> None:
    answer = demo.generate(
        TEXT, raw=True, recipe=recipe, prompt_logprobs=True, logprobs=True, top_logprobs=3,
        sampling=GREEDY, max_tokens=4,
    )  # fmt: skip
    scored, given = demo.logprobs(TEXT, recipe=recipe), answer.prompt
    assert given is not None
    assert list(given.tokens) == demo.tokenize(TEXT, raw=True)["tuned"]
    count = len(scored.tokens)
    assert given.tokens[-count:] == scored.tokens
    np.testing.assert_array_equal(given.logprobs[-count:], scored.logprobs)
    assert np.isnan(given.logprobs[0]) and given.top[0] is None
    for token, nats, greedy, top in zip(
        given.tokens[1:], given.logprobs[1:], given.greedy[1:], given.top[1:], strict=True
    ):
        assert top is not None and len(top) == 3
        assert top[0][1] >= top[1][1] >= top[2][1]
        assert greedy == (nats == top[0][1])  # the very same float
        assert nats <= top[0][1] and dict(top).get(token, nats) == nats
    # and it changes nothing of the answer
    assert (
        answer.tokens
        == demo.generate(TEXT, raw=True, recipe=recipe, sampling=GREEDY, max_tokens=4).tokens
    )


@pytest.mark.parametrize("speculation", [0, 4])
def test_the_chosen_token_is_among_the_most_probable(demo: Emulator, speculation: int) -> None:
    from eftlocal.speculation.settings import Speculation

    answer = demo.generate(
        "What is a finch?", sampling=GREEDY, logprobs=True, top_logprobs=2, max_tokens=12,
        speculation=Speculation(length=speculation),
    )  # fmt: skip
    assert answer.logprobs and answer.top_logprobs and answer.prompt is None
    for token, nats, top in zip(answer.tokens, answer.logprobs, answer.top_logprobs, strict=True):
        assert top[0] == (token, nats) and top[1][1] <= nats


def test_token_ids_are_read_as_they_stand(demo: Emulator) -> None:
    ids = demo.tokenize(TEXT, raw=True)["tuned"]
    for prompt in (ids, tuple(ids), list(np.array(ids))):
        assert demo.tokenize(prompt) == dict.fromkeys(demo.roles, ids)
    options: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 5}
    assert demo.generate(ids, **options).text == demo.generate(TEXT, raw=True, **options).text
    size = demo.ensemble.vocab_size
    for wrong, says in (
        ([size], f"token {size} is outside the vocabulary of {size}"),
        ([1, -1], r"prompt\[1\]: token -1 is outside"),
        ([1, True], r"prompt\[1\]: a token id is needed, not bool"),
        ([1, "x"], r"prompt\[1\]: a token id is needed, not str"),
    ):
        with pytest.raises(PromptError, match=says):
            demo.generate(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="token ids are used as they are"):
        demo.generate(ids, chat_template_kwargs={"a": 1})
    assert demo.tokenize(ids, special=True) == demo.tokenize(ids)  # there is no text in it
    with pytest.raises(UsageError, match="prompt_logprobs are for raw text or token ids"):
        demo.generate("x", prompt_logprobs=True)


def test_a_prompt_alone_is_scored_and_nothing_is_drawn(demo: Emulator) -> None:
    answer = demo.generate(TEXT, raw=True, prompt_logprobs=True, max_tokens=0)
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", (), "length")
    assert answer.prompt is not None and len(answer.prompt.tokens) > 5
    with Scheduler(demo, parallel=1) as scheduler:
        calls = [
            scheduler.add(TEXT, raw=True, prompt_logprobs=True, max_tokens=n) for n in (0, 1, 0)
        ]
        ended = [came.call for _ in range(9) for came in scheduler.step() if came.call.ended]
        assert set(ended) == set(calls) and len(ended) == 3 and not scheduler
    assert [len(call.answer().tokens) for call in calls] == [0, 1, 0]
    assert demo.ensemble.free == list(range(demo.ensemble.n_seq_max))
    with pytest.raises(UsageError, match="max_tokens is 0"):
        demo.generate(TEXT, raw=True, max_tokens=0)


def test_what_lm_evaluation_harness_asks_for(demo: Emulator) -> None:
    """It reads token_logprobs[ctxlen:-1], and compares each with the largest of its place."""
    whole = demo.tokenize(TEXT, raw=True)["tuned"]
    lists = [whole, whole[:6]]
    asked = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    body = body_of(demo, {"prompt": lists, **asked})
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    scored = demo.logprobs(TEXT)
    for ids, choice in zip(lists, body["choices"], strict=True):
        found = choice["logprobs"]
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        assert [len(found[name]) for name in names] == [len(ids) + 1] * 4
        assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
        nats = found["token_logprobs"][1:-1]
        np.testing.assert_allclose(nats, scored.logprobs[-len(whole) + 1 :][: len(nats)], atol=0.05)
        tops = found["top_logprobs"][1:]
        for logprob, top in zip(found["token_logprobs"][1:], tops, strict=True):
            assert logprob <= max(top.values()) and logprob in top.values()
        greedy = [
            a == max(b.values()) for a, b in zip(nats, found["top_logprobs"][1:-1], strict=True)
        ]
        assert greedy == [bool(g) for g in scored.greedy[-len(whole) + 1 :][: len(nats)]]
        assert "".join(found["tokens"]) == choice["text"]
        assert all(
            choice["text"][at:].startswith(token)
            for at, token in zip(found["text_offset"], found["tokens"], strict=True)
        )
    assert body["usage"]["prompt_tokens"] == sum(map(len, lists))
    assert body["usage"]["completion_tokens"] == 2


def test_the_end_token_is_listed_after_a_prompt(demo: Emulator) -> None:
    """Without it the last token of the prompt would be taken for the one that was drawn."""
    end = min(demo.ensemble.stop_tokens)
    body = body_of(
        demo,
        {"prompt": TEXT, "echo": True, "logprobs": 1, "max_tokens": 1, "logit_bias": {end: 100}}
        | {"logit_bias": {str(end): 100}},
    )
    (choice,) = body["choices"]
    ids = demo.tokenize(TEXT, raw=True)["tuned"]
    assert choice["finish_reason"] == "stop" and choice["text"] == TEXT
    assert len(choice["logprobs"]["tokens"]) == len(ids) + 1


@pytest.mark.parametrize("which", ["demo", "smol", "tiny"])
def test_an_echo_is_the_prompt_to_the_letter(which: str, request: pytest.FixtureRequest) -> None:
    emulator: Emulator = request.getfixturevalue(which)
    for text in ("Toulouse", " two  spaces ", "ä 😀 é\n")[: 1 if which == "smol" else 3]:
        body = body_of(emulator, {"prompt": text, "echo": True, "logprobs": 0, "max_tokens": 1})
        (choice,) = body["choices"]
        assert choice["text"].startswith(text)
        found = choice["logprobs"]
        assert found["top_logprobs"] is None and found["token_logprobs"][0] is None
        assert len(found["tokens"]) == sum(
            body["usage"][name] for name in ("prompt_tokens", "completion_tokens")
        )
        assert "".join(found["tokens"]).startswith(text)
    if which == "smol":
        return
    (plain,) = body_of(emulator, {"prompt": "x", "echo": True, "max_tokens": 2})["choices"]
    assert plain["logprobs"] is None and plain["text"].startswith("x")
    (alone,) = body_of(emulator, {"prompt": "Say", "echo": True, "logprobs": 2, "max_tokens": 0})[
        "choices"
    ]
    assert (alone["text"], alone["finish_reason"]) == ("Say", "length")


def test_chat_tells_the_most_probable_tokens(demo: Emulator) -> None:
    messages = [{"role": "user", "content": "What is a finch?"}]
    asked = {"messages": messages, "logprobs": True, "top_logprobs": 2, "max_tokens": 6}
    (choice,) = body_of(demo, {**asked, "temperature": 0}, None)["choices"]
    for token in choice["logprobs"]["content"]:
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0] == {k: token[k] for k in ("token", "logprob", "bytes")}
        assert math.isfinite(token["logprob"])


def test_several_answers_in_a_batch(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts = ["Where is Lima?", "Where is Oslo?"]
    source.write_text(
        json.dumps({"custom_id": "a", "prompt": prompts, "n": 2, "seed": 5, "max_tokens": 5})
        + "\n"
        + json.dumps({"custom_id": "b", "prompt": prompts[0], "seed": 5, "max_tokens": 5})
    )

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["batch", str(source), str(out), "--quiet", *more])

    assert run("--parallel", "2").exit_code == 0
    rows = {r["custom_id"]: r for r in map(json.loads, out.read_text().splitlines())}
    choices = rows["a"]["response"]["body"]["choices"]
    (single,) = rows["b"]["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["message"] == single["message"]
    assert len({choice["eftlocal"]["seed"] for choice in choices}) == 4
    usage = rows["a"]["response"]["body"]["usage"]
    assert (
        usage["completion_tokens"]
        == sum(choice["eftlocal"]["timings"] is not None for choice in choices) * 5
        or usage["completion_tokens"] <= 20
    )
    assert usage["prompt_tokens"] < 3 * rows["b"]["response"]["body"]["usage"]["prompt_tokens"]
    out.unlink()
    for fields in ({"prompt": prompts}, {"prompt": "x", "n": 2}, {"prompt": "x", "echo": True}):
        source.write_text(json.dumps({**fields, "raw": True}))
        refused = run("--format", "plain")
        assert refused.exit_code == 7 and "use --format openai" in refused.stderr
