"""Remake the demo: train all its models, put them where they are shipped, measure what they do.

    python scripts/train_demo/remake.py --out DIR --threads 1

Each step's results stay in DIR, and what is there is not made again. The tables of this folder's
README.md and of docs/recipes.md, and the demo's pictures in docs, are written anew.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from vocabularies import VOCABULARIES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO = ROOT / "eftlocal" / "demo"
CROSS = "bpe-500"  # the pair of another vocabulary that is shipped
STEPS = ("train", "ship", "measure")


def trained(out: Path, *, pairs: bool) -> Iterator[list[str]]:
    """The options of run.py, training by training: the demo, its style "twice", the pairs."""
    yield ["--out", str(out / "demo")]
    (out / "twice").mkdir(exist_ok=True)
    for name in ("base_first.pt", "reference_first.pt"):  # the first stream is the same
        shutil.copyfile(out / "demo" / name, out / "twice" / name)
    yield ["--style", "twice", "--out", str(out / "twice")]
    for name in VOCABULARIES if pairs else (CROSS,):
        if name != "demo":
            yield ["--pair", name, "--out", str(out / name)]


def ship(out: Path) -> None:
    """Puts the files where the package has them."""
    for name in ("base", "reference", "tuned", "plain", "large_tuned"):
        shutil.copyfile(out / "demo" / f"{name}.gguf", DEMO / f"{name}.gguf")
    shutil.copyfile(out / "demo" / "questions.json", DEMO / "questions.json")
    for name in ("tuned", "reference"):
        shutil.copyfile(out / CROSS / f"{name}.gguf", DEMO / f"cross_{name}.gguf")
    for name in ("tokenizer.json", "tokenization.json"):
        shutil.copyfile(out / "demo" / name, HERE / name)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--config", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--pairs", action="store_true", help="train every other vocabulary's, too")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="default: all")
    asked = parser.parse_args()
    if "train" in asked.steps:
        common = ["--config", asked.config, "--threads", asked.threads]
        common += ["--downloads", str(asked.out / "downloads")]
        for options in trained(asked.out, pairs=asked.pairs):
            subprocess.run([sys.executable, HERE / "run.py", *common, *options], check=True)
    if "ship" in asked.steps:
        ship(asked.out)
    if "measure" in asked.steps:
        import measure

        measure.write(asked.out)


if __name__ == "__main__":
    main()
