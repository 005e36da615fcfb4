"""One run on a machine with a GPU: does everything work there, and how fast is it?

Usage: .venv/bin/python scripts/bench_gpu.py [--minutes 10] [--json FILE]

In this order, and within the minutes: the devices of this build of llama.cpp, and the self-test;
greedy answers on the device beside the CPU's (where one parts, how near a tie it was), with drafts
beside without; a weight of 0 against the model alone, and that roles of weight 0 are not decoded;
then random models of real shapes, written here (an 8B with a 1B pair, a 70B with a 7B pair): base
alone, plain and speculative at imposed rates of acceptance, in turn, the combiner's share of a
round, and memory. What time or disk does not allow is left out and said.

The 70B trio takes 56 GB of disk, which are freed at once, and 60 GB of GPU memory. llama.cpp can be
built elsewhere and carried: see docs/devices.md. --device cpu --shapes tiny,tiny,tiny tries the
script without a GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from benchmark import machine, one_line, say, show_machine
from devices.comparison import compare, texts
from devices.trios import demo
from draft_shapes import TURN, Run, loaded, read_rates, run_in_turn
from random_gguf import SHAPES, weight_bytes
from random_models import quantizations, random_trio, shapes_of

from eftlocal import Emulator, Recipe, llama, selftest
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.logits.sampling import Sampling
from eftlocal.speculation.settings import Speculation
from eftlocal.study.machine import device_used

SHAPES_DEFAULT = ("8b,1b,1b", "70b-32k,7b,7b")
TOKENS = 32  # of an answer that is compared
ENOUGH = 75.0  # seconds of decoding a trio: thousands of tokens on a GPU
SHOWN = (1, 2, 3, 4, 5, 8, 9, 16, 17)  # numbers of rows
LEAST = 20.0  # and what is worth loading one for
WRITTEN = 400e6  # bytes a second that a disk takes at least, reading them again included
GIB = 1 << 30


def gpus() -> list[llama.Device]:
    return [device for device in llama.devices() if device.is_gpu]


# Does it work ------------------------------------------------------------------------------------


def checks(gpu_layers: int, threads: int | None) -> dict[str, Any]:
    """The self-test, texts beside the CPU's, and weights of 0."""
    say("self-test")
    result = selftest.run_in_child()
    say("texts beside the CPU's")
    models = demo(TOKENS)
    sources = {role: replace(source, threads=threads) for role, source in models.sources.items()}
    trio = replace(models, sources=sources)
    expected = trio.expected  # of the CPU alone
    with Emulator.from_sources(trio.placed(gpu_layers), trust=True) as emulator:
        verdicts = {
            f"texts, {name}": compare(
                expected, texts(emulator, trio.questions, TOKENS, draft=draft)
            )
            for name, draft in (("no drafts", 0), ("drafts of 4", 4), ("drafts chosen", None))
        }
        found = {name: (verdict.fine, str(verdict)) for name, verdict in verdicts.items()}
        found |= zero_weights(emulator, trio.questions)
    return {"self-test": (result.ok, result.message), **found}


def zero_weights(emulator: Emulator, questions: Sequence[str]) -> dict[str, tuple[bool, str]]:
    """A recipe that leaves one model is that model, and the others decode nothing."""
    found = {}
    for name, recipe, role in (
        ("beta 0 is the tuned model", Recipe.upscale(0.0), "tuned"),
        ("alpha 0 is the base alone", Recipe.proxy(0.0), "base"),
    ):
        contexts = emulator.ensemble.contexts
        emulator.ensemble.clear()
        before = {other: contexts[other].decoded for other in contexts}
        ours = [answer(emulator, question, recipe) for question in questions]
        moved = [r for r in contexts if r != role and contexts[r].decoded != before[r]]
        emulator.ensemble.clear()
        alone = [answer(emulator, question, Recipe.single(role)) for question in questions]
        same = sum(a == b for a, b in zip(ours, alone, strict=True))
        told = f"{same} of {len(questions)} texts the same"
        told += f"; decoded by {', '.join(moved)} too" if moved else "; the others decoded nothing"
        found[name] = (same == len(questions) and not moved, told)
    return found


def answer(emulator: Emulator, question: str, recipe: Recipe) -> tuple[int, ...]:
    return emulator.generate(
        question,
        recipe=recipe,
        sampling=Sampling(temperature=0.0),
        speculation=Speculation(length=0),
        max_tokens=TOKENS,
    ).tokens


# How fast is it ----------------------------------------------------------------------------------


@contextmanager
def folder(kept: Path | None, free_after: bool) -> Iterator[Path]:
    """Where random models are written; emptied where nobody asked to keep them."""
    where = kept or Path(tempfile.mkdtemp(prefix="eftlocal-"))
    try:
        yield where
    finally:
        if free_after and kept is None:
            shutil.rmtree(where, ignore_errors=True)


def expected_bytes(shapes: str, kinds: str) -> int:
    """What the weights of a trio take."""
    pairs = zip(shapes_of(shapes), quantizations(kinds).values(), strict=True)
    return sum(weight_bytes(SHAPES[shape], kind) for shape, kind in pairs)


