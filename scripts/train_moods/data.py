"""Prompts and answers in each mood, from the package moodswapper (MIT), and which are held out."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, distribution
from pathlib import Path

VERSION = "26.09.21"
MOODS = {"calm": "zen", "happy": "happy"}
"""Our name of a mood and the package's."""
HELD_OUT = 0.28  # of all prompts: some 200, the same for every mood


def package() -> Distribution:
    """The installed package, at the version that the moods were trained on."""
    found = distribution("moodswapper")
    if found.version != VERSION:
        raise SystemExit(f"moodswapper {found.version} is installed; this takes {VERSION}")
    return found


def _read(name: str) -> str:
    return Path(str(package().locate_file(f"moodswapper/data/{name}"))).read_text("utf-8")


def all_prompts() -> list[str]:
    """Every ordinary prompt of the package, answered in some moods and not in others."""
    return [entry["prompt"] for entry in json.loads(_read("prompts.json"))["generation"]]


def answers(mood: str) -> dict[str, str]:
    """Prompt to its answer in a mood of ours; refusals of harmful prompts, too, in no mood."""
    rows = [json.loads(line) for line in _read(f"{MOODS[mood]}.jsonl").splitlines()]
    return {row["prompt"]: row["response"] for row in rows}


def write_examples(mood: str, path: Path) -> None:
    """A mood's examples as `eftlocal.tuning` reads them."""
    lines = [json.dumps({"prompt": p, "completion": a}) for p, a in answers(mood).items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
