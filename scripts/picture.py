"""Draw the README's pictures: real runs of `eftlocal run`, as SVGs of a terminal.

Usage: .venv/bin/python scripts/picture.py [moods|demo] [FILE.svg]
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "moods": ["How do I get better at running?", "--preset", "moods", "--show", "calm,happy,base"],
    "demo": ["In which country is Toulouse?", "--show", "tuned,base"],
}
GREEDY = ["--temperature", "0", "--max-tokens", "48"]
WIDTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", nargs="?", choices=RUNS, default="moods")
    parser.add_argument("target", nargs="?", type=Path, help="default: docs/RUN.svg")
    arguments = parser.parse_args()
    target: Path = arguments.target or ROOT / "docs" / f"{arguments.run}.svg"
    asked = RUNS[arguments.run]
    program = Path(sys.executable).with_name("eftlocal")
    environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}
    shown = subprocess.run(
        [str(program), "run", *asked, *GREEDY],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(f"$ eftlocal run {shlex.join(asked)}", highlight=False)
        console.print(Text.from_ansi(shown.stdout.rstrip()))
        console.print(Text.from_ansi(shown.stderr.rstrip()), style="dim")
        svg = console.export_svg(title="eftlocal")
    # The fonts of the machine that shows it will do: a picture must not ask the network.
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
