"""Caches on disk: what the roles hold of one conversation, saved and loaded again.

To the rest of the program a loaded conversation is a slot that holds these tokens, as after an
answer: what a next prompt shares with them is not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import RunningSequence, common
from eftlocal.disk import readable
from eftlocal.errors import EngineError, UsageError
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.state_file import Bound, Entry, Part, StateFile, write


@dataclass(frozen=True)
class SavedState:
    """What a file holds; `str(state)` says it in a line.

    Attributes:
        path: the file.
        tokens: by role, how many it holds; a role that a recipe does not need holds none.
        sizes: by role, bytes of its cache.
        size: bytes of the file.
    """

    path: Path
    tokens: Mapping[str, int]
    sizes: Mapping[str, int]
    size: int

    @property
    def bytes_per_token(self) -> dict[str, float]:
        """By role; of those that hold any."""
        return {role: self.sizes[role] / n for role, n in self.tokens.items() if n}

    def __str__(self) -> str:
        most = max(self.tokens.values(), default=0)
        each = ", ".join(f"{readable(n)} in {role}" for role, n in self.bytes_per_token.items())
        return f"{most:,} tokens, {readable(self.size)}; a token takes {each}"


def held(ensemble: Ensemble, sequence: RunningSequence) -> dict[str, int]:
    """How many tokens each role holds of a sequence, also of one that has ended; 0 where its place
    has been used for something else."""
    tokens = {role: context.tokens(sequence.slot) for role, context in ensemble.contexts.items()}
    for role, prompt in sequence.prompts.items():
        if common(tokens[role], prompt) < min(len(tokens[role]), len(prompt) - 1):
            return dict.fromkeys(tokens, 0)
    return {role: len(of_role) for role, of_role in tokens.items()}


def state_size(ensemble: Ensemble, slot: int) -> int:
    """Bytes that all caches of a slot take in a file, but for its header."""
    return sum(context.state_size(slot) for context in ensemble.contexts.values())


def read(
    ensemble: Ensemble, prompts: Mapping[str, Sequence[int]], recipe: Recipe
) -> RunningSequence:
    """Reads what no cache holds of prompts (token ids by role), all but their last tokens, for the
    recipe's roles. To be called where a slot is free; the sequence given has ended."""
    sequence = ensemble.open(prompts, recipe=recipe, sampling=Sampling(temperature=0.0))
    try:
        while ensemble.prefill(sequence):
            continue
    finally:
        ensemble.close(sequence)
    return sequence


def save(
    ensemble: Ensemble,
    identity: Mapping[str, Bound],
    sequence: RunningSequence,
    path: Path,
    check: Callable[[], object] = lambda: None,
    *,
    durable: bool = True,
) -> SavedState:
    """Writes what the caches hold of a sequence. To be called in `Ensemble.alone`.

    Args:
        sequence: may have ended.
        check: called now and then; what it raises ends the writing, and the old file stays.
        durable: wait until the disk has it.

    Raises:
        UsageError: they hold nothing of it any more, or the file cannot be written.
        EngineError: llama.cpp failed.
    """
    slot, tokens = sequence.slot, held(ensemble, sequence)
    if not any(tokens.values()):
        raise UsageError("there is nothing to save: the caches have been used for something else")
    sizes = {role: context.state_size(slot) for role, context in ensemble.contexts.items()}

    def parts() -> Iterator[Part]:
        for role, context in ensemble.contexts.items():
            yield Part(role, context.tokens(slot), context.state(slot))

    entries = {
        role: Entry(bound=dict(bound), tokens=tokens[role], size=sizes[role])
        for role, bound in identity.items()
    }
    return SavedState(path, tokens, sizes, write(path, entries, parts(), check, durable=durable))


def load(ensemble: Ensemble, identity: Mapping[str, Bound], path: Path) -> SavedState:
    """Reads a file into the free slot that holds least. To be called where one is free.

    Raises:
        UsageError: it is not one of ours, damaged, or bound to something else.
        EngineError: llama.cpp refuses it.
    """
    with StateFile(path) as file:
        file.require(identity)
        contexts = ensemble.contexts
        for role, entry in file.entries.items():
            if entry.tokens > contexts[role].n_ctx or (entry.tokens == 0) != (entry.size == 0):
                raise file.damaged

        def length(slot: int) -> int:
            return sum(len(context.tokens(slot)) for context in contexts.values())

        slot = min(ensemble.free, key=length)
        try:
            for role, ids, state in file.parts():
                size = contexts[role].model.vocab_size
                if ids and not 0 <= min(ids) <= max(ids) < size:
                    raise file.damaged
                contexts[role].set_state(slot, ids, state)
        except BaseException as error:
            for context in contexts.values():
                context.clear(slot)
            if isinstance(error, EngineError):
                raise UsageError(f"{path}: {error}; delete it, and save it again") from error
            raise
        tokens = {role: entry.tokens for role, entry in file.entries.items()}
        sizes = {role: entry.size for role, entry in file.entries.items()}
        return SavedState(path, tokens, sizes, file.size)
