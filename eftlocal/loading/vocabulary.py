"""Is it one vocabulary? Compares the tokens of all roles as their files state them.

A logit can be combined with another only if both speak of the same token. So type,
pre-tokenizer and token texts must agree over the common prefix. End tokens, token types, merges
and the like differ inside one family (a base ends with another token than its instruct version);
they are notes, never errors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eftlocal.errors import UsageError, VocabularyError
from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.parser import StringArray

NORMAL, CONTROL, UNUSED, BYTE = 1, 3, 5, 6  # llama_token_type
_HEAD = 1000  # tokens
_SHOWN = 3  # differing tokens named in a message
_PADDING = re.compile(  # what converters write at ids that no token has
    rb"(?:\[PAD\d+\]|\[EMPTY_\d+\]|<\|?(?:dummy|unused|pad|extra|placeholder)_?\d+\|?>)"
)
_SPECIAL = ("bos", "eos", "eot", "eom", "padding", "unknown")
_SWITCHES = ("add_bos_token", "add_eos_token", "add_space_prefix")
_SPLITTING = ("merges", "scores")

# Names that llama.cpp gives the same rule for splitting text into words (llama-vocab.cpp, 2026).
_SAME_RULE = (
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"),
    ("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4"),
    ("chatglm-bpe", "glm4", "glm5"),
    ("gpt-4o", "llama4", "kanana2", "talkie"),
    ("tiny_aya", "cohere2moe"),
    ("bailingmoe", "bailingmoe2", "llada-moe"),
)
_RULE = {name: names[0] for names in _SAME_RULE for name in names}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The vocabulary that all roles share.

    size: ids below it may be used, so logits rows are cut to [:size]. unusable (n,) int32,
    ascending: ids below size that are padding or unused in some role and must never be drawn.
    widths: tokens in each role's file. end_tokens_declared: each role's eos, eot and eom ids.
    """

    size: int
    unusable: npt.NDArray[np.int32]
    notes: tuple[str, ...]
    end_tokens_declared: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, int]
    type: str


