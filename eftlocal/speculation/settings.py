"""What a caller may say about speculation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eftlocal.errors import UsageError
from eftlocal.speculation.rules import RULES

MAX_DRAFT = 16  # tokens; measured costs reach one row more

SOURCES = ("auto", "model", "lookup")


@dataclass(frozen=True)
class Speculation:
    """How drafts are made and accepted. They change the speed, never the distribution.

    Attributes:
        length: tokens of a draft, 0 to 16; 0 is no speculation. None chooses it before every
            draft, from the measured costs of this machine and the acceptance so far.
        rule: "coupled" (a seed gives the same text at every length) or "rejection".
        source: "model" drafts with the recipe's tuned model, "lookup" with what followed the last
            tokens earlier in the conversation (prompt lookup), "auto" with what measures faster.

    Raises:
        UsageError: a value is not one of these.
    """

    length: int | None = None
    rule: Literal["coupled", "rejection"] = "coupled"
    source: Literal["auto", "model", "lookup"] = "auto"

    def __post_init__(self) -> None:
        length = self.length
        whole = isinstance(length, int) and not isinstance(length, bool)
        if length is not None and not (whole and 0 <= length <= MAX_DRAFT):
            raise UsageError(f"draft length {length!r}: use auto, off, or 1 to {MAX_DRAFT}")
        if self.rule not in RULES:
            raise UsageError(f"acceptance rule {self.rule!r}: use one of {', '.join(RULES)}")
        if self.source not in SOURCES:
            raise UsageError(f"draft source {self.source!r}: use one of {', '.join(SOURCES)}")

    @property
    def off(self) -> bool:
        return self.length == 0


def parse_length(text: str) -> int | None:
    """A draft length from its written form: `auto`, `off`, or a number of tokens.

    Raises:
        UsageError: it is none of these.
    """
    if text in ("auto", "off"):
        return None if text == "auto" else 0
    if not text.isascii() or not text.isdigit() or int(text) > MAX_DRAFT:
        raise UsageError(f"--speculative {text}: use auto, off, or 1 to {MAX_DRAFT}")
    return int(text)


OFF = Speculation(length=0)
