"""What a setting's values are: numbers in a range, words, text, lists, and how each is refused.

Beyond the ranges of settings float32 loses count: a weight or temperature of 1e39 ends in inf
and NaN.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from eftlocal.errors import UsageError
from eftlocal.json_text import TextError, parse_json
from eftlocal.terminal_text import shown

OFF: Final = "off"
Off = Literal["off"]

REST: Final = "*"  # in values by role: that of the roles which are not named
NEVER: Final = object()  # for what a number cannot be
INT32: Final = 2**31 - 1  # llama.cpp's numbers: what is larger would wrap around


class RefusedError(ValueError):
    """What a value is, and what it must be.

    Attributes:
        where: the place inside of a list or mapping, as in [2]; else empty.
    """

    where = ""

    def __init__(self, value: Any, rule: str, why: str = "") -> None:
        super().__init__(why or f"is {shown(value)}; it must be {rule}")
        self.value, self.rule = value, rule

    def told(self, name: str) -> str:
        """The line that says it of what has this name."""
        return f"{name}{self.where} {self}"


class Kind:
    """What a setting's values are.

    Attributes:
        rule: in words, after "it must be".
        metavar: how help shows a value; empty where there is none.
    """

    rule: str
    metavar: str = "<text>"

    def read(self, value: Any) -> Any:
        """The value that the program works with; a RefusedError where it is none."""
        raise NotImplementedError

    def given(self, value: Any) -> Any:
        """As `read`, but a word such as off stays as it was written."""
        return self.read(value)

    def parse(self, text: str) -> Any:
        """As `given`, from text that a person wrote."""
        return self.given(text)

    def checked(self, name: str, value: Any) -> Any:
        """As `read`; what is refused is a UsageError that begins with the name."""
        try:
            return self.read(value)
        except RefusedError as error:
            raise UsageError(error.told(name)) from None

    def refuse(self, value: Any) -> RefusedError:
        return RefusedError(value, self.rule)


@dataclass(frozen=True)
class Range(Kind):
    """The values of one number.

    Attributes:
        least, most: the ends of the range. `above` leaves out the first, `below` the last.
        off: the value that switches the dial off, also written as the word `off`.
        auto: the value that leaves the choice to the program, also written as the word `auto`.
        whole: whole numbers only.
        switch: in Python, False is off and True is auto.
    """

    least: float
    most: float
    off: Any = NEVER
    auto: Any = NEVER
    above: bool = False
    below: bool = False
    whole: bool = False
    switch: bool = False

    @property
    def words(self) -> dict[str, Any]:
        """The words that may stand for a number, and what they mean."""
        words = {"auto": self.auto, OFF: self.off}
        return {word: value for word, value in words.items() if value is not NEVER}

    @property
    def rule(self) -> str:  # type: ignore[override]
        kind = "a whole number" if self.whole else "a number"
        least, most = (int(e) if self.whole else f"{e:g}" for e in (self.least, self.most))
        range_ = f"{kind} from {least} to {most}"
        if self.above:
            range_ = f"{kind} above {least} and at most {most}"
        elif self.below:
            range_ = f"{kind} of {least} or more and below {most}"
        elif self.most >= INT32:
            range_ = f"{kind}, {least} or more"
        words = " or ".join(self.words)
        return f"{range_}, {'or ' * (len(self.words) == 1)}{words}" if words else range_

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"<{'|'.join(['number', *self.words])}>"

    def read(self, value: Any) -> Any:
        """The value as a float or an int; what a word means where it is one.

        Any real number is taken, numpy's too; never a bool.
        """
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if value is None and None in (self.off, self.auto):
            return None
        if self.switch and (value is False or (value is True and self.auto is not NEVER)):
            return self.auto if value else self.off
        kind: Any = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, kind) and not isinstance(value, bool):
            if value == self.off:  # may lie outside: no clipping is inf
                return self.off
            # Compared before it is converted: an int may be too large for a float.
            if (
                self.least <= value <= self.most
                and not (self.above and value == self.least)
                and not (self.below and value == self.most)
            ):
                return int(value) if self.whole else float(value)
            if value > self.most >= INT32:
                raise RefusedError(value, f"{int(self.most)} or less")
        raise self.refuse(value)

    def given(self, value: Any) -> Any:
        if isinstance(value, bool):  # a switch is one in Python only
            raise self.refuse(value)
        found = self.read(value)
        return value if isinstance(value, str) else found

    def parse(self, text: str) -> Any:
        return self.given(number(text))


@dataclass(frozen=True)
class Choice(Kind):
    """One of several words."""

    choices: tuple[str, ...]

    @property
    def rule(self) -> str:  # type: ignore[override]
        return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"<{'|'.join(self.choices)}>"

    def read(self, value: Any) -> str:
        if isinstance(value, str) and value in self.choices:
            return value
        raise self.refuse(value)


@dataclass(frozen=True)
class Switch(Choice):
    """On, off, or left to the program; true and false are on and off."""

    choices: tuple[str, ...] = ("auto", "on", OFF)

    def read(self, value: Any) -> str:
        return super().read(("on" if value else OFF) if isinstance(value, bool) else value)


@dataclass(frozen=True)
class Flag(Kind):
    rule: str = "true or false"
    metavar: str = ""

    def read(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise self.refuse(value)

    def parse(self, text: str) -> bool:
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, OFF: False}
        return self.read(words.get(text.lower(), text))


@dataclass(frozen=True)
class Text(Kind):
    """Text that UTF-8 can hold.

    Attributes:
        least, most: characters of it.
    """

    rule: str = "a string"
    least: int = 0
    most: int = INT32

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not self.least <= len(value) <= self.most:
            raise self.refuse(value)
        try:
            value.encode()
        except UnicodeEncodeError:
            why = "is not valid text: it holds an unpaired surrogate"
            raise RefusedError(value, self.rule, why) from None
        return value


_ENDPOINT = re.compile(r"(?P<host>[\w.-]+):(?P<port>\d{1,5})", re.ASCII)


@dataclass(frozen=True)
class Endpoint(Text):
    """Where a worker listens."""

    rule: str = "host:port, as in 192.168.1.5:50052"

    def read(self, value: Any) -> str:
        text = super().read(value)
        found = _ENDPOINT.fullmatch(text)
        if found and 0 < int(found["port"]) < 1 << 16:
            return text
        if text.count(":") > 1 and "/" not in text:
            why = f"is {shown(value)}; llama.cpp's RPC speaks IPv4 only: give a name or its address"
            raise RefusedError(value, self.rule, why)
        raise self.refuse(value)


def _inside(place: object, part: Any, read: Callable[[Any], Any]) -> Any:
    """The value of a part of a list or mapping; a refusal names its place."""
    try:
        return read(part)
    except RefusedError as refused:
        refused.where = f"[{place}]{refused.where}"
        raise


@dataclass(frozen=True)
class Texts(Kind):
    """A list of strings; on the command line, an option that may be repeated.

    separator: where there is one, a text stands for the strings between it, and off for none.
    """

    rule: str = "a list of strings"
    each: Text = field(default_factory=Text)
    most: int = INT32
    separator: str = ""

    def read(self, value: Any) -> tuple[str, ...]:
        if self.separator and isinstance(value, str):
            value = [] if value == OFF else value.split(self.separator)
        is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        if not is_list or len(value) > self.most:
            raise self.refuse(value)
        return tuple(_inside(i, part, self.each.read) for i, part in enumerate(value))

    def parse(self, text: str) -> tuple[str, ...]:
        return self.read(text if self.separator else [text])


@dataclass(frozen=True)
class File(Kind):
    """A file's name, for the command line."""

    rule: str = "the name of a file"
    metavar: str = "<file>"

    def read(self, value: Any) -> str:
        if "\0" in (found := Text(self.rule, least=1).read(value)):
            raise self.refuse(value)
        return found


