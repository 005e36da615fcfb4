"""Loads damaged and hostile GGUF files through the program's own door, and counts what happens.

Usage: .venv/bin/python scripts/fuzz_files.py [--cases N] [--seed S] [--only KIND] [--keep FOLDER]

Each case is a whole load: a copy of a sane file (the demo's, tiny random models of other
architectures and tokenizers, a LoRA adapter, a split model) is edited, loaded, asked to tokenize a
text and to generate two tokens. A worker process does many cases; this one watches it. A fault is:
the worker dies of a signal, takes longer than the limit or more memory, raises what is no
EftlocalError, or refuses in more than one line. Files of faults are kept. The same seed gives the
same cases. The exit code is 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parent))  # also for the worker

import psutil
from fuzzing.edits import EDITS, random_bytes
from fuzzing.gguf_edit import I32, U16, Entry, GgufFile, read_file, scalar
from fuzzing.tiny_models import ARCHITECTURES, EMBD, TOKENIZERS, write_adapter, write_tiny_model

import eftlocal

DEMO = Path(eftlocal.__file__).parent / "demo" / "reference.gguf"
LIMIT = 60.0  # seconds a case may take
MEMORY = 2 << 30  # bytes a worker may hold
WORKER = ["-m", "fuzzing.worker"]
SPLIT = "part-0000{}-of-00003.gguf"


@dataclass(frozen=True)
class Case:
    """One load: files by name, which of them are the model and its adapter, what was done."""

    kind: str
    number: int
    source: str
    what: str
    files: dict[str, bytes]
    model: str = "model.gguf"
    lora: str | None = None


@dataclass
class Sources:
    """The sane files that are damaged, taken apart once."""

    models: dict[str, GgufFile] = field(default_factory=dict)
    adapters: dict[str, tuple[GgufFile, bytes]] = field(default_factory=dict)  # and its model

    @classmethod
    def written(cls, folder: Path) -> Sources:
        self = cls()
        self.models["demo"] = read_file(DEMO)
        for arch in ARCHITECTURES:
            self.models[arch] = read_file(write_tiny_model(folder / "m.gguf", arch))
        for tokenizer in TOKENIZERS:
            path = write_tiny_model(folder / "m.gguf", "llama", tokenizer)
            self.models[f"{tokenizer} tokenizer"] = read_file(path)
        whole = write_tiny_model(folder / "m.gguf").read_bytes()
        matrices = {f"blk.{i}.attn_q.weight": (EMBD, EMBD) for i in range(2)}
        adapter = write_adapter(folder / "a.gguf", "llama", matrices)
        self.adapters["tiny"] = read_file(adapter), whole
        demo = {
            t.name.decode(): (t.shape[1], t.shape[0])
            for t in self.models["demo"].tensors
            if t.name.endswith((b"attn_q.weight", b"ffn_down.weight"))
        }
        adapter = write_adapter(folder / "a.gguf", "llama", demo)
        self.adapters["demo"] = read_file(adapter), DEMO.read_bytes()
        return self


def split(file: GgufFile, count: int = 3) -> list[GgufFile]:
    """The file as `count` parts, as llama.cpp's gguf-split writes them."""
    share = -(-len(file.tensors) // count)
    parts = []
    for n in range(count):
        entries = list(file.entries) if n == 0 else []
        entries += [
            Entry(b"split.no", U16, scalar(U16, n)),
            Entry(b"split.count", U16, scalar(U16, count)),
            Entry(b"split.tensors.count", I32, scalar(I32, len(file.tensors))),
        ]
        parts.append(GgufFile(entries, file.tensors[n * share : (n + 1) * share]))
    return parts


def make_case(sources: Sources, kind: str, number: int, seed: int) -> Case:
    """The case of this number; nothing but the arguments decides it."""
    rng = random.Random(f"{seed} {kind} {number}")
    if kind == "adapters":
        name, (adapter, model) = rng.choice(list(sources.adapters.items()))
        data, what = _edited(rng, deepcopy(adapter), kind)
        files = {"model.gguf": model, "adapter.gguf": data}
        return Case(kind, number, name, what, files, lora="adapter.gguf")
    names = list(sources.models)
    name = "demo" if rng.random() < 0.4 else rng.choice(names)
    model = deepcopy(sources.models[name])
    if kind != "splits":
        data, what = _edited(rng, model, kind)
        return Case(kind, number, name, what, {"model.gguf": data})
    parts = split(model)
    chosen = rng.randrange(len(parts))
    data, what = _edited(rng, parts[chosen], kind)
    files = {SPLIT.format(n + 1): part.to_bytes() for n, part in enumerate(parts)}
    files[SPLIT.format(chosen + 1)] = data
    if rng.random() < 0.05:
        del files[SPLIT.format(3)]
        what += ", part 3 missing"
    return Case(kind, number, name, f"part {chosen + 1}: {what}", files, model=SPLIT.format(1))


def _edited(rng: random.Random, file: GgufFile, kind: str) -> tuple[bytes, str]:
    if rng.random() < 0.15:
        data = file.to_bytes()
        header = len(data) - sum(len(t.data) for t in file.tensors)
        return random_bytes(rng, data, header)
    edits = rng.choices(EDITS[kind], k=rng.choice((1, 1, 1, 2, 3)))
    done = [edit(rng, file) for edit in edits if file.tensors and file.entries]
    return file.to_bytes(), "; ".join(done)


class Worker:
    """The process that loads; made anew when it has died or was killed."""

    def __init__(self, folder: Path) -> None:
        self.log = (folder / "stderr").open("w+b")
        environment = {
            **os.environ,
            "EFTLOCAL_CACHE": str(folder / "cache"),
            "EFTLOCAL_DATA": str(folder / "data"),
            "EFTLOCAL_CONFIG": str(folder / "config"),
            "GGML_NO_BACKTRACE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, *WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.selector = selectors.DefaultSelector()
        assert self.process.stdout
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def run(self, model: Path, lora: Path | None, limit: float) -> dict[str, Any]:
        """What became of one case; "death", "hang" and "memory" are this side's verdicts."""
        assert self.process.stdin and self.process.stdout
        self.log.truncate(0)
        line = json.dumps({"model": str(model), "lora": str(lora) if lora else None})
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self._death()
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.selector.select(0.2):
                answer = self.process.stdout.readline()
                return json.loads(answer) if answer else self._death()
            if _memory(self.process.pid) > MEMORY:
                self.close()
                return {"outcome": "memory", "message": f"more than {MEMORY >> 20} MiB"}
        self.close()
        return {"outcome": "hang", "message": f"more than {limit:.0f} s"}

    def _death(self) -> dict[str, Any]:
        code = self.process.wait()
        self.log.seek(0)
        said = self.log.read().decode("utf-8", "replace").strip().replace("\0", "").splitlines()
        self.close()
        return {"outcome": "death", "message": f"code {code}: {said[-1] if said else 'silent'}"}

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


def _memory(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        children = process.children(recursive=True)
        return max(p.memory_info().rss for p in (process, *children))
    except psutil.Error:
        return 0


FAULTS = ("death", "hang", "memory", "traceback", "two lines")


def fuzz(
    cases: Iterator[Case],
    folder: Path,
    *,
    keep: Path | None = None,
    limit: float = LIMIT,
    log: TextIO | None = None,
) -> tuple[Counter[tuple[str, str]], list[tuple[Case, dict[str, Any]]]]:
    """Runs the cases. Returns how often each kind ended how, and the faults."""
    counts: Counter[tuple[str, str]] = Counter()
    faults = []
    worker = Worker(folder)
    place = folder / "case"
    try:
        for case in cases:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            for name, data in case.files.items():
                (place / name).write_bytes(data)
            lora = place / case.lora if case.lora else None
            found = worker.run(place / case.model, lora, limit)
            if "\n" in found["message"] and found["outcome"] != "traceback":
                found["outcome"] = "two lines"
            counts[case.kind, found["outcome"]] += 1
            if log:
                told = {"kind": case.kind, "number": case.number, "what": case.what, **found}
                print(json.dumps(told), file=log, flush=True)
            if found["outcome"] in FAULTS:
                faults.append((case, found))
                if keep:
                    _keep(keep, case, found, place)
            if worker.process.poll() is not None:
                worker.close()
                worker = Worker(folder)
    finally:
        worker.close()
    return counts, faults


def _keep(keep: Path, case: Case, found: dict[str, Any], place: Path) -> None:
    target = keep / f"{case.kind}-{case.number}"
    shutil.copytree(place, target, dirs_exist_ok=True)
    (target / "what.json").write_text(
        json.dumps({"source": case.source, "what": case.what, **found}, indent=1)
    )


def cases_of(
    sources: Sources, kinds: list[str], count: int, seed: int, start: int = 0
) -> Iterator[Case]:
    """`count` cases, the kinds in turn."""
    for i in range(start, start + count):
        yield make_case(sources, kinds[i % len(kinds)], i // len(kinds), seed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=EDITS, help="edits of one kind")
    parser.add_argument("--keep", type=Path, help="a folder for the files of faults")
    parser.add_argument("--log", type=Path, help="a file for a line of JSON a case")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds a case may take")
    options = parser.parse_args()
    kinds = [options.only] if options.only else list(EDITS)
    began = time.perf_counter()
    with ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        log = open_.enter_context(options.log.open("w")) if options.log else None
        sources = Sources.written(folder)
        cases = cases_of(sources, kinds, options.cases, options.seed, options.start)
        counts, faults = fuzz(cases, folder, keep=options.keep, limit=options.limit, log=log)
    report(counts, faults, time.perf_counter() - began)
    return 1 if faults else 0


def report(
    counts: Counter[tuple[str, str]], faults: list[tuple[Case, dict[str, Any]]], seconds: float
) -> None:
    outcomes = ("header", "child", "engine", "loaded", *FAULTS)
    print(f"{'':12}{'cases':>8}" + "".join(f"{o:>11}" for o in outcomes))
    for kind in [k for k in EDITS if any(key[0] == k for key in counts)] + ["all"]:
        row = [
            sum(n for (k, o), n in counts.items() if kind in (k, "all") and o == out)
            for out in outcomes
        ]
        print(f"{kind:12}{sum(row):>8}" + "".join(f"{n:>11}" for n in row))
    alike: dict[str, list[Case]] = {}
    for case, found in faults:
        last = re.sub(r"\S*/(?=src/|ggml/src/)", "", found["message"].splitlines()[-1])
        alike.setdefault(f"{found['outcome']}: {last[:150]}", []).append(case)
    for reason, those in sorted(alike.items(), key=lambda item: -len(item[1]))[:40]:
        first = those[0]
        print(f"{len(those):6} {reason}")
        print(f"       {first.kind} {first.number}, {first.source}: {first.what[:200]!r}")
    print(f"{sum(counts.values())} cases in {seconds:.0f} s, {len(faults)} faults")


if __name__ == "__main__":
    sys.exit(main())
