"""A file of examples made ready for a model: checked as a whole, split, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eftlocal.errors import PromptError
from eftlocal.loading.roles import RoleSource
from eftlocal.tuning.examples import Example, listed, read_examples, split
from eftlocal.tuning.tokens import Encoded, encode


@dataclass(frozen=True)
class TrainingSet:
    """What a file of examples holds for a model.

    Attributes:
        lines: how many examples and faults.
        trained, held_out: as token ids.
        shown: held-out examples of different prompts.
        faults: each names its line; the rest is empty or incomplete where there are any.
        notes: a line about each thing that was left out or changed.
    """

    lines: int
    trained: Sequence[Encoded]
    held_out: Sequence[Encoded]
    shown: Sequence[Example]
    faults: Sequence[PromptError]
    notes: Sequence[str]

    @property
    def tokens(self) -> int:
        """Of a pass."""
        return sum(len(example.ids) for example in self.trained)


def training_set(
    path: Path, source: RoleSource, *, share: float, longest: int, shown: int = 3
) -> TrainingSet:
    """Reads a file of examples for the role that is to be tuned.

    Args:
        share: of the prompts, held out.
        longest: as in `tokens.encode`.
        shown: examples to show.

    Raises:
        UsageError: the file cannot be read, or has too few prompts.
        PromptError: it holds no example, or the role has no chat template.
        ModelFileError: llama.cpp cannot load the role's file, or it has no end token.
    """
    read = read_examples(path)
    count = len(read.examples) + len(read.faults)
    if read.faults:
        faults = [*read.faults, *encode(source, read.examples, longest=longest).faults]
        return TrainingSet(count, (), (), (), faults, read.notes)
    trained, held_out = split(read.examples, share)
    taught, kept = (encode(source, part, longest=longest) for part in (trained, held_out))
    notes = list(read.notes)
    if cut := sorted((*taught.cut, *kept.cut)):
        notes.append(f"longer than {longest} tokens, so the answer is cut: {listed(cut)}")
    return TrainingSet(
        count,
        taught.encoded,
        kept.encoded,
        list({e.prompt: e for e in held_out}.values())[:shown],
        (*taught.faults, *kept.faults),
        notes,
    )
