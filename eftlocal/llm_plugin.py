"""A plugin of Simon Willison's `llm`: every preset whose files are on this machine is a model.

    llm -m eftlocal/demo -o beta 1.5 "In which country is Toulouse?"

Only `llm` imports this. An emulator is loaded at its first prompt and kept for those that follow.
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import click
import llm
from llm.parts import ReasoningPart, TextPart
from pydantic import BeforeValidator, Field, WithJsonSchema, create_model
from pydantic_core import PydanticCustomError

from eftlocal import hub
from eftlocal.errors import EftlocalError, PromptError
from eftlocal.kinds import RefusedError
from eftlocal.presets.reading import load_presets
from eftlocal.request_fields import FIELDS
from eftlocal.server.bodies import field_schema
from eftlocal.settings import BODY, SETTINGS

if TYPE_CHECKING:
    from eftlocal.answer import Answer
    from eftlocal.emulator import Emulator

_NAMES = (
    *(name for name, s in SETTINGS.items() if BODY in s.where and name != "special"),
    *("regex", "grammar", "lark"),
)


def _read(name: str) -> Callable[[Any], Any]:
    """Reads an option's value: from a command line text, from Python anything."""
    kind = FIELDS[name]

    def read(value: Any) -> Any:
        try:
            return kind.parse(value) if isinstance(value, str) else kind.given(value)
        except RefusedError as refused:
            raise PydanticCustomError("refused", "{line}", {"line": refused.told(name)}) from None

    return read


def _option(name: str) -> Any:
    about = SETTINGS[name].help if BODY in SETTINGS[name].where else f"{FIELDS[name].rule}."
    about = about.removesuffix(" Repeatable.")  # of one name llm keeps the last
    kind = Annotated[Any, BeforeValidator(_read(name)), WithJsonSchema(field_schema(FIELDS[name]))]
    return kind, Field(None, description=about)


_made: Any = {name: _option(name) for name in _NAMES}
_Options = create_model("_Options", __base__=llm.Model.Options, **_made)


class _RefusedError(llm.ModelError, click.ClickException):
    """What llm shows as one line, in `llm chat` too."""


class _Preset:
    """A preset, loaded when it is first needed; what its two models share."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._emulator: Emulator | None = None
        self._lock = threading.Lock()

    def call(self, prompt: llm.Prompt) -> tuple[Emulator, Any, dict[str, Any]]:
        """The emulator, with what its `stream` is to be given.

        Raises:
            EftlocalError: it cannot be loaded, or the prompt or an option is refused.
        """
        from eftlocal.request import RequestDefaults, read_request

        emulator = self._loaded()
        body = {"messages": _messages(prompt), **prompt.options.model_dump(exclude_none=True)}
        if prompt.schema:
            body["json_schema"] = prompt.schema
        defaults = RequestDefaults(emulator.defaults, roles=emulator.roles)
        request = read_request(body, defaults=defaults, raw=False)
        ((messages, options),) = request.calls(secrets.randbelow(2**32))
        return emulator, messages, options

    def _loaded(self) -> Emulator:
        from eftlocal.sources import Sources

        with self._lock:
            if self._emulator is None:
                self._emulator = Sources.of_preset(self._name, offline=True).load()
                atexit.register(self._emulator.close)
            return self._emulator


def _messages(prompt: llm.Prompt) -> list[dict[str, str]]:
    """The conversation with this prompt at its end, as messages of text."""
    found = []
    for message in prompt.messages:
        if strange := [p for p in message.parts if not isinstance(p, (TextPart, ReasoningPart))]:
            raise PromptError(f"the conversation has a {type(strange[0]).__name__}; only text "
                              "can be read here")  # fmt: skip
        text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        found.append({"role": message.role, "content": text})
    return found


def _tell(response: Any, answer: Answer) -> None:
    """What llm is to keep of an answer beside its text."""
    from eftlocal.batch.completion_body import usage_of

    usage = usage_of([answer])
    response.set_usage(
        input=usage["prompt_tokens"],
        output=usage["completion_tokens"],
        details=usage["prompt_tokens_details"],
    )
    response.response_json = {"finish_reason": answer.finish_reason, "seed": answer.seed}


class _Shared:
    can_stream = True
    supports_schema = True

    def __init__(self, model_id: str, preset: _Preset) -> None:
        self.model_id, self._preset = model_id, preset


class Eftlocal(_Shared, llm.Model):
    """A preset as a model of llm."""

    Options = _Options

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: Any
    ) -> Iterator[str]:
        """The text of the answer as it comes."""
        try:
            emulator, messages, options = self._preset.call(prompt)
            with emulator.stream(messages, **options) as steps:
                for step in steps:
                    yield step.text
            _tell(response, steps.answer())
        except EftlocalError as error:
            raise _RefusedError(str(error)) from None


class AsyncEftlocal(_Shared, llm.AsyncModel):
    """A preset as a model of llm, for asyncio."""

    Options = _Options

    async def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.AsyncResponse, conversation: Any
    ) -> AsyncGenerator[str, None]:
        """The text of the answer as it comes."""
        try:
            emulator, messages, options = await asyncio.to_thread(self._preset.call, prompt)
            async with emulator.astream(messages, **options) as steps:
                async for step in steps:
                    yield step.text
                _tell(response, steps.answer())
        except EftlocalError as error:
            raise _RefusedError(str(error)) from None


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Called by llm as it starts, whatever it is asked for: so nothing is loaded here."""
    try:
        presets = load_presets()
    except EftlocalError as error:  # llm has other models
        sys.stderr.write(f"eftlocal: {error}\n")
        return
    for name, preset in presets.items():
        if all(hub.locate(file) for file in preset.files().values()):
            model_id, shared = f"eftlocal/{name}", _Preset(name)
            register(Eftlocal(model_id, shared), AsyncEftlocal(model_id, shared))
