"""Whole loads through the program's own door, one after another, for a parent that watches.

Reads a case a line from stdin, {"model": PATH, "lora": PATH or null}, and answers with a line:
{"outcome": "loaded" | "header" | "child" | "engine" | "traceback", "error": ..., "message": ...}.
"header" is a refusal before llama.cpp saw the file, "child" one of a first load in a process of
its own, "engine" one of llama.cpp itself in this process.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from eftlocal import Emulator
from eftlocal.defaults import Defaults
from eftlocal.errors import EftlocalError
from eftlocal.loading.roles import RoleSource
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.settings import OFF

TEXT = "Hello, wörld 123\n\t<s></s><|end|> \u2581 \U0001f600 the end."
DEFAULTS = Defaults(recipe=parse_recipe("base"), sampling=Sampling(temperature=0.0, seed=1))


def load(model: str, lora: str | None) -> None:
    """Loads, tokenizes, generates two tokens, and reads pieces of the vocabulary."""
    source = RoleSource(Path(model), lora=Path(lora) if lora else None, n_ctx=64, threads=1)
    with Emulator.from_sources({"base": source}, defaults=DEFAULTS) as emulator:
        emulator.generate(TEXT, raw=True, max_tokens=2, speculation=OFF)


def outcome(model: str, lora: str | None) -> dict[str, Any]:
    try:
        load(model, lora)
    except EftlocalError as error:
        names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        files = {Path(f.filename).name for f in traceback.extract_tb(error.__traceback__)}
        where = "child" if files & {"trial.py"} else "header" if "prepare" in names else "engine"
        return {"outcome": where, "error": type(error).__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - what a fuzzer looks for
        return {"outcome": "traceback", "error": type(error).__name__,
                "message": traceback.format_exc()}  # fmt: skip
    return {"outcome": "loaded", "error": None, "message": ""}


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        print(json.dumps(outcome(case["model"], case["lora"])), flush=True)


if __name__ == "__main__":
    main()
