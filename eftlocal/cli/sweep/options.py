"""The options of `eftlocal sweep` that no other verb has."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from eftlocal.cli.completion import recipes
from eftlocal.cli.eval import Split
from eftlocal.cli.options import GROUPS

_GRID = "Grid: 0,0.5,1, off or a range 0:2:0.25; every combination is run"
_ASKED, _OUTPUT = "Prompts", "Output"


class Questions(str, Enum):
    """Sets of questions with right answers."""

    demo = "demo"


def _option(flag: str, text: str, panel: str, **more: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)


def _dial(flag: str, text: str, **more: Any) -> Any:
    return _option(flag, text, _GRID, metavar="VALUES", **more)


PromptsFile = Annotated[
    Path | None,
    _option(
        "--prompts",
        'One prompt a line; or a .jsonl of objects with "prompt" or "messages", and "gold" '
        "(a right answer, or a list) where one is known.",
        _ASKED,
    ),
]
QuestionSetName = Annotated[
    Questions | None,
    _option("--questions", "demo: the demo's held-out questions with answers.", _ASKED),
]
SplitName = Annotated[
    Split | None,
    _option("--split", "Of the questions: validation (default) or test.", _ASKED),
]
Limit = Annotated[
    int | None, _option("--limit", "So many prompts at most, evenly spread.", _ASKED, min=1)
]
System = Annotated[str | None, _option("--system", "A system prompt before each.", _ASKED)]
Raw = Annotated[
    bool, _option("--raw", "Go on with each prompt as it stands, without a template.", _ASKED)
]

Out = Annotated[
    Path | None,
    _option(
        "--out",
        "Results, one JSON object a line, as they come. Run the same command again to go on "
        "after an interruption; points may be added.",
        _OUTPUT,
    ),
]
Metrics = Annotated[
    str | None, _option("--metrics", "Show these only, as in exact,tokens.", _OUTPUT)
]
Json = Annotated[bool, _option("--json", "Print the figures as JSON.", _OUTPUT)]
Picture = Annotated[
    Path | None,
    _option("--plot", "Curves, or heat maps over two dials (extra `plot`).", _OUTPUT),
]
Page = Annotated[Path | None, _option("--html", "The answers side by side, in one page.", _OUTPUT)]
DryRun = Annotated[
    bool, _option("--dry-run", "Print the grid and the number of answers; run nothing.", _OUTPUT)
]

_RECIPES = _dial(
    "--recipe",
    "Names: upscale,proxy. Weights, parted by semicolons: 'tuned;base=1,tuned=1,reference=-1'.",
    autocompletion=recipes,
)
_LAMBDAS = _dial(
    "--lambda",
    "Numbers (realignment); or shares of tuned roles: tuned=0:1:0.25,plain=rest is a line "
    "on which plain takes the rest, a=0:1:0.5,b=0:1:0.5,c=rest a lattice, and "
    "'tuned=0,plain=1;tuned=0.5,plain=0.5' points written out.",
)
_TEMPERATURES = _dial("--temperature", "0 is greedy (default: the preset's; 0 with --questions).")


def axes() -> dict[str, Any]:
    """The options that are axes of a grid: every dial of a recipe and of sampling."""
    found = {}
    for name, dial in (GROUPS["recipe"] | GROUPS["sampling"]).items():
        if name not in ("any_sum", "seed"):
            flag = "--" + name.replace("_", "-")
            found[name] = Annotated[str | None, _dial(flag, dial.__metadata__[0].help)]
    return found | {
        "recipe": Annotated[str | None, _RECIPES],
        "lambda_": Annotated[str | None, _LAMBDAS],
        "temperature": Annotated[str | None, _TEMPERATURES],
    }


Seed = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="INTEGER",
        help="Every prompt's own seed is derived from it.",
        rich_help_panel="Sampling",
    ),
]
Speculative = Annotated[
    str,
    typer.Option(
        help="Tokens of a draft: off, auto, or 1 to 16. With drafts there is an acceptance to "
        "measure; auto follows this machine's speed, so another run may round otherwise.",
        rich_help_panel="Speculation (changes the speed, never the distribution)",
    ),
]
