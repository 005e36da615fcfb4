"""Text as the screen shows it: lines that fit, pastes, figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from eftlocal.generation import ENDINGS
from eftlocal.terminal_text import one_line, printable
from eftlocal_tui.pace import duration

if TYPE_CHECKING:
    from eftlocal_tui.history import Figures, Thought, Turn

_SURROGATES = re.compile("[\ud800-\udfff]")
_BLOCKS = "▁▂▃▄▅▆▇█"


def reason_text(state: str, finish_reason: str | None, error: str | None) -> str:
    """Why an answer ended, where that is worth a word."""
    if state == "error":
        return f"✗ failed: {error or 'unknown error'}"
    if state == "stopped":
        return "stopped"
    if state == "streaming":
        return "… still being written elsewhere"
    return ENDINGS.get(finish_reason or "stop", finish_reason or "")


def speed_text(figures: Figures) -> str:
    """`58 tok/s`; empty where there was only one round to measure."""
    speed = figures.tokens_per_second
    return f"{speed:.{0 if speed >= 10 else 1}f} tok/s" if speed else ""


def speed_line(figures: Figures, took: str = "") -> str:
    """`123 tokens · 58 tok/s`."""
    return _joined(
        f"{figures.tokens} token{'s' * (figures.tokens != 1)}{took}", speed_text(figures)
    )


def figures_line(figures: Figures) -> str:
    """`123 tokens · 58 tok/s · accepted 71%`; empty where no token came."""
    return _joined(speed_line(figures), _accepted(figures)) if figures.tokens else ""


def totals_line(figures: Figures, seed: int | None = None) -> str:
    """`123 tokens in 2.1 s · 58 tok/s · first 0.08 s · accepted 71% · seed 7`; empty where no
    token came."""
    if not figures.tokens:
        return ""
    return _joined(
        speed_line(figures, f" in {figures.seconds:.1f} s"),
        _beside(figures) or f"first {figures.first_token:.2f} s",
        _accepted(figures),
        "" if seed is None else f"seed {seed}",
    )


def _beside(figures: Figures) -> str:
    others = figures.beside or 0
    return f"beside {others} other answer{'s' * (others != 1)}" if others else ""


def _accepted(figures: Figures) -> str:
    return "" if figures.acceptance is None else f"accepted {figures.acceptance:.0%}"


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def packed(parts: Sequence[str], cells: int) -> str:
    """The parts in lines of at most so many cells each, with `·` between those of one line."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= cells:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return "\n".join(lines)


def outcome(turn: Turn, if_stopped: str = "", *, short: bool = False) -> str:
    """How an answer ended and what it took, in one line; empty where nothing is known.

    Args:
        if_stopped: what may be done with one that a person stopped.
        short: only the most telling figures.
    """
    reason = reason_text(turn.state, turn.finish_reason, turn.error)
    if turn.state == "stopped" and not turn.text:
        reason = "stopped before the first token"
    hint = if_stopped if turn.state == "stopped" and turn.text else ""
    took = ""
    if turn.figures is not None:
        seed = turn.settings.seed if turn.settings else None
        took = figures_line(turn.figures) if short else totals_line(turn.figures, seed)
    return _joined(reason, hint, took)


def thought_line(took: Thought | None, *, going: bool = False) -> str:
    """`Thinking … 12 s · 340 tokens` while it comes, then `Thought for 12 s · 340 tokens`."""
    if took is None:
        return "Thinking …" if going else "Thinking"
    figures = f"{duration(took.seconds)} · {took.tokens:,} token{'s' * (took.tokens != 1)}"
    return f"Thinking … {figures}" if going else f"Thought for {figures}"


def bar(share: float, width: int = 12) -> str:
    """A share as a row of blocks."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return "█" * full + "░" * (width - full)


def plot(values: Sequence[float], top: float, width: int) -> str:
    """Values from 0 to `top` as one row of blocks, the newest at the right; means where many."""
    if not values or width < 1:
        return ""
    each = -(-len(values) // width)
    means = [
        sum(values[i : i + each]) / len(values[i : i + each]) for i in range(0, len(values), each)
    ]
    most = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(min(max(m / (top or 1.0), 0.0), 1.0) * most)] for m in means)


def encodable(text: str) -> str:
    """The text with U+FFFD for unpaired surrogates, which a file to import may hold."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def fitted(text: str, cells: int) -> str:
    """The text as one safe line that takes no more than so many cells of the terminal."""
    line = Text(one_line(text))
    line.truncate(max(cells, 1), overflow="ellipsis")
    return line.plain


def pasted(text: str) -> str:
    """What a person pasted: line ends of any system become one kind."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))
