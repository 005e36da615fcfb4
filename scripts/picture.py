"""Draw the README's picture: a real `eftlocal run` on the demo trio, as an SVG of a terminal.

Usage: .venv/bin/python scripts/picture.py [docs/demo.svg]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "In which country is Toulouse?"
COMMAND = ["run", QUESTION, "--show", "tuned,base", "--temperature", "0", "--max-tokens", "40"]
WIDTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", nargs="?", type=Path, default=ROOT / "docs" / "demo.svg")
    target: Path = parser.parse_args().target
    program = Path(sys.executable).with_name("eftlocal")
    environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}
    shown = subprocess.run(
        [str(program), *COMMAND], capture_output=True, text=True, check=True, env=environment
    )
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(f'$ eftlocal run "{QUESTION}" --show tuned,base', highlight=False)
        console.print(Text.from_ansi(shown.stdout.rstrip()))
        console.print(Text.from_ansi(shown.stderr.rstrip()), style="dim")
        svg = console.export_svg(title="eftlocal")
    # The fonts of the machine that shows it will do: a picture must not ask the network.
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