@dataclass(frozen=True, eq=False)
class VocabularyReport:
    """What compare found: `vocabulary` is None exactly when there are problems."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    vocabulary: Vocabulary | None

    @property
    def ok(self) -> bool:
        return self.vocabulary is not None


class _Tokens:
    """The vocabulary of a checked file: texts (n,) as bytes, types (n,) int32, padding ids."""

    def __init__(self, header: Header) -> None:
        self.metadata = header.metadata
        self.stored: StringArray = self.metadata["tokenizer.ggml.tokens"]
        self.n, self.texts = len(self.stored), self.stored.to_bytes()
        self.type = str(self.metadata.get("tokenizer.ggml.model", "none"))
        pre = str(self.metadata.get("tokenizer.ggml.pre", "default"))
        self.pre = pre if self.type == "gpt2" else "default"
        types = self.metadata.get("tokenizer.ggml.token_type")
        self.types = np.full(self.n, NORMAL) if types is None else types[: self.n]
        self.padding = self._padding()

    def _padding(self) -> npt.NDArray[np.bool_]:
        padding: npt.NDArray[np.bool_] = self.types == UNUSED
        ends = self.stored.ends
        # one search through the stored bytes is ten times as quick as a match per token
        for match in _PADDING.finditer(self.stored.raw):
            i = int(np.searchsorted(ends, match.start(), "right"))
            if match.end() == ends[i] and match.group() == self.texts[i]:
                padding[i] = True
        for i in np.flatnonzero(self.types == CONTROL).tolist():
            padding[i] |= b"unused" in self.texts[i]  # llama.cpp takes these for unused
        for i in np.flatnonzero(np.diff(ends, prepend=0) == 8).tolist():
            padding[i] = True  # no text at all
        return padding

    def special(self, name: str) -> int | None:
        """The id of a special token, None if the file names none or one it does not have."""
        value = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return value if isinstance(value, int) and 0 <= value < self.n else None

    def end_tokens(self) -> tuple[int, ...]:
        found = (self.special(name) for name in ("eos", "eot", "eom"))
        return tuple(dict.fromkeys(i for i in found if i is not None))

    def show(self, i: int) -> str:
        text = self.texts[i].decode("utf-8", "replace")
        return repr(text if len(text) <= 40 else text[:37] + "...")


def compare(headers: Mapping[str, Header], exceptions: Collection[int] = ()) -> VocabularyReport:
    """Compare the vocabularies of all roles (role -> header, as `checked_model` gives it).

    exceptions: ids whose texts are known to differ, because one model reuses them; they stay
    usable.
    """
    if not headers:
        raise UsageError("no model to compare the vocabulary of: name at least one role")
    by_path = {header.path: _Tokens(header) for header in headers.values()}
    tokens = {role: by_path[header.path] for role, header in headers.items()}
    problems: list[str] = []
    notes: list[str] = []
    first_role, first = next(iter(tokens.items()))
    for role, other in list(tokens.items())[1:]:
        if other is not first:
            wrong, noted = _compare_two(first, other, frozenset(exceptions))
            pair = f"{first_role} against {role}: "
            problems += [pair + "; ".join(wrong)] if wrong else []
            notes += [pair + note for note in noted]
    _note_settings(tokens, notes)

    width = min(other.n for other in tokens.values())
    ends = {role: other.end_tokens() for role, other in tokens.items()}
    for role, other in tokens.items():
        notes += [
            f"end token {i} {other.show(i)} of {role} lies outside the common vocabulary, "
            "so an answer cannot end with it"
            for i in ends[role]
            if i >= width
        ]
    padding = np.zeros(width, np.bool_)
    for other in tokens.values():
        padding |= other.padding[:width]
    # an answer must be able to end, even where another role's file has padding at that id
    padding[[i for role in ends for i in ends[role] if i < width]] = False
    usable = np.flatnonzero(~padding)
    if not len(usable):
        problems.append("no token is usable in all roles")
    if problems:
        return VocabularyReport(tuple(problems), tuple(notes), None)
    size = int(usable[-1]) + 1
    unusable = np.flatnonzero(padding[:size]).astype(np.int32)
    unusable.flags.writeable = False
    widths = {role: other.n for role, other in tokens.items()}
    vocabulary = Vocabulary(size, unusable, tuple(notes), ends, widths, first.type)
    return VocabularyReport((), tuple(notes), vocabulary)


def require(headers: Mapping[str, Header], exceptions: Collection[int] = ()) -> Vocabulary:
    """The vocabulary that all roles share; VocabularyError says what differs if they do not."""
    report = compare(headers, exceptions)
    if report.vocabulary is None:
        raise VocabularyError(
            f"{' and '.join(headers)} do not share one vocabulary: {'; '.join(report.problems)}: "
            "choose models of one family"
        )
    return report.vocabulary


def groups(headers: Sequence[Header]) -> list[int]:
    """Which of many vocabularies are one: a number for each, the same for those that are.

    Each is compared with the first of a group, so `compare` has the last word on what is to be
    combined.
    """
    firsts: list[_Tokens] = []
    found = []
    for header in headers:
        tokens = _Tokens(header)
        like = (i for i, first in enumerate(firsts) if _are_one(first, tokens))
        found.append(next(like, len(firsts)))
        if found[-1] == len(firsts):
            firsts.append(tokens)
    return found


def _are_one(a: _Tokens, b: _Tokens) -> bool:
    head = min(a.n, b.n, _HEAD)  # as a rule enough to see that they differ
    padding = a.padding[:head] | b.padding[:head]
    if a.type != b.type or any(not padding[i] for i in _differing(a, b, head)):
        return False
    return not _compare_two(a, b, frozenset())[0]


def _compare_two(a: _Tokens, b: _Tokens, exceptions: frozenset[int]) -> tuple[list[str], list[str]]:
    """What is wrong, and what is worth a note."""
    if a.type != b.type:
        return [f"tokenizer type {a.type!r} against {b.type!r}"], []
    problems: list[str] = []
    notes: list[str] = []
    if a.pre != b.pre:
        text = f"pre-tokenizer {a.pre!r} against {b.pre!r}"
        if "default" in (a.pre, b.pre):  # a poor conversion: prompts are cut less well, ids hold
            notes.append(f"{text}: the file that says 'default' may cut prompts differently")
        elif _RULE.get(a.pre, a.pre) != _RULE.get(b.pre, b.pre):
            problems.append(text)

    width = min(a.n, b.n)
    padding = a.padding[:width] | b.padding[:width]
    differing = _differing(a, b, width)
    wrong = [i for i in differing if i not in exceptions and not padding[i]]
    if wrong:
        shown = ", ".join(f"id {i} {a.show(i)} against {b.show(i)}" for i in wrong[:_SHOWN])
        problems.append(f"{len(wrong):,} of the first {width:,} tokens differ, first {shown}")
    if a.n != b.n:
        _compare_rest(a, b, problems, notes)
    if padded := [i for i in differing if padding[i]]:
        notes.append(
            f"{_ids(padded)} are padding in one of them and are only sampled as end tokens"
        )
    if excepted := [i for i in differing if i in exceptions and not padding[i]]:
        notes.append(f"the texts differ, as declared, at {_ids(excepted)}")
    changed = np.flatnonzero((a.types[:width] != b.types[:width]) & ~padding).tolist()
    if changed and not problems:
        notes.append(f"token types (control, normal, ...) differ at {_ids(changed)}")
    return problems, notes


def _differing(a: _Tokens, b: _Tokens, width: int) -> list[int]:
    """The ids below width whose texts differ."""
    end = int(a.stored.ends[width - 1])
    if end == b.stored.ends[width - 1] and a.stored.raw[:end] == b.stored.raw[:end]:
        return []
    pairs = zip(a.texts[:width], b.texts[:width], strict=True)
    return [i for i, (left, right) in enumerate(pairs) if left != right]


def _compare_rest(a: _Tokens, b: _Tokens, problems: list[str], notes: list[str]) -> None:
    """The tokens that only the wider file has: padding, added specials, or other words."""
    width, wide = min(a.n, b.n), a if a.n > b.n else b
    real = ~wide.padding[width:]
    ordinary = np.isin(wide.types[width:], (NORMAL, BYTE)) & real
    sizes = f"{a.n:,} against {b.n:,} tokens"
    if ordinary.any():
        first = width + int(np.argmax(ordinary))
        problems.append(
            f"{sizes}, and {int(ordinary.sum()):,} that only one has are ordinary ones, first id "
            f"{first} {wide.show(first)}"
        )
    elif real.any():
        ids = (width + np.flatnonzero(real)).tolist()
        notes.append(f"{sizes}: cut to {width:,}, which loses the special {_ids(ids)}")
    else:
        notes.append(f"{sizes}: cut to {width:,}, the rest is padding")


def _note_settings(tokens: Mapping[str, _Tokens], notes: list[str]) -> None:
    """Settings that may differ inside a family: they say how text is cut and where it ends."""
    settings = {f"{name} token": f"{name}_token_id" for name in _SPECIAL}
    settings |= {name: name for name in _SWITCHES}
    for label, key in settings.items():
        values = {role: t.metadata.get(f"tokenizer.ggml.{key}") for role, t in tokens.items()}
        stated = {role: value for role, value in values.items() if value is not None}
        if len(set(map(str, stated.values()))) > 1:
            shown = ", ".join(f"{role} {value}" for role, value in stated.items())
            notes.append(f"{label} differs: {shown}")
    for key in _SPLITTING:
        kept = [_content(t.metadata.get(f"tokenizer.ggml.{key}")) for t in tokens.values()]
        if len({value for value in kept if value is not None}) > 1:
            notes.append(f"{key} differ: the roles may cut the same text into other tokens")


def _content(value: object) -> bytes | None:
    if isinstance(value, StringArray):
        return value.raw
    return value.tobytes() if isinstance(value, np.ndarray) else None


def _ids(ids: list[int]) -> str:
    """A short list of ids: 'id 5' or 'ids 5, 6, 7 ... (300 in all)'."""
    shown = ", ".join(map(str, ids[:_SHOWN]))
    if len(ids) == 1:
        return f"id {shown}"
    return f"ids {shown} ... ({len(ids):,} in all)" if len(ids) > _SHOWN else f"ids {shown}"
