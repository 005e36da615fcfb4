"""`influence: true`: each token of an answer under each model, beside answers that go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from eftlocal import Emulator
from eftlocal.errors import EftlocalError
from eftlocal.llama import Model
from eftlocal.request import RequestDefaults, read_request
from eftlocal.server.bodies import ChatBody
from eftlocal.server.engine import Engine, Lines
from eftlocal.sources import Sources

QUESTION = [{"role": "user", "content": "In which country is Toulouse?"}]
OTHER = [{"role": "user", "content": "What is the capital of Norway?"}]


class Heard(BytesIO):
    """What an engine says, by the numbers of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[int, list[dict[str, Any]]] = {}
        self.order: list[tuple[int, str]] = []  # numbers, and the kinds of their lines
        self._came = threading.Condition()

    def write(self, data: Any) -> int:
        head, _, line = bytes(data).partition(b"\t")
        number, kind, _ = json.loads(head)
        with self._came:
            self.lines.setdefault(number, []).append({kind: json.loads(line)})
            self.order.append((number, kind))
            self._came.notify_all()
        return len(data)

    def answered(self, number: int) -> dict[str, Any]:
        """The last line of an answer."""

        def ended() -> bool:
            return any("done" in line or "error" in line for line in self.lines.get(number, ()))

        with self._came:
            assert self._came.wait_for(ended, timeout=120)
        return self.lines[number][-1]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def engine(demo: Emulator, heard: Heard) -> Iterator[Engine]:
    sources = Sources.of_preset("demo", offline=True)
    engine = Engine(demo, sources, Lines(heard))
    yield engine
    engine.close()


def ask(engine: Engine, number: int, *, role: str = "", stream: bool = False, raw: bool = False,
        influence: bool = True, **body: Any) -> None:  # fmt: skip
    body = {"messages": QUESTION, "temperature": 0, "max_tokens": 40, **body}
    if raw:
        del body["messages"]
    engine.hear({"op": "answer", "id": number, "body": body, "raw": raw, "role": role,
                 "stream": stream, "influence": influence, "model": "demo",
                 "name": "x", "client": ["", ""]})  # fmt: skip


def test_the_numbers_are_those_of_each_model_alone(
    engine: Engine, heard: Heard, demo: Emulator
) -> None:
    ask(engine, 1, logprobs=True, beta=1.5)
    (choice,) = heard.answered(1)["done"]["choices"]
    text, told = choice["message"]["content"], choice["eftlocal"]["influence"]
    assert "".join(token["token"] for token in told) == text
    drawn = [token["logprob"] for token in choice["logprobs"]["content"]]
    together = [token["probability"]["together"] for token in told]
    np.testing.assert_allclose(together, np.exp(drawn), atol=2e-5)
    for role in ("base", "tuned", "reference"):
        alone = demo.logprobs(text, prompt=QUESTION, recipe=role)
        assert [piece.decode() for piece in alone.pieces] == [token["token"] for token in told]
        found = [token["probability"][role] for token in told]
        np.testing.assert_allclose(found, np.exp(alone.logprobs), atol=2e-5)
    for token in told:
        assert token["candidates"].keys() == token["probability"].keys()
        for name, some in token["candidates"].items():
            chances = [one["probability"] for one in some]
            assert len(some) == 5 and chances == sorted(chances, reverse=True)
            own = [one["probability"] for one in some if one["token"] == token["token"]]
            assert own in ([], [token["probability"][name]])
        assert token["verdict"]


def test_it_is_in_the_last_chunk_of_a_stream(engine: Engine, heard: Heard) -> None:
    ask(engine, 1, stream=True, n=2, seed=3, temperature=0.9)
    heard.answered(1)
    chunks = [line["chunk"]["choices"][0] for line in heard.lines[1] if "chunk" in line]
    last = {chunk["index"]: chunk["eftlocal"] for chunk in chunks if "eftlocal" in chunk}
    assert last.keys() == {0, 1}
    for index, own in last.items():
        said = [c["delta"].get("content", "") for c in chunks if c["index"] == index]
        assert "".join(token["token"] for token in own["influence"]) == "".join(said)
    assert sum("eftlocal" in chunk for chunk in chunks) == 2  # and nothing comes twice


def test_it_disturbs_no_answer_beside_it(engine: Engine, heard: Heard, demo: Emulator) -> None:
    ask(engine, 1, influence=False, messages=OTHER)
    alone = heard.answered(1)["done"]["choices"][0]
    assert "influence" not in alone["eftlocal"]
    for number in range(2, 10):  # more than there are places
        ask(engine, number, influence=number % 2 == 0,
            messages=OTHER if number % 2 else QUESTION)  # fmt: skip
    texts: dict[int, set[str]] = {0: set(), 1: set()}
    for number in range(2, 10):
        (choice,) = heard.answered(number)["done"]["choices"]
        texts[number % 2].add(choice["message"]["content"])
        assert ("influence" in choice["eftlocal"]) == (number % 2 == 0)
    assert texts[1] == {alone["message"]["content"]} and len(texts[0]) == 1
    assert demo.ensemble.free == [0, 1]


