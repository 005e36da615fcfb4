"""Measure the exported files through llama.cpp: python scripts/train_demo/evaluate.py DIR

The same evaluation as `eftlocal eval demo`, of a folder just trained. Prints the tables and writes
results-SPLIT.json there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console

from eftlocal.study.evaluation import evaluate_demo, summary, tables
from eftlocal.study.report import as_json


def main() -> None:
    """Read the options, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the five GGUF files and questions.json")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--each", type=int, help="questions of every family (default: all)")
    args = parser.parse_args()
    figures = evaluate_demo(args.folder, split=args.split, each=args.each)
    path = args.folder / f"results-{args.split}.json"
    path.write_text(as_json(figures) + "\n", "utf-8")
    console = Console(width=110)
    for shown in tables(figures):
        console.print(shown)
    console.print(summary(figures), markup=False, highlight=False)


if __name__ == "__main__":
    main()
