"""The experiments of the papers, each a run of `eftlocal eval`, beside the published figures.

    python scripts/paper/run.py --list
    python scripts/paper/run.py NAME --out DIR [--data FILE] [-- MORE OPTIONS OF EVAL]
    python scripts/paper/run.py NAME --stand-in demo --out DIR [--limit 4]
    python scripts/paper/run.py --write

An interrupted run goes on where it was. After `--` stand options of `eftlocal eval`, as in
`-- --judge URL --judge-model NAME`. A stand-in has models that are at hand instead of the real
ones: all is run, and its figures say nothing of the paper's. --write makes docs/papers.md of
experiments.toml and of the figures in results/. What stand-ins are asked is in tiny/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from figures import EXPERIMENTS, HEADS, HERE, ROOT, TOLD, WARNING, figures, listed, markdown, table
from page import write
from small_models import NO_SMOLLM2, smollm2_file

from eftlocal.logits.recipe import TRIO
from eftlocal.output_file import write_whole

STAND_INS = tuple(TOLD["stand_in"])
PROGRAM = (sys.executable, "-m", "eftlocal")
FEW = "4", "24"  # items and tokens of a stand-in's run
UNTUNED = "base=plain", "reference=plain"  # stand-ins bring their tuned models' templates


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=EXPERIMENTS, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="show all experiments")
    parser.add_argument("--write", action="store_true", help="make docs/papers.md and its picture")
    parser.add_argument("--out", type=Path, help="folder for answers and figures")
    parser.add_argument("--stand-in", choices=STAND_INS, help="models at hand, not the real ones")
    parser.add_argument("--limit", help="at most N items")
    parser.add_argument("--data", help="the task's file")
    parser.add_argument(
        "--model", action="append", default=[], metavar="ROLE=FILE", help="instead of its own"
    )
    typed = sys.argv[1:]
    own = typed[: typed.index("--")] if "--" in typed else typed
    given = parser.parse_args(own, argparse.Namespace(more=typed[len(own) + 1 :]))
    if given.list:
        print(markdown(HEADS, map(listed, EXPERIMENTS.values())), end="")
    elif given.write:
        write(ROOT / "docs")
    elif given.name and given.out:
        sys.exit(run(given))
    else:
        parser.error("give --list, --write, or NAME and --out DIR")


def words(
    experiment: Mapping[str, Any],
    *,
    stand_in: str | None = None,
    limit: str | None = None,
    data: str | None = None,
    models: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line of `eftlocal` that an experiment is, without its outputs.

    Args:
        stand_in: one of STAND_INS, in place of the experiment's models.
        models: files for roles, instead of the experiment's.

    Raises:
        ValueError: a model or the data have to be made first, or are not here.
    """
    task = experiment["task"]
    found = ["eval", str(HERE / task) if task.endswith(".py") else task, *experiment["words"]]
    if stand_in:
        limit, found = limit or FEW[0], [*found, "--max-tokens", FEW[1], "--threads", "1"]
    of = TOLD["models"][experiment["models"]]
    for template in of.get("templates", ()):
        if not stand_in or template in UNTUNED:
            found += ["--chat-template", template]
    for role, model in of.items():
        if role != "templates":
            file = TOLD["stand_in"][stand_in][model["place"]] if stand_in else model["file"]
            found += _role(role, (models or {}).get(role, file))
    tiny = next((HERE / "tiny").glob(f"{task}.*"), None)
    if data is None and stand_in and tiny:
        data = str(tiny)
    if data is None and "data" in experiment:
        raise ValueError(f"{experiment['name']}: give --data FILE: {experiment['data']}")
    found += ["--data", data] if data else []
    return found + (["--limit", limit] if limit else [])


def _role(role: str, model: str) -> Iterator[str]:
    """The options that give a role its file."""
    if model.startswith("make: "):
        raise ValueError(
            f"{role}: no GGUF is known of {model[6:]}; make one, and give it: --model {role}=FILE"
        )
    file, _, adapter = model.partition("+")
    if file == "smollm2":
        found = smollm2_file()
        if found is None:
            raise ValueError(NO_SMOLLM2)
        file = str(found)
    elif (ROOT / file).is_file():
        file = str(ROOT / file)
    yield from (f"--{role}", file) if role in (*TRIO, "large") else ("--role", f"{role}={file}")
    if adapter:
        yield from ("--adapter", f"{role}={ROOT / adapter}")


def run(given: argparse.Namespace) -> int:
    """Runs an experiment; writes and prints its figures. Gives the exit status."""
    experiment = EXPERIMENTS[given.name]
    stem = f"{given.name}.stand-in-{given.stand_in}" if given.stand_in else given.name
    try:
        asked = words(
            experiment,
            stand_in=given.stand_in,
            limit=given.limit,
            data=given.data,
            models=dict(text.split("=", 1) for text in given.model),
        )
    except ValueError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    if "--judge" in given.more and "criteria" in experiment:
        asked += ["--criteria", experiment["criteria"]]
    given.out.mkdir(parents=True, exist_ok=True)
    asked += ["--metrics", "all", "--json", "--out", str(given.out / f"{stem}.jsonl"), *given.more]
    done = subprocess.run([*PROGRAM, *asked], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode or "--dry-run" in given.more:
        print(done.stdout, end="")
        return done.returncode
    measured = figures(experiment, json.loads(done.stdout))
    result = {"name": given.name, "stand_in": given.stand_in, **measured}
    write_whole(given.out / f"{stem}.json", json.dumps(result, indent=1) + "\n")
    if given.stand_in:
        print(f"{WARNING} ({given.stand_in})\n")
    print(table(experiment, result), end="")
    return 0


if __name__ == "__main__":
    main()
