"""Texts of special tokens in other text: where they stand, and keeping them from being read."""

from __future__ import annotations

from collections.abc import Collection


def parted(text: str, special_texts: Collection[str]) -> list[str]:
    """`text` in pieces, none of which holds a special text; as few cuts as that takes.

    A special text of a single character cannot be parted and is left alone.
    """
    found: list[tuple[int, int]] = []  # (end, start) of every occurrence, overlapping ones too
    for special in special_texts:
        start = text.find(special) if len(special) > 1 else -1
        while start >= 0:
            found.append((start + len(special), start))
            start = text.find(special, start + 1)
    cuts = [0]
    for end, start in sorted(found):
        if cuts[-1] <= start:  # the last cut does not part this one
            cuts.append(end - 1)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def special_text_in(text: str, special_texts: Collection[str]) -> str:
    """The first of the special tokens' texts that stands in a text; empty if none does."""
    there = [special for special in special_texts if len(special) > 1 and special in text]
    return min(there, key=text.index, default="")
