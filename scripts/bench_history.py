"""Times the saved conversations: opening a long history, searching it, and saving a token.

Usage: python scripts/bench_history.py [--turns 10000] [--folder DIR] [--json]

Writes a history of random sentences (conversations of ten turns, and one of a tenth of all turns),
then takes each time several times, opening the file anew where that is what is timed. Goals: the
list opens within 300 ms, a search answers within 100 ms.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tui"))
from eftlocal_tui.history import History, to_json, to_markdown

OPEN_GOAL, SEARCH_GOAL = 300.0, 100.0  # ms
QUERIES = {
    "a word of every turn": "the",
    "a rare word": "zyzzyva",
    "two words": "glacier parcel",
    "a common and a rare word": "the zyzzyva",
    "two letters": "zy",
    "one letter": "e",
    "no hit": "qqqqqq",
    "no hit, two letters": "qx",
}
TEXT = """the of and to in is that it for as weather glacier parcel interview river copper lantern
window garden engine kettle harbour violin ladder magnet pepper saddle thunder walnut"""
WORDS = TEXT.split()


def sentence(chance: random.Random, length: int) -> str:
    words = chance.choices(WORDS, weights=range(len(WORDS), 0, -1), k=length)
    if chance.random() < 0.001:
        words.append("zyzzyva")
    return " ".join(words)


def fill(history: History, turns: int, chance: random.Random) -> int:
    """Writes the history and returns the id of its longest conversation."""
    longest = 0
    for count in [turns // 10, *[10] * (turns * 9 // 100)]:
        with history.db.transaction():
            chat = history.conversations.create().id
            longest = longest or chat
            for _ in range(count // 2):
                question = history.turns.ask(chat, sentence(chance, chance.randint(5, 60)))
                with history.answer(question.id) as answer:
                    answer.append("The " + sentence(chance, chance.randint(50, 400)))
                    answer.finish("stop")
    return longest


def milliseconds(call: Callable[[], Any], times: int = 7) -> tuple[float, float]:
    """Median and worst of several calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken), max(taken)


def open_and_list(path: Path) -> None:
    with History(path) as history:
        history.conversations.list()


def measure(path: Path, turns: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def note(what: str, times: tuple[float, float], goal: float | None = None) -> None:
        rows.append({"what": what, "median_ms": times[0], "worst_ms": times[1], "goal_ms": goal})

    with History(path) as history:
        longest = fill(history, turns, random.Random(1))
    note(
        "open the file, list 50 conversations", milliseconds(lambda: open_and_list(path)), OPEN_GOAL
    )
    with History(path) as history:
        size = path.stat().st_size / 1e6
        kind = "index of trigrams" if history.db.indexed else "no index"
        for what, query in QUERIES.items():
            times = milliseconds(lambda query=query: history.search(query))  # type: ignore[misc]
            note(f"search {what} ({query!r})", times, SEARCH_GOAL)
        history.db.indexed = False
        note("search without an index ('qqqqqq')", milliseconds(lambda: history.search("qqqqqq")))
        history.db.indexed = True
        length = len(history.turns.all(longest))
        note(f"the path of {length} turns", milliseconds(lambda: history.turns.path(longest)))
        note("its last 100", milliseconds(lambda: history.turns.path(longest, last=100)))
        note("export it to JSON", milliseconds(lambda: to_json(history, [longest]), 3))
        note("export it to Markdown", milliseconds(lambda: to_markdown(history, longest), 3))
        chat = history.conversations.create().id
        note("ask (durable)", milliseconds(lambda: history.turns.ask(chat, "Where?"), 50))
        question = history.turns.ask(chat, "Where?").id
        answer = history.answer(question)
        note("append a token", milliseconds(lambda: answer.append(" token"), 5000))
        note("finish (durable)", milliseconds(lambda: answer.finish("stop"), 1))
        note(
            f"delete {length} turns", milliseconds(lambda: history.conversations.delete(longest), 1)
        )
    print(f"{turns} turns, {size:.0f} MB, {kind}", file=sys.stderr)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the file is made; default temporary")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(Path(folder) / "chat.db", options.turns)
    if options.json:
        print(json.dumps(rows, indent=1))
    for row in [] if options.json else rows:
        goal = f"  goal {row['goal_ms']:.0f}" if row["goal_ms"] else ""
        print(f"{row['what']:<52} {row['median_ms']:8.3f} ms, worst {row['worst_ms']:8.3f}{goal}")
    return int(any(row["goal_ms"] and row["worst_ms"] > row["goal_ms"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