def speed(shapes: str, options: argparse.Namespace, left: float) -> dict[str, Any]:
    """The figures of one trio, or why there are none. left: seconds."""
    size, began = expected_bytes(shapes, options.quantization), time.monotonic()
    with folder(options.cache, free_after=True) as where:
        where.mkdir(parents=True, exist_ok=True)
        if (needed := size / WRITTEN + LEAST) > left:
            return {"left_out": f"{left:.0f} s are left, and it may take {needed:.0f}"}
        if (free := shutil.disk_usage(where).free) < size:
            return {"left_out": f"{size / GIB:.0f} GiB of files, and {free / GIB:.0f} are free"}
        say(f"writing {shapes}, {size / GIB:.1f} GiB")
        random_trio(shapes, options.quantization, where)
        written = time.monotonic() - began
        before = device_used()
        seconds = min(ENOUGH, max(LEAST, left - 2 * written - LEAST))
        run = Run(options.rates, options.tokens, options.repeats, fixed=False, seconds=seconds)
        # All layers on the GPU where they fit: the program's own choice.
        layers = None if options.gpu_layers else 0
        engine = {"threads": options.threads, "gpu_layers": layers, "force": True}
        with loaded(shapes, [options.quantization], where, run, **engine) as trios:
            loading = time.monotonic() - began - written
            run_in_turn(trios)
            used = device_used() - before
            found = trios[0].report(trios[0])
    return {
        "written_seconds": written,
        "loaded_seconds": loading,
        "device_bytes": used,
        "process_bytes": psutil.Process().memory_info().rss,
        **found,
    }


# Showing -----------------------------------------------------------------------------------------


def show(report: dict[str, Any]) -> None:
    print(", ".join(report["devices"]) or "no device but the CPU")
    show_machine(report["machine"])
    print()
    for name, (fine, told) in report["checks"].items():
        print(f"{'ok' if fine else 'FAILED':<8}{name:<28}{told}")
    for shapes, found in report["shapes"].items():
        print(f"\n{shapes}, {report['quantization']}")
        if "left_out" in found:
            print(f"  left out: {found['left_out']}")
            continue
        print(
            f"  GPU memory {found['device_bytes'] / GIB:.1f} GiB, process "
            f"{found['process_bytes'] / GIB:.1f} GiB; written in {found['written_seconds']:.0f} s, "
            f"loaded and measured in {found['loaded_seconds']:.0f} s"
        )
        print(f"  {'':<14}{'tok/s':>8}{'over plain':>22}{'over base':>22}{'accepted  combine':>18}")
        lanes = {"base alone": found["base"], "plain": found["plain"]}
        lanes |= {f"auto at {rate}": of["auto"] for rate, of in found["rates"].items()}
        for name, of in lanes.items():
            ratios = "".join(f"{ratio(of, key):>22}" for key in ("speed_up", "over_base"))
            accepted = "-" if of["acceptance"] is None else f"{of['acceptance']:.2f}"
            print(
                f"  {name:<14}{of['tokens_per_second']:>8.1f}{ratios}{accepted:>9}"
                f"{of['combine_share']:>9.1%}"
            )
        for role, costs in found["costs_ms"].items():
            some = ", ".join(f"{n}: {ms}" for n, ms in costs.items() if int(n) in SHOWN)
            print(f"  ms of a decode of n rows, {role:<10}{some}")


def ratio(of: dict[str, Any], key: str) -> str:
    low, high = of[f"{key}_interval_95"]
    return f"{of[key]:.2f} [{low:.2f}, {high:.2f}]"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument(
        "--shapes",
        action="append",
        help=f"of a trio, repeatable (default: {' and '.join(SHAPES_DEFAULT)})",
    )
    parser.add_argument("--quantization", default="preset", help="one, or one for each role")
    parser.add_argument("--rates", default="0.6,0.8,0.9", help="synthetic acceptance rates")
    parser.add_argument("--tokens", type=int, default=256, help="per mode and repeat")
    parser.add_argument("--repeats", type=int, default=64, help="at most")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--cache", type=Path, help="keep the random models in this folder")
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    with one_line("bench_gpu"):
        _check(options)
    ends = time.monotonic() + 60.0 * options.minutes
    report: dict[str, Any] = {
        "machine": machine(),
        "devices": [
            f"{d.description} ({d.backend}, {d.memory_total / GIB:.0f} GiB)" for d in gpus()
        ],
        "quantization": options.quantization,
        "checks": checks(options.gpu_layers, options.threads),
        "shapes": {},
    }
    for i, shapes in enumerate(options.shapes):
        left = (ends - time.monotonic()) / (len(options.shapes) - i)
        try:
            report["shapes"][shapes] = speed(shapes, options, left)
        except (EftlocalError, OSError) as error:  # the other figures are not lost
            report["shapes"][shapes] = {"left_out": str(error)}
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    show(report)
    return int(not all(fine for fine, _ in report["checks"].values()))


def _check(options: argparse.Namespace) -> None:
    options.shapes = options.shapes or list(SHAPES_DEFAULT)
    for shapes in options.shapes:
        shapes_of(shapes)
    quantizations(options.quantization)
    if min(options.tokens // TURN, options.repeats) < 1:
        raise UsageError(f"--tokens must be {TURN} or more, --repeats 1 or more")
    options.rates = read_rates(options.rates)
    options.gpu_layers = 0 if options.device == "cpu" else -1
    if options.device == "gpu" and not gpus():
        raise UsageError(
            f"llama.cpp finds no GPU here, and this build has {', '.join(llama.backends())}; set "
            "it up with scripts/setup.py --cuda, or try the script with --device cpu"
        )


if __name__ == "__main__":
    sys.exit(main())
