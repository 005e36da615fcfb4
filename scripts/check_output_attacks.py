"""Shows that `eftlocal batch` loses no row in silence, whatever is done to its output meanwhile.

Usage: .venv/bin/python scripts/check_output_attacks.py [--rounds N] [--lines N] [--seed S]

A batch on the demo trio runs; at a random moment its output, its manifest, its lock or its folder
is attacked: removed, renamed, replaced, cut, written to, linked, locked away, or the disk is full.
Every attack is made --rounds (2) times. Then

- an exit code of 0 is believed only if every id is in the output, once;
- what the last line of an exit code of 1 says is safe must be where it says;
- what the line tells to do (put it back, run the same command again) must complete the output.

The exit code is 1 if any of this fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RUN = [sys.executable, str(Path(__file__).with_name("run_batch.py"))]
OPTIONS = ["--temperature", "0", "--max-tokens", "24", "--format", "plain", "--quiet"]
PATIENCE = 300.0  # seconds
SAFE = re.compile(r"(\d+) rows? safe in (.*); put it back")


@dataclass
class Place:
    """Where one batch runs.

    Attributes:
        folder: for this batch alone.
        elsewhere: another folder beside it.
    """

    folder: Path
    elsewhere: Path

    @property
    def source(self) -> Path:
        return self.folder.parent / "in.jsonl"

    @property
    def out(self) -> Path:
        return self.folder / "out.jsonl"

    @property
    def manifest(self) -> Path:
        return self.folder / "out.jsonl.manifest.json"

    def other(self, data: bytes = b'{"custom_id": "other"}\n') -> Path:
        path = self.elsewhere / "other"
        path.write_bytes(data)
        return path


def cut(place: Place, share: float) -> None:
    os.truncate(place.out, int(place.out.stat().st_size * share))


def written_over(place: Place) -> None:
    place.out.write_bytes(b"x" * place.out.stat().st_size)


def cut_and_filled(place: Place) -> None:
    size = place.out.stat().st_size
    os.truncate(place.out, 0)
    os.truncate(place.out, size)


def appended(place: Place, data: bytes) -> None:
    with place.out.open("ab") as file:
        file.write(data)


def replaced(place: Place, data: bytes | None = None) -> None:
    place.other(place.out.read_bytes() if data is None else data).replace(place.out)


def linked(place: Place, then: Callable[[Place], object]) -> None:
    os.link(place.out, place.folder / "linked.jsonl")
    then(place)


def moved_and_linked(place: Place, target: Path | None = None) -> None:
    moved = place.elsewhere / "moved.jsonl"
    place.out.rename(moved)
    place.out.symlink_to(target or moved)


def renamed_then(place: Place, make: Callable[[Path], object]) -> None:
    place.out.rename(place.folder / "renamed.jsonl")
    make(place.out)


def folder_renamed(place: Place, *, anew: bool = False) -> None:
    place.folder.rename(place.elsewhere / "folder")
    if anew:
        place.folder.mkdir()


Attack = Callable[[Place], object]
ATTACKS: dict[str, Attack] = {
    "removed": lambda p: p.out.unlink(),
    "renamed": lambda p: p.out.rename(p.folder / "renamed.jsonl"),
    "moved to another folder": lambda p: p.out.rename(p.elsewhere / "moved.jsonl"),
    "replaced by another file": lambda p: replaced(p, b'{"custom_id": "other"}\n'),
    "replaced by an empty file": lambda p: replaced(p, b""),
    "replaced by a copy of itself": replaced,
    "cut to nothing": lambda p: cut(p, 0.0),
    "cut to a half": lambda p: cut(p, 0.5),
    "cut by some bytes": lambda p: os.truncate(p.out, p.out.stat().st_size - 7),
    "written over": written_over,
    "cut and filled with zeros": cut_and_filled,
    "filled with zeros beyond its end": lambda p: appended(p, bytes(4096)),
    "a note appended": lambda p: appended(p, b"note\n"),
    "a row appended": lambda p: appended(p, b'{"custom_id": "other", "text": "x"}\n'),
    "linked, then replaced": lambda p: linked(p, lambda q: replaced(q, b"x\n")),
    "linked, then removed": lambda p: linked(p, lambda q: q.out.unlink()),
    "linked only": lambda p: linked(p, lambda q: None),
    "moved, a link to it in its place": moved_and_linked,
    "moved, a link to another file": lambda p: moved_and_linked(p, p.other()),
    "moved, a link to nothing": lambda p: moved_and_linked(p, p.elsewhere / "nothing"),
    "moved, a folder in its place": lambda p: renamed_then(p, Path.mkdir),
    "moved, a pipe in its place": lambda p: renamed_then(p, os.mkfifo),
    "its folder renamed": folder_renamed,
    "its folder renamed, another in its place": lambda p: folder_renamed(p, anew=True),
    "its folder removed": lambda p: shutil.rmtree(p.folder),
    "made read-only": lambda p: p.out.chmod(0o400),
    "its folder made read-only": lambda p: p.folder.chmod(0o500),
    "touched": lambda p: p.out.touch(),
    "manifest removed": lambda p: p.manifest.unlink(),
    "manifest replaced": lambda p: p.manifest.write_text("{}"),
    "lock removed": lambda p: (p.folder / "out.jsonl.lock").unlink(),
    "full disk": lambda p: None,
}
FULL = "full disk"


class Wrong(Exception):  # noqa: N818 - what the program said is wrong
    """Something that was promised is not so."""


def ids_of(path: Path, most: int | None = None) -> list[str]:
    """Of the whole lines of a file, in order; Wrong where one is no row."""
    lines = path.read_bytes().split(b"\n")[:-1][:most]
    try:
        return [json.loads(line)["custom_id"] for line in lines]
    except (ValueError, LookupError, TypeError) as error:
        raise Wrong(f"{path} holds what is no row: {error!r}") from None


def started(place: Place, limit: int | None = None) -> subprocess.Popen[str]:
    command = [*RUN, str(place.source), str(place.out), *OPTIONS]
    if limit is not None:  # bytes of a file: the disk is full
        command = ["sh", "-c", 'ulimit -f "$0"; exec "$@"', str(limit // 512), *command]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and the last line that it said."""
    _, said = process.communicate(timeout=PATIENCE)
    if "Traceback" in said:
        raise Wrong(f"a traceback: {said}")
    return process.returncode, said.strip().rpartition("\n")[2]


