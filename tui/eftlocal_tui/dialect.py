"""Markdown as models write it: a line break is a line break, LaTeX and products stay as they stand.

HTML is shown as text, since nothing here could render it, and so is a link's definition: whatever
a model wrote can be read.
"""

from __future__ import annotations

import re
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MATH = "math"  # the info of a code block that holds LaTeX
_DISPLAY = {"\\[": "\\]", "$$": "$$"}  # what opens a formula that stands by itself, what closes it
_INLINE = {"\\(": "\\)", **_DISPLAY}
# A dollar sign is one of money unless its formula touches it and no digit follows the other one.
_DOLLARS = re.compile(r"\$(?![\s$])(?:\\.|[^\\$\n])*(?<!\s)\$(?!\d)")
# One star between letters or digits, or two between digits, is an operator.
_TIMES = re.compile(r"(?<=[A-Za-z0-9])\*(?=[A-Za-z0-9])|(?<=\d)\*\*(?=\d)")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def parser() -> MarkdownIt:
    """Markdown for model text. Lists that are loose say so: `meta["loose"]`; tables say how their
    columns are aligned: `meta["align"]`, of "left", "center", "right" for each."""
    found = MarkdownIt("gfm-like", {"html": False, "maxNesting": 20})
    found.disable("reference")
    found.block.ruler.before(
        "fence", MATH, _math_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    found.inline.ruler.before("escape", MATH, _math)
    found.inline.ruler.before("emphasis", "times", _times)
    found.core.ruler.push("breaks", _breaks)
    found.core.ruler.push("targets", _targets)
    found.core.ruler.push("looks", _looks)
    return found


def _math_block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A formula that begins a line, down to what closes it or to a blank line, as TeX has it."""
    if state.is_code_block(first):
        return False
    line = _line(state, first)
    close = _DISPLAY.get(line[:2])
    if close is None or (line[0] == "\\" and line[2:3].isalnum()):
        return False
    _, closed, after = line[2:].partition(close)
    if after.strip():  # it only begins a sentence
        return False
    if silent:
        return True
    end = first + 1
    while not closed and end < last and state.sCount[end] >= state.blkIndent:
        line = _line(state, end)
        if not line.strip():
            break
        end += 1
        _, closed, _ = line.partition(close)
    token = state.push("code_block", "code", 0)
    token.info, token.map = MATH, [first, end]
    token.content = state.getLines(first, end, state.blkIndent, True)
    state.line = end
    return True


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _math(state: StateInline, silent: bool) -> bool:
    """A formula in a sentence: text in which nothing is marked up."""
    close = _INLINE.get(state.src[state.pos : state.pos + 2])
    if close is not None:
        found = state.src.find(close, state.pos + 2, state.posMax)
        end = found + 2 if found > state.pos + 2 else -1
    else:
        dollars = _DOLLARS.match(state.src, state.pos, state.posMax)
        end = dollars.end() if dollars else -1
    if end < 0:
        return False
    if not silent:
        for i, line in enumerate(state.src[state.pos : end].split("\n")):
            if i:
                state.push("hardbreak", "br", 0)
            state.push("text", "", 0).content = line
    state.pos = end
    return True


def _times(state: StateInline, silent: bool) -> bool:
    """`2*3*4` is a product, in which nothing is emphasised."""
    found = _TIMES.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def _breaks(state: StateCore) -> None:
    """A line ends where the model ended it; in a table, which has lines of its own, at <br>."""
    in_table = False
    for token in state.tokens:
        if token.type in ("table_open", "table_close"):
            in_table = token.type == "table_open"
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
        if in_table and token.children:
            token.children = [part for child in token.children for part in _parted(child)]


def _parted(token: Token) -> list[Token]:
    if token.type != "text":
        return [token]
    first, *more = _BREAK.split(token.content)
    found = [Token("text", "", 0, content=first)]
    for text in more:
        found += [Token("hardbreak", "br", 0), Token("text", "", 0, content=text)]
    return found


def _targets(state: StateCore) -> None:
    """Where a link leads stands behind it, unless it says so itself: it is not opened from here."""
    for token in state.tokens:
        children: list[Token] = []
        target = said = ""
        for child in token.children or ():
            children.append(child)
            said += child.content
            if child.type == "link_open":
                target = str(child.attrs["href"]) if child.info != "auto" else ""
                said = ""
            elif child.type == "link_close" and target not in ("", said):
                children.append(Token("text", "", 0, content=f" ({target})"))
        token.children = children or token.children


def _looks(state: StateCore) -> None:
    """What a look depends on: whether lists are loose, how columns are aligned, what is last in an
    item or a quote, and which line of an item stands before code."""
    inside: list[tuple[Token, list[Token]]] = []  # lists, items and quotes, with what is in them
    table: Token | None = None
    for token in state.tokens:
        if token.type == "table_open":
            table = token
            table.meta["align"] = []
        elif token.type == "th_open" and table is not None:
            style = str(token.attrs.get("style", ""))
            table.meta["align"].append(style.removeprefix("text-align:") or "left")
        if inside and token.level == inside[-1][0].level + 1 and token.nesting >= 0:
            inside[-1][1].append(token)
        if token.type.endswith(_CONTAINERS):
            if token.nesting > 0:
                inside.append((token, []))
            else:
                _look_of(*inside.pop())


_CONTAINERS = ("_list_open", "_list_close", "list_item_open", "list_item_close",
               "blockquote_open", "blockquote_close")  # fmt: skip


def _look_of(outer: Token, blocks: list[Token]) -> None:
    if outer.type.endswith("_list_open"):
        outer.meta["loose"] = any(item.meta.get("loose") for item in blocks)
        return
    for block, after in pairwise(blocks):
        block.meta["spaced"] = block.hidden and after.type in ("fence", "code_block")
    outer.meta["loose"] = any(b.type == "paragraph_open" and not b.hidden for b in blocks)
    if blocks:
        blocks[-1].meta["last"] = True
