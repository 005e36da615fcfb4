"""The models of one preset in a process of their own: requests come as JSON lines, answers go as
lines.

    {"op": "answer", "id": 1, "body": {...}, "raw": false, "role": "", "stream": true,
     "influence": false}
    {"op": "cancel", "id": 1}
    {"op": "tokens", "id": 2, "text": "..."}        {"op": "text", "id": 3, "tokens": [1, 2]}

Each gets lines with its id: {"chunk": {...}}, and last {"body": {...}} or {"error": {...}}. What
crashes here takes nothing with it but the answers that were being made.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import secrets
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from eftlocal.answer import Answer
from eftlocal.batch.completion_body import completion_body, usage_of
from eftlocal.dispatcher import Dispatcher, Ticket
from eftlocal.emulator import Emulator
from eftlocal.errors import EftlocalError, EngineError, PromptError, UsageError
from eftlocal.generation import Step
from eftlocal.logits.recipe import UNGUIDED, Recipe
from eftlocal.prompt.messages import Prompt
from eftlocal.request import Request, RequestDefaults, read_request
from eftlocal.server.chunks import ChoiceChunks
from eftlocal.server.influence import influence_of
from eftlocal.sources import Sources

PREFILL = 256  # tokens of prompts between two rounds: a long one holds up nobody for long


@dataclass(frozen=True)
class Setup:
    """What an engine is started with.

    Attributes:
        parallel: answers at once.
        force: load even where the memory seems too small.
        max_tokens: of an answer that says no limit, and the most that one may ask for; None is as
            many as fit.
    """

    sources: Sources
    parallel: int
    force: bool = False
    max_tokens: int | None = None

    def line(self) -> bytes:
        """For the engine's process, which trusts its parent."""
        return base64.b64encode(pickle.dumps(self)) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Setup:
        setup: Setup = pickle.loads(base64.b64decode(line))
        return setup