@dataclass(frozen=True)
class Variables(Kind):
    """Names with JSON values."""

    rule: str = "an object with a value for each name"
    metavar: str = "<json>"

    def read(self, value: Any) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        raise self.refuse(value)

    def parse(self, text: str) -> Mapping[str, Any]:
        try:
            return self.read(parse_json(text))
        except TextError as error:
            raise RefusedError(text, self.rule, f"is {error}") from None


@dataclass(frozen=True)
class Lambda(Kind):
    """A number, or one for each role: a mapping, or text such as warm=0.3,plain=0.7."""

    each: Range
    rule: str = "a number, or one for each tuned role, as in tuned=0.3,plain=0.7"
    metavar: str = "<number|role=number,...>"

    def read(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.parse(value)
        if isinstance(value, Mapping):
            return {role: _inside(role, number, self.each.read) for role, number in value.items()}
        if not isinstance(value, numbers.Number):
            raise self.refuse(value)
        return self.each.read(value)

    def parse(self, text: str) -> Any:
        if "=" in text:
            return text  # the recipe reads it
        return self.each.parse(text)


@dataclass(frozen=True)
class ByRole(Kind):
    """A value of all roles, or of some: a mapping, or text such as base=yarn,tuned=none.

    In yarn,base=none the first is that of the other roles; in a mapping its key is REST.
    """

    each: Kind

    @property
    def rule(self) -> str:  # type: ignore[override]
        return f"{self.each.rule}; or by role, as in base=..."

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"{self.each.metavar[:-1]}|role=...>"

    @property
    def words(self) -> tuple[str, ...]:
        """What the shell may complete."""
        return self.each.choices if isinstance(self.each, Choice) else ()

    def read(self, value: Any) -> Any:
        if isinstance(value, str) and "=" in value:
            parts = [part if "=" in part else f"{REST}={part}" for part in _ROLE.split(value)]
            pairs = [part.partition("=") for part in parts]
            if not all(role.strip() and text for role, _, text in pairs):
                raise self.refuse(value)
            found = {r.strip(): _inside(r.strip(), text, self.each.parse) for r, _, text in pairs}
            if len(found) < len(parts):
                raise RefusedError(value, self.rule, f"is {shown(value)}: it names a role twice")
            value = found
        if isinstance(value, Mapping):
            return {role: _inside(role, one, self.each.read) for role, one in value.items()}
        return self.each.read(value)

    def parse(self, text: str) -> Any:
        return self.read(text) if "=" in text else self.each.parse(text)


_ROLE = re.compile(r",(?=[^,]*=)")  # the comma before a role's name


def for_role(value: Any, role: str) -> Any:
    """What a value of a `ByRole` kind says of a role; None where it says nothing."""
    return value.get(role, value.get(REST)) if isinstance(value, Mapping) else value


def over(value: Any, lower: Any) -> Any:
    """A value of a `ByRole` kind over another, which stands for the roles that this leaves open."""
    if not isinstance(value, Mapping) or REST in value or lower is None:
        return value
    return {**(lower if isinstance(lower, Mapping) else {REST: lower}), **value}


def of_one_role(kind: Kind) -> Kind:
    """The kind of one role's value."""
    return kind.each if isinstance(kind, ByRole) else kind


def number(text: str) -> float | str:
    """A number that a person wrote, a whole one as an int; what is none stays as it is."""
    text = text.strip()
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return text
