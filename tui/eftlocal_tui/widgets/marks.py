"""Marks on words in turns, as they are laid out: all that were found, and the one that is meant."""

from __future__ import annotations

import re
from typing import NamedTuple

from textual.content import Content
from textual.geometry import Region
from textual.widgets import Static

from eftlocal_tui.widgets.turn_view import TurnView

_FOUND = "reverse"
_MEANT = "bold black on yellow"
# The texts in a turn, without its head and foot.
_TEXTS = ".text, ThinkingFold > .body, Streamed Static"


class Found(NamedTuple):
    """Words in a text that is laid out: where they begin and end in it."""

    text: Static
    begin: int
    end: int

    @property
    def region(self) -> Region:
        """The line that they begin in, where it is on the screen or beyond its edges."""
        plain, area = _content(self.text).plain, self.text.content_region
        word_end = re.compile(r"\s|\Z").search(plain, self.begin)
        before = Content(plain[: word_end.start()] if word_end else plain)
        line = before.get_height({}, max(area.width, 1)) - 1
        return Region(area.x, area.y + max(line, 0), area.width, 1)


class Marks:
    """What is marked, and what it is without."""

    def __init__(self) -> None:
        self._marked: dict[Static, tuple[Content, Content]] = {}

    def put(self, view: TurnView, words: re.Pattern[str], later: int | None = None) -> Found | None:
        """Marks the words in a turn. Gives those after which so many more come, or the first if
        there are fewer: what is folded lacks some, and so does a text without its markup."""
        found = [
            Found(text, *match.span())
            for text in view.query(_TEXTS).results(Static)
            for match in words.finditer(_content(text).plain)
        ]
        meant = found[max(-1 - later, -len(found))] if found and later is not None else None
        for text in {one.text: None for one in found}:
            plain, marked = self._marked.get(text, (None, None))
            if plain is None or text.content is not marked:  # or written anew since
                plain = _content(text)
            marked = plain
            for one in found:
                if one.text is text:
                    style = _MEANT if one is meant else _FOUND
                    marked = marked.stylize(style, one.begin, one.end)
            self._marked[text] = (plain, marked)
            text.update(marked, layout=False)
        return meant

    def clear(self) -> None:
        """Takes all marks away."""
        for text, (plain, marked) in self._marked.items():
            if text.is_attached and text.content is marked:
                text.update(plain, layout=False)
        self._marked.clear()


def _content(text: Static) -> Content:
    visual = text.visual
    return visual if isinstance(visual, Content) else Content()
