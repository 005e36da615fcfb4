"""What each number may be, and what switches it off. Every surface takes its limits from here.

Beyond these ranges a number has no use, and float32 loses count: at a weight of 1e39 or a
temperature of 1e39 the arithmetic of a step ends in inf and NaN.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Final, Literal

from eftlocal.errors import UsageError
from eftlocal.terminal_text import shown

OFF: Final = "off"
Off = Literal["off"]

_NEVER: Final = object()  # for a number that cannot be switched off
_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Range:
    """The values of one number.

    Attributes:
        least, most: the ends of the range. `above` leaves out the first, `below` the last.
        off: the value that switches the dial off, also written as the word `off`.
        whole: whole numbers only.
    """

    least: float
    most: float
    off: Any = _NEVER
    above: bool = False
    below: bool = False
    whole: bool = False

    @property
    def rule(self) -> str:
        """The range in words."""
        kind = "a whole number" if self.whole else "a number"
        least, most = (int(e) if self.whole else f"{e:g}" for e in (self.least, self.most))
        words = f"{kind} from {least} to {most}"
        if self.above:
            words = f"{kind} above {least} and at most {most}"
        elif self.below:
            words = f"{kind} of {least} or more and below {most}"
        return words if self.off is _NEVER else f"{words}, or off"

    def checked(self, name: str, value: Any) -> Any:
        """As `read`; what is refused is a UsageError that begins with the name."""
        try:
            return self.read(value)
        except ValueError as error:
            raise UsageError(f"{name} {error}") from None

    def read(self, value: Any) -> Any:
        """The value as a float or an int; what `off` means where it is the word off.

        Any real number is taken, numpy's too; never a bool.

        Raises:
            ValueError: it is none, or out of range; says what it is and what it must be.
        """
        if self.off is not _NEVER and isinstance(value, str) and value == OFF:
            return self.off
        if value is None and self.off is None:
            return None
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
        raise ValueError(f"is {shown(value)}; it must be {self.rule}")


_SHARE = Range(0.0, 1.0, off=1.0, above=True)
_STRENGTH = Range(-100.0, 100.0)
_PENALTY = Range(-100.0, 100.0, off=0.0)

RANGES: Final[dict[str, Range]] = {
    # of a recipe
    "alpha": _STRENGTH,
    "beta": _STRENGTH,
    "lambda": _STRENGTH,
    "strength": _STRENGTH,
    "weight": Range(-1000.0, 1000.0),  # 1 - alpha - beta reaches 201
    "delta_top_p": _SHARE,
    "plausibility": Range(0.0, 1.0, off=0.0, below=True),
    "delta_clip": Range(0.0, 1000.0, off=math.inf),
    "first_tokens": Range(0, _INT32, off=None, whole=True),
    "unsure_below": _SHARE,
    # of sampling
    "temperature": Range(0.0, 100.0),
    "top_k": Range(0, _INT32, off=0, whole=True),
    "top_p": _SHARE,
    "min_p": Range(0.0, 1.0, off=0.0, below=True),
    "repeat_penalty": Range(0.01, 100.0, off=1.0),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": Range(-1000.0, 1000.0),  # forces a token under any recipe
    "seed": Range(0, 2**63 - 1, off=None, whole=True),
    # of an answer
    "max_tokens": Range(1, _INT32, off=_INT32, whole=True),  # off: as many as the context holds
}

LIMITS: Final = ("delta_top_p", "plausibility", "delta_clip", "first_tokens", "unsure_below")
"""The dials that limit a recipe's delta: the arguments of `Recipe.stabilise`."""

SAMPLING: Final = (
    *("temperature", "top_k", "top_p", "min_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty", "seed"),
)
"""The dials of `Sampling`, all but the biases of single tokens."""


def checked(name: str, value: Any) -> Any:
    """The value of a dial by its name; see `Range.checked`."""
    return RANGES[name].checked(name, value)


def number_or_off(text: str) -> float | Off:
    """What a person wrote for a dial; a whole number stays one. Its range, the dial checks.

    Raises:
        UsageError: it is neither a number nor the word off.
    """
    text = text.strip()
    if text == OFF:
        return OFF
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        raise UsageError(f"{shown(text)} is neither a number nor off") from None
