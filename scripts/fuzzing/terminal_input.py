"""Random input of a terminal: bytes of keys, pastes and a mouse, and new sizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Input = str | tuple[int, int]
"""What the terminal sends, or its new size in columns and rows."""

_F = ("OP", "OQ", "OR", "OS", "[15~", "[17~", "[18~", "[19~", "[20~", "[21~", "[23~", "[24~")
_KEYS = (
    *(f"\x1b{code}" for code in _F),
    *(f"\x1b[{code}" for code in ("A", "B", "C", "D", "H", "F", "Z", "2~", "3~", "5~", "6~")),
    *(f"\x1b[1;{mod}{end}" for mod in (2, 3, 5) for end in "ABCDHFPQRS"),
    *(chr(code) for code in range(1, 32) if code != 17),
    "\x7f\r\t ",
    "\x1b\r",
    "\x1b[13;2u",
    "\x1bx",
)
_OFTEN = (
    "\r",
    "\x1b",
    "\t",
    "\x1b[A",
    "\x1b[B",
    "\x1b[C",
    "\x1b[D",
    " ",
    "\x1b[1;5A",
    "\x0f",
    "\x10",
)
_COMMANDS = (
    *("/help", "/preset ", "/set beta 0.5", "/set", "/stats", "/regen", "/compare", "/history a"),
    *("/influence", "/continue", "/edit", "/copy code", "/clear", "/theme nosuch", "/load 1"),
    *("/export", "/save x", "/system -", "/find a", "/models", "/reset", "/branches", "/context"),
)
_LETTERS = "abcdefghijklmnoprstvxyz0159.,/?!'\"[]{}()<>|*_#`~ é日👩\u0301\u200b\u202e"
_PIECES = (
    *("\x1b[200~", "\x1b[201~", "\x1b", "\x1b[A", "\r", "\n", "\x11", "\x07", "\x9b", "\x00"),
    *(
        "text ",
        "```\n",
        "| a | b |\n|---|---|\n",
        "# ",
        "日本語",
        "word " * 50,
        "\t",
        "[b]",
        "\u2028",
    ),
)
_REPORTS = ("\x1b[I", "\x1b[O", "\x1b[?2026;2$y", "\x1b]11;rgb:0/0/0\x07", "\x1b[?1;2c")
_QUIT = "\x11"


def sequence(seed: str, events: int) -> list[Input]:
    """The same for the same seed."""
    draw = random.Random(seed)
    found: list[Input] = []
    while len(found) < events:
        kind = draw.choices(_KINDS, _WEIGHTS)[0]
        found += kind(draw)
    return found[:events]


def _key(draw: random.Random) -> Sequence[Input]:
    return [draw.choice(_KEYS)] * draw.choice((1, 1, 1, 2, 6))


def _often(draw: random.Random) -> Sequence[Input]:
    return [draw.choice(_OFTEN) for _ in range(draw.randint(1, 4))]


def _written(draw: random.Random) -> Sequence[Input]:
    text = "".join(draw.choice(_LETTERS) for _ in range(draw.randint(1, 12)))
    return [text] if draw.random() < 0.5 else list(text)


def _sent(draw: random.Random) -> Sequence[Input]:
    return [draw.choice((*_COMMANDS, "A question", "Another?")), "\r"]


def _paste(draw: random.Random) -> Sequence[Input]:
    text = "".join(draw.choice(_PIECES) for _ in range(draw.randint(0, 12)))
    return [f"\x1b[200~{text}\x1b[201~"]


def _size(draw: random.Random) -> Sequence[Input]:
    low, high = draw.choice(((1, 12), (1, 60), (30, 130), (100, 220)))
    return [
        (draw.randint(low, high), draw.randint(1, high // 2)) for _ in range(draw.choice((1, 4)))
    ]


def _mouse(draw: random.Random) -> Sequence[Input]:
    x, y = draw.randint(1, 130), draw.randint(1, 45)
    how = draw.choice(("click", "click", "drag", "scroll", "move", "double"))
    if how == "scroll":
        return [f"\x1b[<{draw.choice((64, 65, 66, 67))};{x};{y}M"] * draw.randint(1, 3)
    if how == "move":
        return [f"\x1b[<35;{x};{y}M"]
    down, up = f"\x1b[<0;{x};{y}M", f"\x1b[<0;{x};{y}m"
    if how == "drag":
        x, y = draw.randint(1, 130), draw.randint(1, 45)
        return [down, f"\x1b[<32;{x};{y}M", f"\x1b[<0;{x};{y}m"]
    return [down, up] * (2 if how == "double" else 1)


def _quit(draw: random.Random) -> Sequence[Input]:
    return [_QUIT]


def _report(draw: random.Random) -> Sequence[Input]:
    return [draw.choice(_REPORTS)]


_KINDS: tuple[Callable[[random.Random], Sequence[Input]], ...] = (
    *(_key, _often, _written, _sent, _paste, _size, _mouse, _report, _quit),
)
_WEIGHTS = (30, 20, 12, 12, 8, 10, 14, 2, 0.3)
