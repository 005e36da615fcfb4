"""The bodies of requests, as pydantic models made of the table of fields.

What is refused is told by `request_fields`, in the words that batches use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from eftlocal.errors import EftlocalError
from eftlocal.kinds import Choice, Flag, Kind, Range, Text
from eftlocal.request_fields import FIELDS, IGNORED, read_body, unknown

_STREAM = frozenset(("include_usage", "include_obfuscation"))
_OF_CHAT = FIELDS.keys() - {"prompt", "echo", "raw", "special", "best_of", "model"}
_OF_TEXT = FIELDS.keys() - {"messages", "raw", "chat_template_kwargs", "model"}


class _Asked(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = Field(None, description="Of /v1/models; left out, the first of them.")
    stream: bool | None = Field(None, description="Send the answer as it comes.")
    stream_options: dict[str, bool] | None = Field(
        None, description="include_usage: true sends the tokens' count as a last chunk."
    )
    influence: bool | None = Field(
        None,
        description="Tell how probable each token of the answer is under each model: "
        "`choices[].eftlocal.influence`; of a stream, in the last chunk of an answer.",
    )

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            if data.get("stream") and data.get("echo"):
                raise ValueError("echo: a stream does not repeat its prompt; leave one of them out")
            options = data.get("stream_options")
            for name in options if isinstance(options, Mapping) else ():
                if name not in _STREAM:
                    raise ValueError(f"stream_options: {unknown(name, _STREAM)}")
            try:
                read_body({name: value for name, value in data.items() if name not in OWN})
            except EftlocalError as error:
                raise ValueError(str(error)) from None
        return data

    def asked(self) -> dict[str, Any]:
        """What the engine is to read."""
        return {n: v for n, v in self.model_dump(exclude_unset=True).items() if n not in OWN}


OWN: Mapping[str, str] = {
    name: field.description or "" for name, field in _Asked.model_fields.items()
}
"""Fields that the server itself obeys, and what each does."""


def field_schema(kind: Kind) -> dict[str, Any]:
    """A field for people and their tools; what it must be is checked by the kind itself."""
    if isinstance(kind, Flag):
        return {"type": "boolean", "nullable": True}
    if isinstance(kind, Range):
        number: dict[str, Any] = {"type": "integer" if kind.whole else "number"}
        number |= {"exclusiveMinimum" if kind.above else "minimum": kind.least}
        number |= {"exclusiveMaximum" if kind.below else "maximum": kind.most}
        words = [{"enum": [*kind.words]}] if kind.words else []
        return {"anyOf": [number, *words, {"type": "null"}]}
    if isinstance(kind, Choice):
        return {"enum": [*kind.choices, None]}
    return {"description": kind.rule, **({"type": "string"} if isinstance(kind, Text) else {})}


def _model(name: str, fields: Any, *needed: str) -> type[_Asked]:
    made = {
        field: (
            Annotated[Any, WithJsonSchema(field_schema(FIELDS[field]))],
            ... if field in needed else None,
        )
        for field in FIELDS
        if field in fields
    }
    others = {
        field: (Annotated[Any, WithJsonSchema({"description": f"Ignored: {why}."})], None)
        for field, why in IGNORED.items()
        if field not in OWN
    }
    return create_model(name, __base__=_Asked, **made, **others)  # type: ignore[call-overload, no-any-return]


ChatBody = _model("ChatBody", _OF_CHAT, "messages")
TextBody = _model("TextBody", _OF_TEXT, "prompt")