class Lines:
    """Lines to the parent, from any thread."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._lock = out, threading.Lock()

    def __call__(self, said: Mapping[str, Any]) -> None:
        data = json.dumps(said, separators=(",", ":")).encode("ascii") + b"\n"
        with self._lock:
            self._out.write(data)
            self._out.flush()


@dataclass(eq=False)
class Answering:
    """One request: its answers in the making."""

    request: Request
    tickets: list[Ticket] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    influence: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failed: bool = False

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

    def __init__(self, emulator: Emulator, sources: Sources, setup: Setup, say: Lines) -> None:
        self._emulator, self._say, self._setup = emulator, say, setup
        self._dispatcher = Dispatcher(emulator, prefill=PREFILL)
        self._defaults = RequestDefaults(
            emulator.defaults,
            roles=emulator.roles,
            vocab_size=emulator.ensemble.vocab_size,
            unguided_by_system=UNGUIDED in emulator.roles and UNGUIDED not in sources.roles,
        )
        self._answering: dict[int, Answering] = {}

    def close(self) -> None:
        """Ends what is running."""
        self._dispatcher.close()

    def obey(self, said: Mapping[str, Any]) -> None:
        """Does what a line asks for; an error is told."""
        number = int(said["id"])
        try:
            if said["op"] == "answer":
                self._answer(number, said)
            elif said["op"] == "cancel":
                self._cancel(number)
            elif said["op"] == "tokens":
                self._say({"id": number, "body": self._tokens(said)})
            else:
                self._say({"id": number, "body": self._text(said)})
        except EftlocalError as error:
            self._fail(number, error)

    def _answer(self, number: int, said: Mapping[str, Any]) -> None:
        request = read_request(said["body"], defaults=self._defaults, raw=said["raw"])
        if said["role"]:
            if request.recipe is not None:
                raise _about_a_model(said["role"])
            request = replace(request, recipe=Recipe.single(said["role"]))
        request = self._limited(request)
        one = self._answering[number] = Answering(request)
        head = self._head(request, said)
        calls = request.calls(secrets.randbelow(2**32))
        for index, (prompt, options) in enumerate(calls):
            tops = request.top_logprobs > 0
            chunks = ChoiceChunks(index, request.raw, request.logprobs, tops, self._emulator.piece)
            if said["stream"] and not request.raw:
                self._say({"id": number, "chunk": {**head, "choices": [chunks.begin()]}})

            def on_step(step: Step, chunks: ChoiceChunks = chunks) -> None:
                if said["stream"] and (choice := chunks.add(step)) is not None:
                    self._say({"id": number, "chunk": {**head, "choices": [choice]}})

            def on_end(
                answer: Answer | None,
                error: EftlocalError | None,
                index: int = index,
                chunks: ChoiceChunks = chunks,
                prompt: Prompt = prompt,
                options: Mapping[str, Any] = options,
            ) -> None:
                if answer is None:
                    self._fail(number, error or EngineError("the answer was lost"))
                    return
                if said["influence"]:  # between two rounds, in the place that the answer left
                    try:
                        told = influence_of(self._emulator, prompt, options, answer)
                    except EftlocalError as wrong:
                        self._fail(number, wrong)
                        return
                    one.influence[index] = told
                if said["stream"]:
                    choice = chunks.end(answer)
                    choice["eftlocal"] |= one.told(index)
                    self._say({"id": number, "chunk": {**head, "choices": [choice]}})
                self._ended(number, index, answer, head)

            one.tickets.append(Ticket(prompt, options, on_step, on_end))
        for ticket in one.tickets:
            self._dispatcher.submit(ticket)

    def _limited(self, request: Request) -> Request:
        most = self._setup.max_tokens
        asked = request.max_tokens
        if most is None or (asked is not None and asked <= most):
            return request
        return replace(request, max_tokens=most)

    def _head(self, request: Request, said: Mapping[str, Any]) -> dict[str, Any]:
        kind = "text_completion" if request.raw else "chat.completion.chunk"
        return {
            "id": f"{'cmpl' if request.raw else 'chatcmpl'}-{said['name']}",
            "object": kind,
            "created": int(time.time()),
            "model": said["model"],
        }

    def _ended(self, number: int, index: int, answer: Answer, head: Mapping[str, Any]) -> None:
        one = self._answering.get(number)
        if one is None or one.failed:
            return
        one.answers[index] = answer
        if len(one.answers) < len(one.tickets):
            return
        del self._answering[number]
        answers = [one.answers[i] for i in range(len(one.tickets))]
        body = completion_body(
            one.request,
            answers,
            id=str(head["id"]).partition("-")[2],
            created=head["created"],
            model=head["model"],
            piece=self._emulator.piece,
            recipe=one.request.recipe or self._emulator.defaults.recipe,
        )
        for choice in body["choices"]:
            choice["eftlocal"] |= one.told(choice["index"])
        usage = {**head, "choices": [], "usage": usage_of(answers, one.request.n)}
        self._say({"id": number, "body": body, "usage": usage})

    def _cancel(self, number: int) -> None:
        one = self._answering.pop(number, None)
        for ticket in one.tickets if one else ():
            self._dispatcher.cancel(ticket)

    def _fail(self, number: int, error: EftlocalError) -> None:
        """Tells why a request has no answer, once; its other answers end."""
        self._cancel(number)
        status = 500 if isinstance(error, EngineError) else 400
        self._say({"id": number, "error": {"status": status, "message": str(error)}})

    def _tokens(self, said: Mapping[str, Any]) -> dict[str, Any]:
        model = self._emulator.text_model
        text, special = str(said["text"]), bool(said["special"])
        tokens = model.tokenize(text, add_bos=bool(said["bos"]), parse_special=special)
        return {"tokens": tokens}

    def _text(self, said: Mapping[str, Any]) -> dict[str, Any]:
        size = self._emulator.ensemble.vocab_size
        tokens = [int(token) for token in said["tokens"]]
        if outside := next((t for t in tokens if not 0 <= t < size), None):
            raise _no_token(outside, size)
        data = b"".join(self._emulator.piece(token, special=True) for token in tokens)
        return {"text": data.decode("utf-8", "replace")}


def _about_a_model(role: str) -> UsageError:
    return UsageError(
        f"model :{role} is one model by itself and has no dials of a recipe; leave them out, or "
        "ask the emulation"
    )


def _no_token(token: int, size: int) -> PromptError:
    return PromptError(f"tokens: {token} is no token; they are 0 to {size - 1}")


def main() -> None:
    """Loads, says so, and answers until stdin ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever native code prints is no line of ours
    say = Lines(out)
    setup = Setup.of_line(sys.stdin.buffer.readline())
    try:
        emulator = setup.sources.load(
            n_seq_max=setup.parallel,
            force=setup.force,
            progress=lambda role, share: say({"progress": [role, share]}),
        )
        if not emulator.defaults.speculation.off:
            emulator.measure()
    except EftlocalError as error:
        say({"failed": str(error)})
        return
    with emulator:
        engine = Engine(emulator, setup.sources, setup, say)
        say({"ready": _facts(emulator)})
        for line in sys.stdin.buffer:
            engine.obey(json.loads(line))
        engine.close()


def _facts(emulator: Emulator) -> dict[str, Any]:
    """What the parent tells of the models without asking again."""
    prompt = emulator.prompts[emulator.text_role]
    return {
        "n_ctx": min(context.n_ctx for context in emulator.ensemble.contexts.values()),
        "vocab_size": emulator.ensemble.vocab_size,
        "roles": list(emulator.roles),
        "recipe": str(emulator.defaults.recipe),
        "bos_token": prompt.bos_token,
        "eos_token": prompt.eos_token,
        "chat_template": prompt.template,
    }


if __name__ == "__main__":
    main()
