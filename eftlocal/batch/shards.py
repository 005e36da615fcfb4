"""The shards of a batch: where they are written, and their outputs made one."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from eftlocal.batch.job import SHARD
from eftlocal.batch.lines import digest_of, parse_shard
from eftlocal.batch.output import FORMATS, Format, custom_id_of, is_error
from eftlocal.disk import beside, replacing
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.journal.file import WholeLines, encoder
from eftlocal.journal.journal import Row, locked, read_rows
from eftlocal.journal.manifest import (
    Manifest,
    differences,
    in_one_line,
    manifest_path,
    read_manifest,
    write_manifest,
)
from eftlocal.output_file import check_place


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
                f"{other} belongs to a run with another --shards; use that number to resume it, "
                "or remove its files"
            )
    return paths


@dataclass(frozen=True)
class Merged:
    """What came together.

    Attributes:
        rows: in the new file.
        failed: how many of them are errors.
        lines: of the input, where the manifests say so: with fewer rows a run was limited, or is
            unfinished.
    """

    rows: int
    failed: int
    lines: int | None


def merge(out: Path, shards: Sequence[Path]) -> Merged:
    """Writes the rows of all shards of one batch to `out`, with a manifest as of an unsharded run.

    Names ending in .gz are gzip, in and out.

    Raises:
        UsageError: `out` is there already or cannot be written; a shard is missing, given twice,
            of another batch, being written, torn or no output of a batch; an id is there twice.
        EftlocalError: the disk refuses.
    """
    real = check_place(out)
    if real.exists():
        raise UsageError(f"{out} already exists; name a new file for the merged rows")
    try:
        manifest = _one_manifest(shards)
        with ExitStack() as held:
            for shard in shards:
                _hold(shard, held)
            return _write(real, shards, manifest)
    except OSError as error:
        raise EftlocalError(
            f"{error.filename or out}: {error.strerror or error}; nothing was merged"
        ) from None


def _write(out: Path, shards: Sequence[Path], manifest: Manifest) -> Merged:
    encode, format = encoder(out), cast(Format, manifest["format"])
    owners: dict[bytes, int] = {}  # digest of an id to the index of its shard
    failed = 0
    with replacing(out) as file:
        for index, shard in enumerate(shards):
            for line, custom_id, is_failed in _rows(shard, format):
                digest = digest_of(custom_id)
                if digest in owners:
                    first = shards[owners[digest]]
                    where = f"{first} and {shard}" if first != shard else f"{shard} twice"
                    raise UsageError(f"id {custom_id!r} is in {where}; nothing was merged")
                owners[digest] = index
                failed += is_failed
                file.write(encode(line))
        write_manifest(out, manifest)
    lines = manifest.get("lines", "")
    return Merged(len(owners), failed, int(lines) if re.fullmatch("[0-9]{1,18}", lines) else None)


def _rows(shard: Path, format: Format) -> Iterator[tuple[bytes, str, bool]]:
    """Line, id, and whether it is an error."""

    def take(row: Row) -> tuple[str, bool]:
        return custom_id_of(row, format), is_error(row, format)

    lines = WholeLines(shard)
    needed = f"a row of a batch in the format {format}; nothing was merged"
    for line, found in read_rows(lines, take, shard, needed):
        yield line, *found
    if lines.torn:
        raise UsageError(
            f"{shard} ends in the middle of a row, so its run is not finished; run it again first"
        )


def _hold(shard: Path, held: ExitStack) -> None:
    """Keeps writers away. Without a lock file, or where none can write it, there are none."""
    real = shard.resolve()
    if os.access(beside(real, ".lock"), os.W_OK):
        lock = locked(real, f"{shard} is still being written; wait for its run to end")
        held.callback(lock.release)


def _one_manifest(shards: Sequence[Path]) -> Manifest:
    """That of the whole batch, all its shards being there."""
    if not shards:
        raise UsageError("no shards to merge; name their files")
    manifests = [_manifest(shard) for shard in shards]
    first, count = manifests[0], _place(shards[0], manifests[0])[1]
    owners: dict[int, Path] = {}
    for shard, manifest in zip(shards, manifests, strict=True):
        told = "{key} is {then} in the one and {now} in the other"
        now = manifest | {SHARD: first[SHARD]}
        faults = differences(first, now, told)
        if faults:
            raise UsageError(f"{shards[0]} and {shard} are not of one batch: {in_one_line(faults)}")
        index, its_count = _place(shard, manifest)
        if its_count != count:
            raise UsageError(
                f"{shards[0]} is one of {count} shards and {shard} one of {its_count}; they "
                "cannot be merged"
            )
        if index in owners:
            raise UsageError(
                f"{owners[index]} and {shard} are both shard {index}/{count}; leave one out"
            )
        owners[index] = shard
    if lacking := count - len(owners):
        missing = next(index for index in range(1, count + 1) if index not in owners)
        more = f" and {lacking - 1} more" if lacking > 1 else ""
        raise UsageError(f"shard {missing}/{count}{more} missing; name the files of all shards")
    return first | {SHARD: "1/1"}


def _manifest(shard: Path) -> Manifest:
    if not shard.is_file():
        raise UsageError(f"there is no file {shard}")
    found = read_manifest(shard.resolve())
    if found is None:
        raise UsageError(
            f"{shard} has no {manifest_path(shard.resolve()).name} beside it, so it may not be the "
            "output of a batch; move the two together"
        )
    manifest = {key: str(value) for key, value in found.items()}
    if manifest.get("format") not in FORMATS or SHARD not in manifest:
        raise UsageError(
            f"{shard} is not the output of a batch, according to {manifest_path(shard).name}"
        )
    return manifest


def _place(shard: Path, manifest: Manifest) -> tuple[int, int]:
    if place := parse_shard(manifest[SHARD]):
        return place
    raise UsageError(f"{shard}: its manifest says shard {manifest[SHARD]!r}, which is not a shard")
