"""How an answer is drafted (`Speculation`), and statistics of its drafts (`Totals`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from eftlocal.kinds import number
from eftlocal.settings import SETTINGS

DraftLength = int | bool | Literal["auto", "off"]


@dataclass(frozen=True)
class Speculation:
    """How drafts are made and accepted. They change the speed, never the distribution.

    Attributes:
        length: tokens of a draft, 0 to 16; 0, False or "off" is no speculation. None, True or
            "auto" chooses it before every draft, from the measured costs of this machine and the
            acceptance so far. Read back, it is a number or None.
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
        length: Any = self.length
        length = number(length) if isinstance(length, str) else length
        length = SETTINGS["speculative"].checked("speculation", length)
        object.__setattr__(self, "length", length)
        for name in ("rule", "source"):
            SETTINGS[f"draft_{name}"].checked(f"draft_{name}", getattr(self, name))

    @property
    def off(self) -> bool:
        return self.length == 0


def read_speculation(given: Speculation | DraftLength | None, default: Speculation) -> Speculation:
    """What a caller gave: itself, the default with another length, or the default (None).

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(given, Speculation):
        return given
    return default if given is None else replace(default, length=cast(Any, given))


OFF = Speculation(length=0)


@dataclass
class Totals:
    """Sums over the rounds of one answer; times are those of whole rounds, also where several
    sequences shared them.

    Attributes:
        rounds: decode rounds, with or without a draft.
        drafts: rounds that had a draft.
        looked_up: drafts that were looked up in the conversation.
        tried: by position in the draft, how many drafted tokens came to be judged.
        accepted: by position in the draft, how many of them were accepted.
        drafted: tokens drafted, judged or not.
        prompt_seconds: decoding in the first round, which takes in the prompt.
        draft_seconds: drafting after that, the drafting models' decodes included.
        verify_seconds: the decodes of the other models.
        combine_seconds: the rest of a round: combining, filters, drawing, accepting.
    """

    rounds: int = 0
    drafts: int = 0
    looked_up: int = 0
    drafted: int = 0
    tried: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    prompt_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    combine_seconds: float = 0.0

    def judged(self, accepted: int, drafted: int, *, looked_up: bool) -> None:
        """Counts one draft: its first `accepted` tokens were accepted, the next was refused."""
        tried = min(accepted + 1, drafted)
        self.drafts += 1
        self.drafted += drafted
        self.looked_up += looked_up
        for counts, times in ((self.tried, tried), (self.accepted, accepted)):
            counts.extend([0] * (drafted - len(counts)))
            for position in range(times):
                counts[position] += 1

    @property
    def acceptance(self) -> float | None:
        """Share of the judged tokens that were accepted; None where none was judged."""
        tried = sum(self.tried)
        return sum(self.accepted) / tried if tried else None

    @property
    def accepted_length(self) -> float:
        """Mean number of accepted tokens of a draft; 0 without drafts."""
        return sum(self.accepted) / self.drafts if self.drafts else 0.0

    @property
    def drafted_length(self) -> float:
        """Mean length of a draft; 0 without drafts."""
        return self.drafted / self.drafts if self.drafts else 0.0
