"""The options of `eftlocal batch` that no other verb has."""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any

import typer

from eftlocal.batch.seeds import parse_shard
from eftlocal.errors import UsageError

_LINES, _OUTPUT, _RUN = "Lines", "Output", "Run"


class RowFormat(str, Enum):
    """What rows look like."""

    openai = "openai"
    plain = "plain"
    alpaca = "alpaca"
    humaneval = "humaneval"


def _option(flag: str, text: str, panel: str, **more: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)


Input = Annotated[
    str,
    typer.Argument(
        metavar="IN.jsonl",
        help="One request a line, gzip or not; '-' is stdin. A request is OpenAI Batch's "
        '{"custom_id", "body"}, or {"prompt"} or {"messages"} with any field of a body, or a line '
        "of AlpacaEval or HumanEval.",
    ),
]
OutputFile = Annotated[
    str,
    typer.Argument(
        metavar="OUT.jsonl",
        help="One row a line, as answers are ready; .gz is compressed, '-' is stdout. If it is "
        "there, the run goes on where it was left.",
    ),
]
Format = Annotated[
    RowFormat,
    _option("--format", "Of the rows: openai (default), plain, alpaca, humaneval.", _OUTPUT),
]
RetryErrors = Annotated[
    bool, _option("--retry-errors", "Answer lines again whose row is an error.", _OUTPUT)
]
SkipInvalid = Annotated[
    bool,
    _option("--skip-invalid", "Give bad lines an error row, and run the others.", _LINES),
]
Limit = Annotated[int | None, _option("--limit", "Only so many of the first lines.", _LINES, min=1)]
Shard = Annotated[
    str | None, _option("--shard", "Only the i-th of n parts, as in 1/4; see `merge`.", _LINES)
]
System = Annotated[
    str | None, _option("--system", "A system prompt where a line has none.", _LINES)
]
Raw = Annotated[
    bool, _option("--raw", "Go on with each prompt as it stands, without a template.", _LINES)
]
Parallel = Annotated[
    str | None,
    _option(
        "--parallel",
        "Lines at once: auto (default: by measured speed and by memory), or a number.",
        _RUN,
    ),
]
DryRun = Annotated[
    bool, _option("--dry-run", "Check everything, say what would be done, and stop.", _RUN)
]
Quiet = Annotated[bool, _option("--quiet", "No progress and no line of figures.", _RUN)]
Seed = Annotated[
    int, _option("--seed", "Each line's seed comes from this and its id (default: 0).", "Sampling")
]


def chosen_shard(text: str | None) -> tuple[int, int]:
    """(i, n) of "i/n"; without one the whole, (1, 1)."""
    if text is None:
        return 1, 1
    if place := parse_shard(text):
        return place
    raise UsageError(f"--shard {text}: give the part and how many there are, as in 1/4 to 4/4")


def chosen_parallel(text: str | None) -> int | None:
    """A number; None for "auto"."""
    if text is None or text == "auto":
        return None
    if re.fullmatch("[0-9]{1,3}", text) and 1 <= int(text) <= MOST_PARALLEL:
        return int(text)
    raise UsageError(f"--parallel {text}: give auto, or a number from 1 to {MOST_PARALLEL}")


MOST_PARALLEL = 256  # sequences of a context (LLAMA_MAX_SEQ)
