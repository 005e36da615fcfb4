"""Where the shards of a batch are written: beside its output, under names made from its own."""

from __future__ import annotations

import glob
from pathlib import Path

from eftlocal.errors import UsageError


def shard_path(output: Path, index: int | str, count: int | str) -> Path:
    """answers.jsonl.gz: answers.shard-1-of-4.jsonl.gz."""
    packed = ".gz" if output.name.endswith(".gz") else ""
    plain = Path(output.name.removesuffix(packed))
    return output.with_name(f"{plain.stem}.shard-{index}-of-{count}{plain.suffix}{packed}")


def shard_paths(output: Path, count: int) -> list[Path]:
    """Of all shards, the first first.

    Raises:
        UsageError: there is a shard of another number of them.
    """
    paths = [shard_path(output, index, count) for index in range(1, count + 1)]
    named_alike = shard_path(Path(glob.escape(output.name)), "*", "*").name
    for other in sorted(output.parent.glob(named_alike)):
        if other not in paths:
            raise UsageError(
                f"{other} is of a run with another --shards; give that number to go on with it, "
                "or remove its shards"
            )
    return paths
