"""What became of the drafts of one answer, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass, field


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
