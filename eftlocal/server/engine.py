"""The models of one preset in a process of their own: requests come as JSON lines, answers go as
lines.

    {"op": "answer", "id": 1, "body": {...}, "raw": false, "role": "", "stream": true,
     "influence": false, "client": ["address", "user"]}
    {"op": "cancel", "id": 1}                       {"op": "state", "id": 4}
    {"op": "tokens", "id": 2, "text": "..."}        {"op": "text", "id": 3, "tokens": [1, 2]}

Each gets lines with its id, `[id, kind, counts]`, a tab, and JSON that the parent passes on unread:
chunks of a stream, and last what is done or an error. What crashes here takes nothing with it but
the answers that were being made.

Three kinds of threads: the one of the dispatcher decodes; a few read requests and write whole
answers, since a constraint may take seconds to compile and a long prompt some time to tokenize; and
the main one only hands on and cancels.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from eftlocal.answer import Answer
from eftlocal.batch.completion_body import completion_body, speculation_of, usage_of
from eftlocal.dispatcher import Dispatcher, Errand, Ticket
from eftlocal.emulator import Emulator
from eftlocal.errors import (
    AnswerError,
    EftlocalError,
    EngineError,
    PromptError,
    TooLongError,
    UsageError,
)
from eftlocal.generation import Step
from eftlocal.llama.guide import Guide
from eftlocal.prompt.reader import ReadPrompt
from eftlocal.request import Request
from eftlocal.server.chunks import ChoiceChunks
from eftlocal.server.errors import CONTEXT_LENGTH
from eftlocal.server.influence import influence_of, scored
from eftlocal.server.reading import Reading
from eftlocal.sources import Sources
from eftlocal.study.inspection import Inspection
from eftlocal.thinking import Marks

PREFILL = 256  # tokens of prompts between two rounds: a long one holds up nobody for long
_READERS = 4  # threads that read requests
_TELLERS = 2  # that tell answers: no end waits for a request that takes long to read


class Lines:
    """Lines to the parent, from any thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._lock = out, threading.Lock()

    def __call__(self, said: Mapping[str, Any]) -> None:
        """A line while the models are loaded."""
        self._write(_json(said) + b"\n")

    def reply(self, number: int, kind: str, data: Mapping[str, Any], **counts: Any) -> None:
        """A line of the answer to a request."""
        self._write(_json([number, kind, counts]) + b"\t" + _json(data) + b"\n")

    def _write(self, line: bytes) -> None:
        try:
            with self._lock:
                self._out.write(line)
                self._out.flush()
        except BrokenPipeError:  # nobody is there any more
            os._exit(0)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


@dataclass(eq=False)
class Answering:
    """One request: its answers in the making.

    Attributes:
        head: what all its chunks begin with, and its whole answer.
    """

    said: Mapping[str, Any]
    request: Request | None = None
    head: dict[str, Any] = field(default_factory=dict)
    tickets: list[Ticket] = field(default_factory=list)
    errands: list[Errand] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    influence: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def told(self, index: int) -> dict[str, Any]:
        """What is told of an answer beside what was made with it."""
        return {"influence": self.influence[index]} if index in self.influence else {}


