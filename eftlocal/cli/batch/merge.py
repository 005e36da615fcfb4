"""`eftlocal batch merge`: the outputs of shards into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eftlocal.cli.screen import tell


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="A new file for all rows.")],
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD...", help="The outputs of all shards.")
    ],
) -> None:
    """Put the outputs of all shards of one batch together, whole or not at all."""
    from eftlocal.batch.merge import merge as merge_shards

    merged = merge_shards(out, shards)
    failed = f", {merged.failed} of them errors" if merged.failed else ""
    tell(f"{out}: {merged.rows} rows{failed}")
    if merged.lines is not None and merged.rows < merged.lines:
        tell(
            f"note: the input has {merged.lines} lines: {merged.lines - merged.rows} have no row; "
            "were the shards limited, or left unfinished?"
        )
