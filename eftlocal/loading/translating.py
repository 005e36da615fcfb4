"""Roles whose vocabulary is not the base's: which they are, and what it takes to use them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from eftlocal.errors import EngineError, UsageError, VocabularyError
from eftlocal.gguf_file.header import Header
from eftlocal.kinds import OFF
from eftlocal.llama import Context, Model
from eftlocal.loading.roles import RoleSource
from eftlocal.loading.vocabulary import Vocabulary, compare, groups, require
from eftlocal.logits.recipe import BASE, REFERENCE, TUNED
from eftlocal.translation.lattice import Lattice
from eftlocal.translation.rows import Rows
from eftlocal.translation.spelling import Speller
from eftlocal.translation.translation import Translation


def divided(
    headers: Mapping[str, Header],
    sources: Mapping[str, RoleSource],
    exceptions: Collection[int] = (),
) -> tuple[Vocabulary, dict[str, Vocabulary]]:
    """The vocabulary of answers, and that of each role whose rows are to be translated into it.

    Raises:
        VocabularyError: they differ, and there is no base to answer with, or a role's translation
            is off, or tuned and reference are not of one vocabulary.
    """
    report = compare(headers, exceptions)
    if report.vocabulary is not None:
        return report.vocabulary, {}
    of = dict(zip(headers, groups(list(headers.values())), strict=True))
    others = [role for role in headers if of[role] != of.get(BASE)]
    if BASE not in headers or not others or any(sources[r].translation == OFF for r in others):
        return require(headers, exceptions), {}
    if TUNED in of and REFERENCE in of and of[TUNED] != of[REFERENCE]:
        require({role: headers[role] for role in (TUNED, REFERENCE)}, exceptions)
    together: dict[int, dict[str, Header]] = {}
    for role, header in headers.items():
        together.setdefault(of[role], {})[role] = header
    shared = {group: require(some, exceptions) for group, some in together.items()}
    return shared[of[BASE]], {role: shared[of[role]] for role in others}


def end_tokens(
    models: Mapping[str, Model], vocabulary: Vocabulary, others: Mapping[str, Vocabulary]
) -> dict[str, set[int]]:
    """By role, the tokens that end an answer, as file and llama.cpp say, in its own vocabulary."""
    found = {}
    for role, model in models.items():
        own = others.get(role, vocabulary)
        ends = {*own.end_tokens_declared[role], *model.end_tokens(model.special_tokens())}
        found[role] = {token for token in ends if token < own.size}
    return found


def stop_tokens(ends: Mapping[str, Collection[int]], others: Collection[str]) -> frozenset[int]:
    """The tokens of answers that end them: those of all roles that have this vocabulary."""
    return frozenset(token for role in ends.keys() - others for token in ends[role])


def require_rewinding(held: Mapping[str, Context | Model], others: Collection[str]) -> None:
    """UsageError where a role's last tokens cannot be taken back, as another vocabulary needs."""
    for role in others:
        if why := held[role].cannot_rewind:
            raise UsageError(
                f"{role} has another vocabulary than the base, so its last tokens must be taken "
                f"back when a longer one takes their place, and its model {why}"
            )


def translations(
    models: Mapping[str, Model],
    vocabulary: Vocabulary,
    others: Mapping[str, Vocabulary],
    ends: Mapping[str, Collection[int]],
    sources: Mapping[str, RoleSource],
) -> dict[str, Translation]:
    """What it takes to use the roles of other vocabularies, made once for each of these.

    Args:
        models: their tokenizers are enough.
        vocabulary: of the answers.
        others: the vocabularies of these roles.
        ends: as `end_tokens` gives them.

    Raises:
        VocabularyError: a vocabulary cannot spell every text.
    """
    if not others:
        return {}
    stop = stop_tokens(ends, others)
    unusable = set(vocabulary.unusable.tolist())
    base = models[BASE].text_pieces(vocabulary.size)
    base = {token: piece for token, piece in base.items() if token not in unusable}

    @cache
    def pieces(model: Model, size: int) -> dict[int, bytes]:
        return model.text_pieces(size)

    @cache
    def parts(role: str) -> tuple[Lattice, Speller, Speller]:
        model, own = models[role], others[role]
        padding = set(own.unusable.tolist())
        small = {t: p for t, p in pieces(model, own.size).items() if t not in padding}
        speller = Speller(
            lambda text: model.tokenize(text, continues=True),
            small,
            base,
            base_ends=stop,
            end=min(ends[role], default=None),
        )
        back = Speller(
            lambda text: models[BASE].tokenize(text, continues=True),
            base,
            small,
            base_ends=ends[role],
            end=min(stop, default=None),
            needed="",
        )
        return Lattice.of(base, vocabulary.size, small), speller, back

    found = {}
    for role, own in others.items():
        model = models[role]
        first = next(r for r in others if others[r] is own and models[r].path == model.path)
        try:
            lattice, speller, back = parts(first)
        except EngineError as error:
            raise VocabularyError(f"{role} has another vocabulary than the base: {error}") from None
        rows = Rows(
            lattice,
            method=sources[role].translation,
            ends=ends[role],
            base_ends=stop,
            unusable=own.unusable.tolist(),
        )
        candidates = sources[role].translation == "candidates"
        found[role] = Translation(speller, back, rows, own.size, speller.most, candidates)
    return found
