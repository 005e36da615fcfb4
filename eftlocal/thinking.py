"""Thinking: how models mark it in an answer's text, and which part of a text it is.

Models that reason write their thinking first, between two marks or in a channel of its own, and
then the answer. A chat template may write the first mark itself, at the end of the prompt: the
answer then begins inside and has the second one only. Texts are kept as they came; what shows or
copies them asks `parts` where the thinking ends.

Only the beginning of a text is thinking: a model that is asked about `<think>` may write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Marks:
    """How thinking is marked.

    Attributes:
        opens, closes: what stands before it and after it.
        opened: the prompt ended with `opens`, so the answer begins inside.
        wraps: marks that may stand at the beginning and at the end of what follows the thinking,
            or of an answer without any; they are no part of it.
    """

    opens: str
    closes: str
    opened: bool = False
    wraps: tuple[str, ...] = ()


KINDS = (
    Marks("<think>", "</think>"),  # Qwen, DeepSeek, QwQ, OLMo, SmolLM, GLM, Granite 4
    Marks("<thinking>", "</thinking>"),
    Marks("<thought>", "</thought>"),
    Marks("<reasoning>", "</reasoning>"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        wraps=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),  # Command
    Marks(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        wraps=("<|channel|>final<|message|>",),
    ),  # gpt-oss
    Marks("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)


@dataclass(frozen=True)
class Parts:
    """The parts of a text, as slices of it.

    Attributes:
        thinking: without its marks; None where there is none.
        answer: what follows, without the white space between the two.
        open: the text ends inside the thinking.
    """

    thinking: slice | None
    answer: slice
    open: bool = False


def parts(text: str, marks: Marks | None = None, *, ended: bool = True) -> Parts:
    """Which part of an answer's text is thinking.

    Args:
        marks: of this answer, where they are known; without them, those that are in use
            anywhere (`KINDS`) are looked for at the beginning.
        ended: nothing follows. Otherwise what may yet become a mark is part of neither, so that
            both parts only grow while a text does.
    """
    known = KINDS if marks is None else (marks,) if marks.opened else (marks, *KINDS)
    begin = len(text) - len(text.lstrip())
    found = next((kind for kind in known if text.startswith(kind.opens, begin)), None)
    inside = begin if found is None else begin + len(found.opens)
    if found is None and marks is not None and marks.opened:
        found, inside = marks, 0
        if not ended and marks.opens.startswith(text[begin:]):  # it may write the mark again
            return Parts(slice(0, 0), slice(len(text), len(text)), open=True)
    if found is None:
        openings = [kind.opens for kind in known]
        if not ended and _begins(text[begin:], openings):
            return Parts(None, slice(len(text), len(text)))
        return Parts(None, _unwrapped(text, 0, known, ended))
    closed = text.find(found.closes, inside)
    if closed < 0:
        end = len(text) if ended else held_back(text, inside, found.closes)
        return Parts(_trimmed(text, inside, end), slice(len(text), len(text)), open=True)
    after = _trimmed(text, closed + len(found.closes), len(text)).start
    return Parts(_trimmed(text, inside, closed), _unwrapped(text, after, (found,), ended))


def _begins(text: str, marks: Sequence[str]) -> bool:
    """Whether it may become one of the marks."""
    return any(mark.startswith(text) for mark in marks)


def held_back(text: str, begin: int, mark: str) -> int:
    """Where the end of the text begins that may become the mark; the text's end if none does."""
    first = max(begin, len(text) - len(mark) + 1)
    return next((at for at in range(first, len(text)) if mark.startswith(text[at:])), len(text))


def _trimmed(text: str, begin: int, end: int) -> slice:
    """Without white space at its beginning, which no later text can change."""
    inner = text[begin:end]
    return slice(end - len(inner.lstrip()), end)


def _unwrapped(text: str, begin: int, kinds: Sequence[Marks], ended: bool) -> slice:
    """The answer from there on, without the marks around it."""
    end = len(text)
    first = end - len(text[begin:].lstrip())
    for mark in (mark for kind in kinds for mark in kind.wraps):
        if text.startswith(mark, first):
            first = begin = _trimmed(text, first + len(mark), end).start
        elif not ended and first < end and mark.startswith(text[first:]):
            return slice(end, end)
        elif text.endswith(mark, first):
            end -= len(mark)
        elif not ended:
            end = min(end, held_back(text, first, mark))
    return slice(min(begin, end), end)


def kinds_in(template: str, more: Marks | None = None) -> list[Marks]:
    """The kinds of thinking that a chat template knows, and one more."""
    found = [kind for kind in KINDS if kind.opens in template or kind.closes in template]
    return found if more is None else [more, *found]


def opened_by(prompt: str, more: Marks | None = None) -> Marks | None:
    """The marks of an answer to a prompt that ends with the mark that opens thinking.

    Args:
        prompt: at least its end, as a model reads it.
    """
    end = prompt.rstrip()
    for kind in KINDS if more is None else (more, *KINDS):
        if end.endswith(kind.opens):
            return Marks(kind.opens, kind.closes, True, kind.wraps)
    return more
