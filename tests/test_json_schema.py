"""Schemas of ordinary pydantic models: all are kept, and a model's own JSON fits its schema."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import (
    UUID4,
    AnyUrl,
    Base64Str,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    IPvAnyAddress,
    Json,
    NaiveDatetime,
    NegativeFloat,
    NonNegativeInt,
    PastDate,
    PositiveInt,
    RootModel,
    SecretStr,
    StringConstraints,
    TypeAdapter,
)
from typing_extensions import NotRequired, TypedDict

from eftlocal.constraint import Constraint, schema_text
from eftlocal.errors import UsageError
from eftlocal.json_schema import schema_notes
from eftlocal.llama import Model
from eftlocal.llama.guide import Guide

Short = Annotated[str, StringConstraints(min_length=1, max_length=8)]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}-\d{2,4}$")]


class Colour(enum.Enum):
    red = "red"
    green = "green"


class Level(enum.IntEnum):
    low = 1
    high = 2


class Point(BaseModel):
    x: float = Field(ge=-1.0, le=1.0)
    y: float = Field(gt=0, lt=10)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool = True


class Pets(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class Aliased(BaseModel):
    value: int = Field(alias="the value", description='with "quotes" and \\ signs')


class Odd(BaseModel):
    a: int = Field(alias='a "b" \\ c/~1%25 é\n')
    b: int = Field(3, alias="$ref")
    c: int = Field(4, alias="properties")
    d: Literal[None, True, False, 0, 1, "null", "true", -5] = None
    e: Literal[tuple(f'value {n} é"\\' for n in range(1000))]  # type: ignore[valid-type]


class AnyTree(RootModel[dict[str, "AnyTree"] | list["AnyTree"] | int | None]):
    pass


class Expression(BaseModel):
    op: Literal["+", "-"]
    left: Expression | float
    right: Expression | float


Kind = TypeVar("Kind")


class Chain(BaseModel, Generic[Kind]):
    value: Kind
    rest: Chain[Kind] | None = None


class Wire(TypedDict):
    id: int
    note: NotRequired[str]


DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 23, 59, 59, tzinfo=datetime.timezone.utc)
CASES: list[tuple[Any, Any]] = [
    (int, -12),
    (float, 1.5),
    (bool, True),
    (str, 'é "x" \\ \n'),
    (Short, "abc"),
    (Code, "AB-123"),
    (PositiveInt, 3),
    (NonNegativeInt, 0),
    (NegativeFloat, -0.5),
    (Annotated[int, Field(multiple_of=7)], 21),
    (Annotated[int, Field(ge=10, lt=1000)], 999),
    (Annotated[float, Field(multiple_of=0.25)], 0.75),
    (Annotated[decimal.Decimal, Field(max_digits=6, decimal_places=2)], decimal.Decimal("12.34")),
    (datetime.date, DAY),
    (datetime.datetime, MOMENT),
    (datetime.time, datetime.time(1, 2, 3, tzinfo=datetime.timezone.utc)),
    (datetime.timedelta, datetime.timedelta(hours=1, minutes=2)),
    (PastDate, DAY),
    (uuid.UUID, uuid.UUID(int=7)),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
    (ipaddress.IPv6Address, ipaddress.IPv6Address("::1")),
    (AnyUrl, AnyUrl("https://example.org/a?b=c")),
    (ByteSize, ByteSize(1024)),
    (Literal["a", 1, None], 1),
    (Colour, Colour.green),
    (Level, Level.high),
    (int | str | None, None),
    (list[int], [1, 2]),
    (Annotated[list[Short], Field(min_length=1, max_length=3)], ["a", "b"]),
    (set[Colour], {Colour.red}),
    (frozenset[int], frozenset({3})),
    (tuple[int, str], (1, "a")),
    (tuple[float, ...], (0.5, 1.5)),
    (dict[str, int], {"a": 1}),
    (dict[Code, bool], {"AB-12": True}),
    (dict[Literal["x", "y"], int], {"y": 2}),
    (dict[Colour, int], {Colour.red: 2}),
    (dict[Short, list[int | None]], {"k": [None, 1]}),
    (Point, Point(x=-0.25, y=9.5)),
    (Strict, Strict(a=1)),
    (Open, Open(a=1)),
    (Tree, Tree(name="r", children=[Tree(name="c")])),
    (Pets, Pets(pets=[Cat(kind="cat", lives=9), Dog(kind="dog")])),
    (Aliased, Aliased(**{"the value": 3})),
    (Odd, Odd(**{'a "b" \\ c/~1%25 é\n': 1, "d": "null", "e": 'value 999 é"\\'})),
    (AnyTree, AnyTree.model_validate({"a": [1, None, {"b": []}]})),
    (Expression, Expression(op="+", left=1, right=Expression(op="-", left=2, right=3))),
    (Chain[int], Chain[int](value=1, rest=Chain[int](value=2))),
    (tuple[int, Literal["x"], list[tuple[()]]], (1, "x", [()])),
    (Annotated[int, Field(ge=-(2**63), lt=2**63)], -5),
    (UUID4, uuid.UUID("00000000-0000-4000-8000-00000000000f")),
    (dict[uuid.UUID, datetime.date], {uuid.UUID(int=7): DAY}),
    (dict[datetime.date, list[None]], {datetime.date(2024, 2, 28): [None]}),
    (IPvAnyAddress, ipaddress.IPv4Address("10.0.0.1")),
    (Wire, {"id": 1, "note": "n"}),
    (list[dict[str, Any]], [{"a": [1, None, {"b": "c"}]}]),
    (Any, {"anything": [True]}),
]


def checked(schema: Any) -> Constraint:
    constraint = Constraint("json_schema", schema_text(schema))
    constraint.check()
    return constraint


def guide_of(model: Model, schema: Any) -> Guide:
    return Guide(model, checked(schema))


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model(smollm2, vocab_only=True) as loaded:
        yield loaded


@pytest.mark.parametrize(("kind", "value"), CASES, ids=lambda case: str(case)[:40])
def test_a_models_own_json_fits_its_schema(model: Model, kind: Any, value: Any) -> None:
    adapter = TypeAdapter(kind)
    text = adapter.dump_json(value, by_alias=True).decode()
    schema = adapter.json_schema(mode="serialization")
    with guide_of(model, schema) as guide:
        tokens = model.tokenize(text)
        assert all(guide.allowed(tokens[:i])[token] for i, token in enumerate(tokens)), text
        assert guide.allowed(tokens)[model.eos], text


@pytest.mark.parametrize("kind", [SecretStr, Base64Str, re.Pattern, NaiveDatetime, Json, Path])
def test_the_formats_that_pydantic_invents(kind: Any) -> None:
    checked(TypeAdapter(kind).json_schema())


def test_what_is_not_enforced_is_told() -> None:
    assert schema_notes(schema_text(TypeAdapter(set[int]).json_schema()))
    assert not schema_notes(schema_text(TypeAdapter(list[int]).json_schema()))
    assert not schema_notes('{"const": {"uniqueItems": true}}')


def test_a_schema_without_an_end_says_so(model: Model) -> None:
    with pytest.raises(UsageError, match="JSON schema: no text can follow"):
        guide_of(model, {"$ref": "#"})


@pytest.mark.parametrize("size", [10_000, 200_000])
def test_a_huge_schema_is_refused_at_once(size: int) -> None:
    with pytest.raises(UsageError, match="JSON schema: "):
        checked({"properties": {f"name number {i}": {} for i in range(size)}})


def test_long_chains_of_rules_do_not_end_the_process() -> None:
    """llguidance recurses over references: here, beyond what the usual stack has room for."""
    code = """
import json
from eftlocal.constraint import Constraint
refs = {str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} for i in range(2800)}
schema = {"$ref": "#/$defs/0", "$defs": {**refs, "2800": {"type": "null"}}}
rules = "".join(f'x{i}: "b" x{i + 1}\\n' for i in range(6000))
Constraint("json_schema", json.dumps(schema)).check()
Constraint("lark", "start: x0\\n" + rules + 'x6000: "a"').check()
Constraint("grammar", "root ::= x0\\n" + rules.replace(":", "::=") + 'x6000 ::= "a"').check()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
