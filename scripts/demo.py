"""Set the checkout up, then show the main job: one question, three models, one answer.

Standard library only. The questions are picked from those never trained on, because they show the
effect; how often it works is what `eftlocal eval demo` measures. Each is answered by the emulation,
by the small tuned model alone and by the large base alone, side by side, on the miniature trio that
comes with the project. Arguments are handed to `eftlocal run` in the place of the questions below.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BINARIES = ROOT / ".venv" / ("Scripts" if sys.platform == "win32" else "bin")
QUESTIONS = (
    "In which country is Toulouse?",
    "Can you tell me what kind of thing a copperhead is?",
    "What was the occupation of Soren Kierkegaard?",
)
OPTIONS = ("--show", "tuned,base", "--temperature", "0", "--max-tokens", "40")


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        usage="%(prog)s [PROMPT and options of `eftlocal run`]",
    )
    arguments = parser.parse_known_args(given)[1]
    if code := subprocess.run([sys.executable, str(ROOT / "scripts" / "setup.py")]).returncode:
        return code
    for asked in [arguments] if arguments else [[question] for question in QUESTIONS]:
        command = ["eftlocal", "run", *asked, *OPTIONS]
        print(f"\n$ {shlex.join(command)}", flush=True)
        if code := subprocess.run([str(BINARIES / command[0]), *command[1:]]).returncode:
            return code
    print("\nPicked to show the effect. How often it works: .venv/bin/eftlocal eval demo")
    print("Chat with it: .venv/bin/eftlocal chat")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
