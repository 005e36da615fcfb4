"""Measure how soon a typed letter appears in the chat while models decode.

Usage: .venv/bin/python scripts/bench_typing.py [--letters N] [--threads N]
       [--base FILE --tuned FILE --reference FILE]

The running program in a pseudo-terminal, 120 columns by 40, and an answer that streams (it is made
again where it ends). The time runs from the write of a letter to the read that brings it back,
drawn in the message box. The next letter comes 5 to 20 ms later. The models are SmolLM2 of the test
dependencies in all three roles unless files are given.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tui"), str(ROOT / "tests")]

from pty_chat import Terminal
from small_models import NO_SMOLLM2, smollm2_file

LETTERS = "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ"  # that no model here writes
QUESTION = b"Write a long story about a river. Use many words.\r"
_LINE = 40  # letters, after which the box is emptied
_STREAMING = b"tok/s"
_AGAIN = b"\x12"  # Ctrl+R


def chat(files: dict[str, Path], threads: int) -> list[str]:
    roles = [part for role, file in files.items() for part in (f"--{role}", str(file))]
    engine = ["--threads", str(threads), "--speculative", "off", "--n-ctx", "2048"]
    more = ["--max-tokens", "1500", "--temperature", "1", "--trust"]
    return [sys.executable, "-m", "eftlocal", "chat", *roles, *engine, *more]


def measure(terminal: Terminal, letters: int, seed: int = 1) -> list[float]:
    """Milliseconds until each letter was there."""
    draw, found = random.Random(seed), list[float]()
    seen = len(terminal.shown)
    looked = time.monotonic()
    for number in range(letters):
        if time.monotonic() - looked > 1.0:  # the answer may have ended
            if _STREAMING not in terminal.shown[seen:]:
                terminal.send(_AGAIN)
                terminal.until(_STREAMING, len(terminal.shown))
            seen, looked = len(terminal.shown), time.monotonic()
        letter = LETTERS[number % len(LETTERS)].encode()
        since, began = len(terminal.shown), time.perf_counter()
        terminal.send(letter)
        terminal.until(letter, since)
        found.append(1_000 * (time.perf_counter() - began))
        if number % _LINE == _LINE - 1:
            terminal.send(b"\x15")  # to the beginning of the line
        pause = time.perf_counter() + draw.uniform(0.005, 0.02)
        while time.perf_counter() < pause:
            terminal.read(0.005)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--letters", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=2)
    for role in ("base", "tuned", "reference"):
        parser.add_argument(f"--{role}", type=Path)
    asked = parser.parse_args()
    default = smollm2_file()
    files = {role: getattr(asked, role) or default for role in ("base", "tuned", "reference")}
    if None in files.values():
        sys.exit(f"bench_typing: {NO_SMOLLM2}")
    with tempfile.TemporaryDirectory() as folder:
        own = {f"EFTLOCAL_{name}": f"{folder}/{name}" for name in ("CONFIG", "DATA")}
        terminal = Terminal(chat(files, asked.threads), size=(120, 40), **own)
        try:
            terminal.until(b"upscale")
            terminal.send(QUESTION)
            terminal.until(_STREAMING)
            times = measure(terminal, asked.letters)
        finally:
            terminal.close()
    cuts = statistics.quantiles(times, n=100)
    print(
        f"{len(times)} letters: median {statistics.median(times):.1f} ms, 95% within "
        f"{cuts[94]:.1f} ms, 99% within {cuts[98]:.1f} ms, longest {max(times):.1f} ms"
    )


if __name__ == "__main__":
    main()
