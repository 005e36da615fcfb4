"""Trios of the models on this machine: a large base, a small tuned model and what that was before.

One vocabulary is proven by `loading.vocabulary`, the memory by `loading.placement`; that a model is
what the tuned one was before is guessed from names, metadata and shapes. A base that has no pair of
its vocabulary is proposed with pairs of others, whose rows are translated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

from eftlocal.errors import EftlocalError
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.header import RECURRENT, Header
from eftlocal.library.guess import BASE, TUNED, Guess, Sure, stem, words
from eftlocal.loading.context_rules import with_contexts
from eftlocal.loading.loader import planned
from eftlocal.loading.roles import file_sources
from eftlocal.loading.translating import divided
from eftlocal.loading.weight_types import bits

_LARGER = 1.5  # times the weights of the tuned model: less is no large base
_ENOUGH = bits("Q8_0")  # more bits of a weight bring the small models nothing that is seen
_TRANSLATED = 2  # trios of a base with pairs of another vocabulary
_MOST_PLANNED = 40  # trios: what is looked at where few fit


@dataclass(frozen=True)
class Trio:
    """Three models that go together.

    Attributes:
        relation: how surely the tuned model was made from the reference.
        needed, free: bytes of the host's memory; `free` is None where it is not known.
    """

    base: Guess
    tuned: Guess
    reference: Guess
    relation: Sure
    needed: int = 0
    free: int | None = None
    fits: bool = True

    @property
    def sure(self) -> Sure:
        """How sure all of it is."""
        return min(self.relation, *(guess.sure for guess in self.roles.values()))

    @property
    def is_translated(self) -> bool:
        """Whether the pair has another vocabulary than the base."""
        return self.base.model.vocabulary != self.tuned.model.vocabulary

    @property
    def roles(self) -> dict[str, Guess]:
        return {"base": self.base, "tuned": self.tuned, "reference": self.reference}

    @property
    def files(self) -> dict[str, Path]:
        return {role: guess.model.path for role, guess in self.roles.items()}


_Read = Callable[[Path], Header]


def trios(
    guesses: Sequence[Guess], most: int, refused: Callable[[str], object] = lambda _: None
) -> tuple[list[Trio], int]:
    """The best trios, the best first: those that fit this machine, then those of one vocabulary,
    then the surest, then those with the largest base; and how many there are.

    Args:
        most: how many are wanted.
        refused: called with the line that says why one cannot be loaded.
    """
    files = _by_identity(guesses)
    possible = sorted(_possible(files), key=_rank)
    fitting: list[Trio] = []
    others: list[Trio] = []
    header_of = cache(checked_model)
    for trio in possible[:_MOST_PLANNED]:
        try:
            trio = _best(trio, files, header_of)
        except EftlocalError as error:
            refused(str(error))
            continue
        (fitting if trio.fits else others).append(trio)
        if len(fitting) == most:
            break
    return [*fitting, *others][:most], len(possible)


def _rank(trio: Trio) -> tuple[object, ...]:
    sizes = (-guess.model.parameters for guess in (trio.base, trio.tuned))
    return (
        trio.is_translated,
        -trio.sure,
        *sizes,
        trio.base.name,
        trio.tuned.name,
        trio.reference.name,
    )


def _possible(files: Mapping[object, Sequence[Guess]]) -> Iterator[Trio]:
    """Every trio of models, each with the first of its files."""
    of_vocabulary: dict[int, list[Guess]] = defaultdict(list)
    for first, *_ in files.values():
        of_vocabulary[first.model.vocabulary].append(first)
    pairs = [pair for members in of_vocabulary.values() for pair in _pairs(members)]
    for base in (first for first, *_ in files.values()):
        found = [Trio(base, *pair) for pair in pairs if _is_base(base, *pair[:2])]
        own = [trio for trio in found if not trio.is_translated]
        yield from own or sorted(found, key=_rank)[:_TRANSLATED]


def _by_identity(guesses: Sequence[Guess]) -> dict[object, list[Guess]]:
    """The files of each model, the largest first."""
    found: dict[object, list[Guess]] = defaultdict(list)
    for guess in sorted(guesses, key=lambda g: (-g.model.nbytes, str(g.model.path))):
        found[guess.identity].append(guess)
    return found


def _pairs(members: Sequence[Guess]) -> Iterator[tuple[Guess, Guess, Sure]]:
    """Each tuned model with what is most surely its reference, and how surely."""
    for tuned in (guess for guess in members if guess.kind == TUNED):
        others = [g for g in members if g is not tuned and g.model.shape == tuned.model.shape]
        rated = [(other, sure) for other in others if (sure := _relation(other, tuned)) is not None]
        best = max((sure for _, sure in rated), default=None)
        likely = [(tuned, other, sure) for other, sure in rated if sure == best]
        if best != Sure.UNSURE or len(likely) == 1:  # of many of one shape, nothing tells which
            yield from likely


def _relation(other: Guess, tuned: Guess) -> Sure | None:
    """How surely a model of the same shape is what the tuned one was before; None: it is not."""
    source = words(tuned.model.made_from)
    if source and source in map(words, other.model.names):
        return Sure.SURE  # which may be tuned itself
    if other.kind != BASE:
        return None
    if other.stems & {*tuned.stems, stem(source)}:
        return Sure.SURE
    within = any(one <= whole for one in other.stems for whole in tuned.stems)
    return Sure.LIKELY if within else Sure.UNSURE


def _is_base(base: Guess, tuned: Guess, reference: Guess) -> bool:
    """Whether a model is large, and of the reference's kind; a tuned one is of its family too.

    Rows of a recurrent model are not translated: it cannot take tokens back.
    """
    kin = reference.kind == BASE or base.family == reference.family
    large = base.model.parameters >= _LARGER * tuned.model.parameters
    one = base.model.vocabulary == tuned.model.vocabulary
    possible = one or tuned.model.shape[0] not in RECURRENT
    return kin and large and possible and base.kind == reference.kind


def _best(trio: Trio, files: Mapping[object, Sequence[Guess]], header_of: _Read) -> Trio:
    """The files to take: the most precise base that fits, and small ones of one type.

    Raises:
        EftlocalError: they cannot be loaded together.
    """
    small = product(files[trio.tuned.identity], files[trio.reference.identity])
    tuned, reference = max(small, key=_precision)
    for base in files[trio.base.identity]:
        trio = replace(trio, base=base, tuned=tuned, reference=reference)
        headers = {role: header_of(path) for role, path in trio.files.items()}
        sources = with_contexts(file_sources(trio.files), headers)
        divided(headers, sources)
        plan = planned(sources, headers, force=True)
        trio = replace(trio, needed=plan.needed, free=plan.host_free, fits=plan.fits)
        if trio.fits:
            break
    return trio


def _precision(pair: tuple[Guess, Guess]) -> tuple[bool, float, int]:
    tuned, reference = (guess.model for guess in pair)
    least = min(bits(tuned.type), bits(reference.type), _ENOUGH)
    return tuned.type == reference.type, least, -tuned.nbytes - reference.nbytes
