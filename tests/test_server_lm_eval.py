"""What lm-evaluation-harness asks of the server, asked as it asks.

Its `local-completions` finds a remote tokenizer, sends contexts with their continuations as lists
of token ids, has the prompt echoed with log-probabilities, and leaves out the one token that
follows. scripts/check_lm_eval.py runs it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from _serving import Serving, serving

from eftlocal import Emulator, Sampling
from eftlocal.cli.serve import _listening

CONTEXT = "Question: In which country is Toulouse?\nAnswer:"
CONTINUATIONS = (
    " Good question! The answer is France.",
    " France",
    " The answer is Spain.",
    " 42 ü",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving("--preset", "demo", "--threads", "1", "--speculative", "off") as found:
        yield found


def ask(server: Serving, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer "}
    with urlopen(Request(server.url + path, data, headers), timeout=120) as response:
        return json.load(response)


def encode(server: Serving, text: str) -> list[int]:
    asked = {"prompt": text, "add_special_tokens": False}
    tokens: list[int] = ask(server, "/tokenize", asked)["tokens"]
    return tokens


def scored(server: Serving, prompt: Any, **more: Any) -> list[dict[str, Any]]:
    """The log-probabilities of each prompt, in their order."""
    body = {"model": "demo", "prompt": prompt, "temperature": 0, "max_tokens": 1, "logprobs": 1,
            "seed": 1234, "echo": True}  # fmt: skip
    choices = ask(server, "/v1/completions", body | more)["choices"]
    return [choice["logprobs"] for choice in sorted(choices, key=lambda one: one["index"])]


def parsed(logprobs: dict[str, Any], context: int) -> tuple[float, bool]:
    """The log-likelihood of what follows so many tokens, and whether each of them is the likeliest:
    told by equality with the highest number."""
    nats, tops = logprobs["token_logprobs"], logprobs["top_logprobs"]
    pairs = zip(nats[context:-1], tops[context:-1], strict=True)
    return sum(nats[context:-1]), all(value == max(top.values()) for value, top in pairs)


def test_the_remote_tokenizer_is_found(server: Serving, demo: Emulator) -> None:
    info = ask(server, "/tokenizer_info")
    prompt = demo.prompts["tuned"]
    assert info["eos_token"] == prompt.eos_token and info["bos_token"] == prompt.bos_token
    assert info["chat_template"] == prompt.template
    assert encode(server, info["eos_token"]) == [demo.text_model.eos]
    for text in (CONTEXT, " Größe 🙂", ""):
        tokens = encode(server, text)
        assert tokens == demo.text_model.tokenize(text, add_bos=False, parse_special=True)
        assert ask(server, "/detokenize", {"tokens": tokens})["prompt"] == text


@pytest.mark.parametrize("drafts", ["off", 4])
@pytest.mark.parametrize("form", ["ids", "batch", "text"])
def test_log_likelihoods(server: Serving, demo: Emulator, form: str, drafts: Any) -> None:
    context = encode(server, CONTEXT)
    wholes = [encode(server, CONTEXT + text) for text in CONTINUATIONS]
    assert all(whole[: len(context)] == context for whole in wholes)
    texts: list[Any] = [CONTEXT + text for text in CONTINUATIONS]
    asked = {"batch": [wholes], "ids": [[whole] for whole in wholes], "text": texts}[form]
    rows = [row for one in asked for row in scored(server, one, speculative=drafts)]
    assert [len(row["token_logprobs"]) for row in rows] == [len(whole) + 1 for whole in wholes]
    told = [parsed(row, len(context)) for row in rows]
    ours = [demo.logprobs(text, prompt=CONTEXT, raw=True) for text in CONTINUATIONS]
    assert [nats for nats, _ in told] == pytest.approx([o.logprobs.sum() for o in ours], abs=1e-4)
    assert [greedy for _, greedy in told] == [bool(o.greedy.all()) for o in ours]
    assert [greedy for _, greedy in told] == [True, False, False, False]
    assert all(row["token_logprobs"][0] is None and row["top_logprobs"][0] is None for row in rows)


def test_a_window_of_one_token_before_the_text(server: Serving, demo: Emulator) -> None:
    """As rolling log-likelihoods have it: the first token is told from BOS alone."""
    (row,) = scored(server, [[demo.text_model.eos, *encode(server, CONTEXT)]])
    whole = demo.logprobs(CONTEXT, prompt=demo.prompts["tuned"].bos_token, raw=True, special=True)
    assert np.allclose(row["token_logprobs"][1:-1], whole.logprobs, atol=1e-4)


def test_answers(server: Serving, demo: Emulator) -> None:
    stop = ["\n", "<|end|>"]
    more = {"model": "demo", "max_tokens": 24, "temperature": 0, "seed": 1234}
    greedy: Any = {"sampling": Sampling(temperature=0), "max_tokens": 24, "stop": ("\n",)}
    ids = encode(server, CONTEXT)
    body = {"prompt": [ids, ids[:-2]], "stop": stop, **more}
    choices = ask(server, "/v1/completions", body)["choices"]
    wanted = [demo.generate(prompt, **greedy).text for prompt in (ids, ids[:-2])]
    assert [choice["text"] for choice in choices] == wanted
    messages: Any = [{"role": "user", "content": "In which country is Toulouse?"}]
    found = ask(server, "/v1/chat/completions", {"messages": messages, "stop": ["\n"], **more})
    assert found["choices"][0]["message"]["content"] == demo.chat(messages, **greedy).text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_part_of_an_answer_waits_for_the_client(host: str) -> None:
    """asyncio itself sees to it for listeners that it made, and for no others."""
    try:
        listener = _listening(host, 0)
    except Exception as error:  # noqa: BLE001 - no IPv6 here
        pytest.skip(str(error))
    with listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
