"""How long `eftlocal models find` takes for many files.

Usage: python scripts/bench_find.py --files 1000

The files have whole headers of real sizes, in four vocabularies of 32,000 to 152,000 tokens, each
with a name of its own, and a hole in the place of their weights. Every header is read from the
page cache; --cold tells the kernel to forget the files first (Linux).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from random_gguf import SHAPES, write_hollow_model

from eftlocal.gguf_file.header import read_header
from eftlocal.library.guess import guesses
from eftlocal.library.inventory import take
from eftlocal.library.places import Place
from eftlocal.library.trios import trios

VOCABULARIES = (32000, 49152, 128256, 151936)  # of Llama 2, SmolLM2, Llama 3 and Qwen2.5


def write_files(folder: Path, count: int) -> int:
    """Write so many models; the bytes of their headers."""
    written = 0
    templates = []
    for n_vocab in VOCABULARIES:
        for shape in ("1b", "8b"):
            path = write_hollow_model(folder / "one", replace(SHAPES[shape], n_vocab=n_vocab))
            weights = read_header(path).tensors[0].offset
            with path.open("rb") as file:
                templates.append((file.read(weights), path.stat().st_size, shape))
            path.unlink()
    for number in range(count):
        head, size, shape = templates[number % len(templates)]
        name = b"random " + str(SHAPES[shape].n_layers).encode()
        own = f"{number:06}"[: len(name)].rjust(len(name)).encode()
        kind = ("base", "instruct")[number // len(templates) % 2]
        path = folder / f"family{number // 16}.{number % 8}-{shape}-{kind}.gguf"
        path.write_bytes(head.replace(name, own, 1))
        os.truncate(path, size)
        written += len(head)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--cold", action="store_true", help="forget the files' pages first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_files(folder, options.files)
        if options.cold:
            for path in folder.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began, own = time.perf_counter(), time.process_time()
        found = take([Place("", folder)])
        read, own_read = time.perf_counter() - began, time.process_time() - own
        proposed, count = trios(guesses(found.models), 5)
        both, own_both = time.perf_counter() - began, time.process_time() - own
    print(f"{len(found.models)} headers, {written / 2**20:,.0f} MiB")
    print(f"read in {read:.1f} s, {own_read:.1f} s of a CPU; {len(found.broken)} broken")
    print(f"with {len(proposed)} of {count} trios {both:.1f} s, {own_both:.1f} s of a CPU")


if __name__ == "__main__":
    main()
