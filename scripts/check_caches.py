"""What quantized KV caches do to the combination: divergence from f16 caches, on a text.

Usage: python scripts/check_caches.py [--base F --tuned F --reference F | --model F] [--windows 6]

Windows of the text follow a prompt of each role's own, so the roles' errors do not cancel even
where one model plays all of them (--model). Each window is scored with caches of every kind in
turn, by the same calls; f32 shows what another rounding does by itself. Means over windows, with
95% bootstrap intervals over windows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmark import one_line
from small_models import demo_files

from eftlocal import Emulator
from eftlocal.study.divergence import Divergence, divergence, log_probabilities
from eftlocal.study.statistics import mean

HERE = Path(__file__).resolve().parents[1]
TEXTS = ("README.md", "ARCHITECTURE.md", "docs/prompts.md", "docs/recipes.md", "docs/batch.md")
PROMPTS = {
    "base": "From the manual of a program:\n\n",
    "tuned": "Question: how does it work? Answer in full.\n\nAnswer: ",
    "reference": "Dear reader,\n\n",
}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "f32": {"cache_type_k": "f32", "cache_type_v": "f32"},
    "q8_0": {"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    "q8_0, base only": {"cache_type_k": {"base": "q8_0"}, "cache_type_v": {"base": "q8_0"}},
    "q4_0": {"cache_type_k": "q4_0", "cache_type_v": "q4_0"},
    "q4_0, base only": {"cache_type_k": {"base": "q4_0"}, "cache_type_v": {"base": "q4_0"}},
    "K q8_0, V q4_0": {"cache_type_k": "q8_0", "cache_type_v": "q4_0"},
}


def measure(
    files: Mapping[str, Path], kinds: list[str], windows: int, size: int, threads: int | None
) -> None:
    """Prints a line for each kind of cache."""
    options: dict[str, Any] = {"n_ctx": size + 64, "threads": threads, "trust": True}
    with ExitStack() as stack:
        emulators = {
            name: stack.enter_context(Emulator.from_files(**files, **options, **caches))
            for name, caches in {"f16": {}, **{kind: SETTINGS[kind] for kind in kinds}}.items()
        }
        of_f16 = emulators.pop("f16")
        model = of_f16.models["base"]
        prompts = {role: model.tokenize(text, add_bos=True) for role, text in PROMPTS.items()}
        text = "\n\n".join((HERE / name).read_text(encoding="utf-8") for name in TEXTS)
        tokens = model.tokenize(text, continues=True)
        found: dict[str, list[Divergence]] = {name: [] for name in emulators}
        for window in range(min(windows, len(tokens) // size)):
            part = tokens[window * size : (window + 1) * size]
            first = list(log_probabilities(of_f16, prompts, part))
            for name, emulator in emulators.items():
                second = log_probabilities(emulator, prompts, part)
                found[name].append(divergence(first, second))
    counted = size * len(found[kinds[0]])
    print(f"{', '.join(path.name for path in files.values())}: {counted} tokens")
    for name, means in found.items():
        line = f"{name:<18}"
        for figure in ("kl", "total_variation", "agreement"):
            value, low, high = mean([getattr(one, figure) for one in means])
            line += f"  {figure} {value:.4f} [{low:.4f}, {high:.4f}]"
        print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for role, file in demo_files().items():
        parser.add_argument(f"--{role}", type=Path, default=file)
    parser.add_argument("--model", type=Path, help="one file in all roles")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=SETTINGS,
        default=list(SETTINGS),
        metavar="KIND",
        help="of caches: " + "; ".join(SETTINGS),
    )
    parser.add_argument("--windows", type=int, default=6, help="how many")
    parser.add_argument("--size", type=int, default=448, help="tokens of a window")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    files = {role: options.model or getattr(options, role) for role in PROMPTS}
    with one_line("check_caches"):
        measure(files, options.kinds, options.windows, options.size, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