def test_others_go_on_while_it_is_scored(
    engine: Engine, heard: Heard, demo: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of theirs follows each of its parts, and nothing is read between two of them."""
    monkeypatch.setattr("eftlocal.decoding.score._SCORED", 4)
    endless = {"regex": "(?s:.{2000})", "max_tokens": 400, "speculative": "off"}
    ask(engine, 1, influence=False, stream=True, messages=OTHER, **endless)
    ask(engine, 2, stream=True, regex="(?s:.{2000})", speculative="off", max_tokens=80)
    told = heard.answered(2)
    engine.hear({"op": "cancel", "id": 1})
    count = told["done"]["usage"]["completion_tokens"]
    lines = heard.order[: heard.order.index((2, "done"))]
    mine = [i for i, (number, _) in enumerate(lines) if number == 2]
    between = lines[mine[-2] : mine[-1]].count((1, "chunk"))
    assert count == 80
    assert between >= count / 4 - 2
    assert lines[: mine[-2]].count((1, "chunk")) > 10  # and it had gone on before


def test_a_place_that_is_left_is_scored_before_those_who_wait_get_it(
    engine: Engine, heard: Heard, demo: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache holds the prompt then, which is not read again."""
    lacks: list[int] = []
    inner = demo.ensemble.open

    def opened(*what: Any, **options: Any) -> Any:
        sequence = inner(*what, **options)
        if options.get("scored"):
            lacks.append(demo.ensemble.lacks(sequence))
        return sequence

    monkeypatch.setattr(demo.ensemble, "open", opened)
    places = ("Toulouse", "Turin", "Oslo", "Lima", "Cairo", "Bergen")
    for number, place in enumerate(places):  # three to a place
        asked = [{"role": "user", "content": f"{place} is a city, but in which country is it?"}]
        ask(engine, number, messages=asked, max_tokens=8 + number)
    for number in range(len(places)):
        assert heard.answered(number)["done"]["choices"][0]["eftlocal"]["influence"]
    assert len(lacks) == len(places) and max(lacks) <= 1


def test_nothing_is_read_or_told_between_rounds(
    engine: Engine, heard: Heard, demo: Emulator
) -> None:
    """While a round is on its way, prompts are tokenized and answers are put together."""
    begun, end = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        assert end.wait(60)

    decoding = threading.Thread(target=demo.ensemble.alone, args=(busy,))
    decoding.start()
    try:
        assert begun.wait(60)
        ask(engine, 1, messages=[{"role": "user", "content": "a b " * 25_000}])
        assert "context holds" in heard.answered(1)["error"]["message"]
        engine.hear({"op": "text", "id": 2, "tokens": [5, 6, 7]})
        assert "text" in heard.answered(2)["done"]
    finally:
        end.set()
        decoding.join()


def test_prompts_are_tokenized_where_requests_are_read(
    engine: Engine, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    inner = Model.tokenize

    def tokenize(model: Model, text: str, **options: Any) -> list[int]:
        threads.append(threading.current_thread().name)
        return inner(model, text, **options)

    monkeypatch.setattr(Model, "tokenize", tokenize)
    ask(engine, 1, n=3, seed=1)
    ask(engine, 2, raw=True, prompt=["Lima is", "Oslo is"], n=2, echo=True, logprobs=1)
    for number in (1, 2):
        assert heard.answered(number)["done"]
    assert threads and all(name.startswith("requests") for name in threads)


def test_a_model_by_itself_and_raw_text_have_it_too(engine: Engine, heard: Heard) -> None:
    ask(engine, 1, role="tuned")
    told = heard.answered(1)["done"]["choices"][0]["eftlocal"]["influence"]
    assert all(token["probability"]["together"] == token["probability"]["tuned"] for token in told)
    ask(engine, 2, raw=True, prompt="The capital of France is", stop=" ", max_tokens=8)
    (choice,) = heard.answered(2)["done"]["choices"]
    told = choice["eftlocal"]["influence"]
    assert "".join(token["token"] for token in told).startswith(choice["text"])
    ask(engine, 3, raw=True, prompt="The capital of France is", echo=True, max_tokens=0)
    assert heard.answered(3)["done"]["choices"][0]["eftlocal"]["influence"] == []


def test_what_cannot_be_scored_is_an_error_of_this_request(
    engine: Engine, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EftlocalError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr("eftlocal.server.engine.scored", fail)
        ask(engine, 1)
        assert heard.answered(1)["error"]["message"] == "out of luck"
    ask(engine, 2)
    assert heard.answered(2)["done"]["choices"][0]["eftlocal"]["influence"]


def test_too_much_at_once(engine: Engine, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eftlocal.server.reading.MAX_TOLD", 40 * 6)
    ask(engine, 1, logprobs=True, top_logprobs=5)
    assert heard.answered(1)["done"]
    ask(engine, 2, logprobs=True, top_logprobs=5, n=2)
    assert "up to 480 tokens would be told" in heard.answered(2)["error"]["message"]
    ask(engine, 3, raw=True, prompt="Lima is", echo=True, logprobs=5, max_tokens=40)
    assert "ask for fewer answers" in heard.answered(3)["error"]["message"]


def test_batches_refuse_it_by_name_and_the_server_takes_it() -> None:
    with pytest.raises(EftlocalError, match=r"influence: the server tells it"):
        read_request({"prompt": "Hi", "influence": True}, defaults=RequestDefaults())
    body = ChatBody.model_validate({"messages": QUESTION, "influence": True})
    assert body.influence and "influence" not in body.asked()
    with pytest.raises(ValueError, match="influence"):
        ChatBody.model_validate({"messages": QUESTION, "influence": "yes"})