class Engine:
    """Answers requests over one emulator.

    Args:
        emulator: with no stream open.
        sources: that it was loaded from.
        say: sends a line.
    """

    def __init__(self, emulator: Emulator, sources: Sources, say: Lines) -> None:
        self._emulator, self._say = emulator, say
        self._dispatcher = Dispatcher(emulator, prefill=PREFILL)
        self._reading = Reading(emulator, sources)
        self._lock = threading.Lock()  # of what is being answered
        self._answering: dict[int, Answering] = {}
        self._readers = ThreadPoolExecutor(_READERS, "requests")
        self._tellers = ThreadPoolExecutor(_TELLERS, "tellers")

    def close(self) -> None:
        """Ends what is running."""
        self._dispatcher.close()
        self._readers.shutdown()
        self._tellers.shutdown()

    def hear(self, said: Mapping[str, Any]) -> None:
        """Does what a line asks for, in another thread if it may take time."""
        number = int(said["id"])
        if said["op"] == "cancel":
            self._end(number)
            return
        if said["op"] == "state":
            found = self._dispatcher.active, self._dispatcher.waiting, len(self._answering)
            state = dict(zip(("processing", "deferred", "open"), found, strict=True))
            self._say.reply(number, "done", state)
            return
        with self._lock:
            self._answering[number] = Answering(said)
        self._readers.submit(self._obey, number, said)

    def _obey(self, number: int, said: Mapping[str, Any]) -> None:
        try:
            if said["op"] == "answer":
                self._answer(number)
            else:
                found = self._tokens(said) if said["op"] == "tokens" else self._text(said)
                if self._end(number) is not None:
                    self._say.reply(number, "done", found)
        except EftlocalError as error:
            self._fail(number, error)
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and nobody waits
            self._fail(number, _broken(error))

    def _answer(self, number: int) -> None:
        if (one := self._answering.get(number)) is None:
            return  # it was cancelled
        said = one.said
        one.request = request = self._reading.request(said)
        one.head = self._head(request, said)
        prompts = {id(prompt): self._reading.prompt(prompt, request) for prompt in request.prompts}
        for index, (prompt, options) in enumerate(request.calls(secrets.randbelow(2**32))):
            tell = self._stream(number, one, index) if said["stream"] else None
            on_end = partial(self._ended, number, index, tell)
            on_step = tell.add if tell else _unheard
            owners = (*said["client"], number)
            one.tickets.append(Ticket(prompts[id(prompt)], options, on_step, on_end, owners))
        if request.constraint is not None:  # compiled here, and then known
            Guide(self._emulator.text_model, request.constraint).close()
        with self._lock:
            if self._answering.get(number) is one:
                for ticket in one.tickets:
                    self._dispatcher.submit(ticket)

    def _stream(self, number: int, one: Answering, index: int) -> ChoiceChunks:
        assert one.request is not None

        def send(choice: Mapping[str, Any]) -> None:
            self._say.reply(number, "chunk", {**one.head, "choices": [choice]})

        def marks() -> Marks | None:
            call = one.tickets[index].call
            return call.stream.marks if call and call.stream else None

        name = one.said["name"]
        return ChoiceChunks(index, one.request, self._emulator.text_model.piece, send, name, marks)

    def _head(self, request: Request, said: Mapping[str, Any]) -> dict[str, Any]:
        kind = "text_completion" if request.raw else "chat.completion.chunk"
        return {
            "id": f"{'cmpl' if request.raw else 'chatcmpl'}-{said['name']}",
            "object": kind,
            "created": int(time.time()),
            "model": said["model"],
        }

    def _ended(
        self,
        number: int,
        index: int,
        chunks: ChoiceChunks | None,
        answer: Answer | None,
        error: EftlocalError | None,
    ) -> None:
        """Called by the dispatcher; what takes time is done elsewhere."""
        if answer is None:
            self._fail(number, error or EngineError("the answer was lost"))
            return
        if (one := self._answering.get(number)) is None:
            return
        tell = partial(self._tell_answer, number, one, index, chunks, answer)
        if not (one.said["influence"] and answer.tokens):
            self._tellers.submit(tell, None)
            return

        def on_end(found: Inspection | None, wrong: EftlocalError | None) -> None:
            if found is None:
                self._fail(number, wrong or EngineError("the influence was lost"))
            else:
                self._tellers.submit(tell, found)

        ticket = one.tickets[index]
        assert isinstance(ticket.prompt, ReadPrompt)
        work = partial(scored, self._emulator, ticket.prompt, ticket.options["recipe"], answer)
        errand = Errand(work, on_end, ticket.owners)
        with self._lock:
            if self._answering.get(number) is one:
                one.errands.append(errand)
                self._dispatcher.submit(errand)

    def _tell_answer(
        self,
        number: int,
        one: Answering,
        index: int,
        chunks: ChoiceChunks | None,
        answer: Answer,
        found: Inspection | None,
    ) -> None:
        """Tells the end of one answer, and of its request where that was the last one."""
        try:
            if one.said["influence"]:
                one.influence[index] = influence_of(found, answer) if found else []
            if chunks is not None:
                chunks.end(answer, one.told(index))
            with self._lock:
                one.answers[index] = answer
                all_here = len(one.answers) == len(one.tickets)
            if all_here:
                self._whole(number)
        except Exception as error:  # noqa: BLE001 - as in _obey
            self._fail(number, _broken(error))

    def _whole(self, number: int) -> None:
        """Tells the whole of an answer; of one that was streamed its usage alone."""
        if (one := self._end(number)) is None or one.request is None:
            return
        try:
            answers = [one.answers[i] for i in range(len(one.tickets))]
            usage = usage_of(answers, one.request.n)
            body: dict[str, Any] = {**one.head, "choices": [], "usage": usage}
            if not one.said["stream"]:
                body = completion_body(
                    one.request,
                    answers,
                    id=one.said["name"],
                    created=one.head["created"],
                    model=one.head["model"],
                    piece=self._emulator.text_model.piece,
                    recipe=one.request.recipe or self._emulator.defaults.recipe,
                )
            for choice in body["choices"]:
                choice["eftlocal"] |= one.told(choice["index"])
            self._say.reply(number, "done", body, **_counts(answers, usage))
        except Exception as error:  # noqa: BLE001 - as in _obey
            self._tell(number, one, _broken(error))

    def _end(self, number: int) -> Answering | None:
        """Ends a request here; None where it has ended."""
        with self._lock:
            one = self._answering.pop(number, None)
            for ticket in one.tickets if one else ():
                self._dispatcher.cancel(ticket)
            for errand in one.errands if one else ():
                self._dispatcher.cancel(errand)
            return one

    def _fail(self, number: int, error: EftlocalError) -> None:
        """Tells why a request has no answer, once; its other answers end."""
        if (one := self._end(number)) is not None:
            self._tell(number, one, error)

    def _tell(self, number: int, one: Answering, error: EftlocalError) -> None:
        status = 400 if isinstance(error, (UsageError, PromptError, AnswerError)) else 500
        said = {"status": status, "message": str(error)}
        if isinstance(error, TooLongError):
            said |= {"code": CONTEXT_LENGTH, "param": "prompt" if one.said["raw"] else "messages"}
        self._say.reply(number, "error", said)

    def _tokens(self, said: Mapping[str, Any]) -> dict[str, Any]:
        model = self._emulator.text_model
        text, special = str(said["text"]), bool(said["special"])
        tokens = model.tokenize(text, add_bos=bool(said["bos"]), parse_special=special)
        return {"tokens": tokens}

    def _text(self, said: Mapping[str, Any]) -> dict[str, Any]:
        size = self._emulator.ensemble.vocab_size
        tokens = [int(token) for token in said["tokens"]]
        outside = next((t for t in tokens if not 0 <= t < size), None)
        if outside is not None:
            raise PromptError(f"tokens: {outside} is no token; they are 0 to {size - 1}")
        data = b"".join(self._emulator.text_model.piece(token, special=True) for token in tokens)
        return {"text": data.decode("utf-8", "replace")}


def _unheard(step: Step) -> None:
    """Of an answer that comes whole."""


def _broken(error: Exception) -> EngineError:
    traceback.print_exception(error)
    return EngineError(f"the server itself failed: {type(error).__name__}: {error}")


def _counts(answers: Sequence[Answer], usage: Mapping[str, Any]) -> dict[str, Any]:
    """What the metrics count of a request."""
    drafts = [speculation_of(answer) for answer in answers]
    return {
        "prompt": usage["prompt_tokens"],
        "reused": usage["prompt_tokens_details"]["cached_tokens"],
        "predicted": usage["completion_tokens"],
        "first": [answer.timing.first_token for answer in answers],
        **{name: sum(one[name] for one in drafts) for name in ("drafted", "accepted", "rounds")},
    }