def attacked(place: Place, name: str, after: int) -> tuple[int, str]:
    """Runs a batch and attacks it once so many rows are there."""
    process = started(place, (after * 300 // 512 + 1) * 512 if name == FULL else None)
    while process.poll() is None:
        if place.out.exists() and place.out.read_bytes().count(b"\n") >= after:
            ATTACKS[name](place)
            break
        time.sleep(0.002)
    return ended(process)


def put_right(place: Place, name: str, said: str) -> None:
    """Does what the line says, so that the same command can be run again."""
    if found := SAFE.search(said):
        rows, kept = int(found[1]), Path(found[2])
        if len(there := ids_of(kept, rows)) != rows or len(set(there)) != rows:
            raise Wrong(f"{rows} rows are promised in {kept} and {len(there)} are there")
        if kept.parent != place.folder and kept.parent.name == "folder":
            shutil.rmtree(place.folder, ignore_errors=True)
            kept.parent.rename(place.folder)
        elif kept != place.out:
            if place.out.is_dir() and not place.out.is_symlink():
                place.out.rmdir()
            kept.replace(place.out)
    elif found := re.search(r"(\d+) rows? safe before them", said):
        rows = int(found[1])
        if len(set(ids_of(place.out, rows))) != rows:
            raise Wrong(f"{rows} rows are promised, and are not there")
        lines = place.out.read_bytes().split(b"\n")
        place.out.write_bytes(b"\n".join(lines[:rows]) + b"\n")
    elif "the remaining rows are safe" in said:
        ids_of(place.out)
    elif "lost; run the same command again to start over" in said:
        place.folder.mkdir(exist_ok=True)  # it was removed with the rows
    elif "lost, unless that file holds them" in said or "another output file" in said:
        place.out.unlink()
    elif "what is done is kept, so make room" in said:
        ids_of(place.out)
    else:
        raise Wrong(f"nobody knows what to do now: {said}")


def tried(folder: Path, name: str, lines: int, chance: random.Random) -> str:
    """One attack. Returns how it ended; raises Wrong."""
    place = Place(folder / "batch", folder / "elsewhere")
    place.folder.mkdir()
    place.elsewhere.mkdir()
    wanted = [f"q{i}" for i in range(lines)]
    with place.source.open("w") as file:
        for custom_id in wanted:
            file.write(json.dumps({"custom_id": custom_id, "prompt": f"Where is {custom_id}?"}))
            file.write("\n")
    code, said = attacked(place, name, chance.randrange(1, lines * 3 // 4))
    if code == 1:
        put_right(place, name, said)
        again, words = ended(started(place))
        if again != 0:
            raise Wrong(f"after {said!r} the same command ends with {again}: {words}")
    elif code != 0:
        raise Wrong(f"exit code {code}: {said}")
    if sorted(ids_of(place.out)) != sorted(wanted):
        raise Wrong(f"exit code {code}, {said!r}: {len(ids_of(place.out))} of {lines} rows")
    if not place.manifest.exists():
        raise Wrong(f"exit code {code}, {said!r}: no manifest")
    shown = re.sub(r"\S*/", "", said.removeprefix("eftlocal: "))
    return f"exit {code}{': ' + shown if shown else ', every row is there'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lines", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    chance, wrong, told, count = random.Random(options.seed), 0, 0, 0
    began = time.monotonic()
    for name in [name for name in ATTACKS for _ in range(options.rounds)]:
        count += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                how = tried(Path(folder), name, options.lines, chance)
                told += how.startswith("exit 1")
            except Wrong as error:
                how, wrong = f"WRONG: {error}", wrong + 1
            for path in (Path(folder) / "batch", Path(folder) / "elsewhere" / "folder"):
                if path.is_dir():
                    path.chmod(0o700)
        print(f"{name}: {how}", flush=True)
    print(
        f"{count} attacks in {time.monotonic() - began:.0f} s: {told} ended with exit code 1 and "
        f"a line that was true, {count - told - wrong} changed nothing, {wrong} WRONG"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
