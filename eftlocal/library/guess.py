"""Base or tuned? What names, metadata and a chat template tell of a model, and how surely.

A GGUF does not say which it is. Names do as a rule, and a base often has the chat template of its
family, so a template alone says little.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache

from eftlocal.library.inventory import Model

BASE, TUNED = "base", "tuned"
_BASE_WORDS = frozenset({"base", "pretrain", "pretrained", "pretraining", "foundation"})
_TUNED_WORDS = frozenset(
    {"instruct", "instruction", "chat", "assistant", "sft", "dpo", "orpo", "kto", "rlhf", "rlvr"}
    | {"finetune", "finetuned", "tuned", "thinking", "reasoning", "distill", "distilled", "tulu"}
    | {"hermes", "dolphin", "zephyr", "vicuna", "alpaca", "openchat", "orca", "wizardlm"}
    | {"abliterated", "uncensored", "roleplay", "persona"}
)
# Words that mean this with some makers only: elsewhere they are languages, or something else.
_OF_MAKERS = {"it": ("gemma", TUNED), "pt": ("gemma", BASE)}
_NO_PART_OF_A_NAME = frozenset({"gguf", "imatrix", "i1", "hf", "model", "meta", "latest"})
_TYPE = re.compile(r"(?<![a-z0-9])(?:i?q\d(?:_[0-9kmsxl]+)*|b?f16|f32|fp16|mxfp4)(?![a-z0-9])")
_WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+[a-z]?)*")
_SIZE = re.compile(r"[ae]?\d+(?:\.\d+)?(?:x\d+(?:\.\d+)?)?[bm]\Z")


class Sure(IntEnum):
    """How sure a guess is. UNSURE is no more than a guess."""

    UNSURE = 0
    LIKELY = 1
    SURE = 2


@lru_cache(maxsize=1 << 14)
def words(name: str) -> frozenset[str]:
    """The words of a name, small, without its owner, its quantization and words that say nothing.

    "Qwen/Qwen2.5-0.5B-Instruct-GGUF" is qwen2.5, 0.5b and instruct.
    """
    text = _TYPE.sub(" ", name.rpartition("/")[2].lower())
    return frozenset(_WORD.findall(text)) - _NO_PART_OF_A_NAME


def kinds_said(said: Iterable[str]) -> set[str]:
    """What words say of a model: base, tuned, both or nothing."""
    said = frozenset(said)
    kinds = {BASE} if said & _BASE_WORDS else set()
    kinds |= {TUNED} if said & _TUNED_WORDS else set()
    for word, (maker, kind) in _OF_MAKERS.items():
        if word in said and any(other.startswith(maker) for other in said):
            kinds.add(kind)
    return kinds


def stem(said: Iterable[str]) -> frozenset[str]:
    """The words without those that say base or tuned: a model's and its fine-tune's are the same.

    "Qwen2.5 0.5B Instruct" and "Qwen2.5 0.5B" are both qwen2.5 and 0.5b.
    """
    return frozenset(said).difference(_BASE_WORDS, _TUNED_WORDS, _OF_MAKERS)


def without_size(said: Iterable[str]) -> frozenset[str]:
    return frozenset(word for word in said if not _SIZE.match(word))


@dataclass(frozen=True)
class Guess:
    """What a model is taken for.

    Attributes:
        kind: BASE or TUNED.
        why: in words.
    """

    model: Model
    kind: str
    sure: Sure
    why: str

    @cached_property
    def stems(self) -> frozenset[frozenset[str]]:
        """What remains of each of its names."""
        return _stems(self.model)

    @cached_property
    def name(self) -> str:
        """The name to show."""
        return self.model.names[0] if self.model.names else self.model.path.name

    @cached_property
    def family(self) -> frozenset[str]:
        return _family(self.model)

    @cached_property
    def identity(self) -> tuple[object, ...]:
        """The same for files of one model in several quantizations."""
        return _main_stem(self.model), self.model.shape, self.kind


def guesses(models: Sequence[Model]) -> list[Guess]:
    """What each is, those of one family judged by how that family names its models."""
    said = [kinds_said(_said(model)) for model in models]
    customs: dict[object, set[str]] = defaultdict(set)
    for model, kinds in zip(models, said, strict=True):
        if len(kinds) == 1:
            customs[model.vocabulary, _family(model)] |= kinds
    return [
        Guess(model, *_judged(model, kinds, customs[model.vocabulary, _family(model)]))
        for model, kinds in zip(models, said, strict=True)
    ]


def kinds_of_names(names: Sequence[str]) -> list[str]:
    """What each is by its name alone, and by how its family is named; empty where nothing tells."""
    said = [kinds_said(words(name)) for name in names]
    families = [without_size(stem(words(name))) for name in names]
    customs: dict[object, set[str]] = defaultdict(set)
    for family, kinds in zip(families, said, strict=True):
        customs[family] |= kinds
    other = {(): "", (BASE,): TUNED, (TUNED,): BASE, (BASE, TUNED): ""}
    return [
        next(iter(kinds)) if len(kinds) == 1 else other[tuple(sorted(customs[family] - kinds))]
        for family, kinds in zip(families, said, strict=True)
    ]


def _judged(model: Model, said: set[str], custom: set[str]) -> tuple[str, Sure, str]:
    template = "has a chat template" if model.has_template else "has no chat template"
    if len(said) == 1:
        (kind,) = said
        expected = model.has_template == (kind == TUNED)
        sure = Sure.SURE if expected else Sure.LIKELY
        return kind, sure, f"its name says {kind}; it {template}"
    if said:
        kind = TUNED if model.has_template else BASE
        return kind, Sure.UNSURE, f"its names say base and tuned; it {template}"
    if model.finetune or _is_made_from_another(model):
        kind = TUNED if model.has_template else BASE
        how = model.finetune or f"made from {model.made_from}"
        sure = Sure.LIKELY if model.has_template else Sure.UNSURE
        return kind, sure, f"its header says {how}; it {template}"
    if not model.has_template:
        return BASE, Sure.LIKELY, "it has no chat template, and its name does not say tuned"
    if custom == {BASE}:
        return TUNED, Sure.LIKELY, "it has a chat template, and its family's bases are called so"
    if custom == {TUNED}:
        return BASE, Sure.LIKELY, "its family's tuned models are called so, and this is not"
    return TUNED, Sure.UNSURE, "it has a chat template, which some bases have too"


def _is_made_from_another(model: Model) -> bool:
    """Whether the header names another model, and not that of which this is a quantization."""
    source = words(model.made_from)
    return bool(source) and all(words(name) != source for name in model.names)


def _said(model: Model) -> frozenset[str]:
    """The words of all names."""
    return words(model.finetune).union(*map(words, model.names))


def _stems(model: Model) -> frozenset[frozenset[str]]:
    return frozenset(filter(None, (stem(words(name)) for name in model.names)))


def _main_stem(model: Model) -> frozenset[str]:
    """The shortest stem that has a size, or else the shortest."""
    found = sorted(_stems(model), key=lambda s: (s == without_size(s), len(s), sorted(s)))
    return found[0] if found else frozenset()


def _family(model: Model) -> frozenset[str]:
    return without_size(_main_stem(model))
