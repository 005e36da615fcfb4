"""Times this program beside what people would use in its place, each in a process of its own.

Usage: python scripts/bench_peers.py [--threads 1] [--turns 3] [--write]

The same models, prompts and greedy choice for all: this program, without drafts and with them;
proxy-tuning with transformers; llama-cpp-python with a LogitsProcessor that evaluates two more
models; and, for what the combination costs, llama-cpp-python with the base alone. Each answers each
prompt once a turn, one after another; ratios are taken prompt by prompt. Then all prompts: this
program's scheduler and a batch of transformers beside all others one after another.

Without files it is SmolLM2-135M-Instruct, and as tuned role the same with the calm adapter of the
preset `moods`; alpha is 0.5 there, because at 1 base and reference cancel.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmark import machine, one_line, show_machine
from peers.figures import draw, figures, markdown, write
from peers.measuring import TORCH_PACKAGES, measure, no_torch, yardstick
from peers.prompts import PROMPTS
from peers.table import TORCH, TORCH_TOGETHER, Asked
from small_models import NO_SMOLLM2, smollm2_file

import eftlocal
from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import read_header
from eftlocal.llama import default_threads
from eftlocal.llama.quantize import FILE_TYPES, quantize_file
from eftlocal.loading.weight_types import outer_types
from eftlocal.logits.recipe import TRIO
from eftlocal.output_file import check_outputs, write_whole
from eftlocal.study.plot import check_plot
from eftlocal.study.report import as_json

ROOT = Path(__file__).resolve().parents[1]
CALM = Path(eftlocal.__file__).parent / "moods" / "calm.gguf"
PAGE = ROOT / "docs" / "peers.md"
PACKAGES = ("llama-cpp-python", "numpy", "gguf")


def versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"eftlocal": eftlocal.__version__, "Python": platform.python_version()}
    return found | {name: version(name) for name in packages}


def models(
    options: argparse.Namespace, folder: Path
) -> tuple[dict[str, Path], dict[str, Path], str]:
    """Files and adapters of the roles, and what they are; another quantization is written there."""
    given = {role: getattr(options, role) for role in TRIO if getattr(options, role)}
    if given and len(given) < len(TRIO):
        raise UsageError("give --base, --tuned and --reference, or none of them")
    if given:
        if options.quantization:
            raise UsageError("--quantization is for SmolLM2; give files that have it")
        return given, {}, ", ".join(f"{role}: {file.name}" for role, file in given.items())
    smollm2 = smollm2_file()
    if smollm2 is None:
        raise UsageError(NO_SMOLLM2)
    said = f"{smollm2.name} in all roles, tuned with the adapter moods/{CALM.name}"
    if type_ := options.quantization:
        output, embedding = outer_types(read_header(smollm2), type_)
        copy = folder / f"{type_}.gguf"
        quantize_file(smollm2, copy, type_, output=output, embedding=embedding, threads=1)
        smollm2, said = copy, f"{said}, requantized to {type_} (output matrix {output})"
    return dict.fromkeys(TRIO, smollm2), {"tuned": CALM}, said


def report_of(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything measured.

    Args:
        folder: for models that are made here.
    """
    files, adapters, said = models(options, folder)
    if options.cpu_time and options.threads != 1:
        raise UsageError("--cpu-time counts the time of all threads; give --threads 1, too")
    why = "left out by --no-transformers" if options.no_transformers else no_torch()
    facts, threads = machine(), options.threads or default_threads()
    alpha = options.alpha if options.alpha is not None else 0.5 if adapters else 1.0
    asked = Asked(
        kind="",
        files={role: str(file.resolve()) for role, file in files.items()},
        adapters={role: str(file) for role, file in adapters.items()},
        alpha=alpha,
        threads=threads,
        n_ctx=options.n_ctx,
        tokens=options.tokens,
        ends=(),
        clock="process_time" if options.cpu_time else "perf_counter",
    )
    given = yardstick(asked, PROMPTS[: options.prompts])
    peers = measure(asked, given, options.turns, None if why else folder)
    return {
        "machine": facts,
        "versions": versions(PACKAGES if why else (*PACKAGES, *TORCH_PACKAGES)),
        "settings": {
            "models": said,
            "alpha": alpha,
            "threads": threads,
            "n_ctx": options.n_ctx,
            "prompts": len(given.prompts),
            "tokens": options.tokens,
            "turns": options.turns,
            "clock": asked.clock,
        },
        "ways": figures(peers, given),
        "not_measured": {} if why is None else {TORCH: why, TORCH_TOGETHER: why},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for role in TRIO:
        parser.add_argument(f"--{role}", type=Path, help="a GGUF file (default: SmolLM2)")
    parser.add_argument(
        "--quantization", choices=FILE_TYPES, help="of SmolLM2 (default: Q4_1, as it is)"
    )
    parser.add_argument("--alpha", type=float, help="default: 0.5 of the mood, 1 of given files")
    parser.add_argument("--threads", type=int, help="of every way (default: physical cores)")
    parser.add_argument("--prompts", type=int, default=16, choices=range(1, len(PROMPTS) + 1))
    parser.add_argument("--tokens", type=int, default=48, help="of an answer, at most")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--n-ctx", type=int, default=512)
    parser.add_argument("--no-transformers", action="store_true", help="leave it out")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count that (with --threads 1, on a busy machine)"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="draw them there")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    with one_line("bench_peers"):
        check_outputs({"--json": options.json, "--plot": options.plot})
        check_plot(PAGE.with_suffix(".svg") if options.write else None)
        check_plot(options.plot)
        with TemporaryDirectory() as folder:
            report = report_of(options, Path(folder))
        show_machine(report["machine"])
        print(f"\n{markdown(report)}", end="")
        if options.json:
            write_whole(options.json, as_json(report).encode())
        if options.plot:
            draw(report, options.plot)
        if options.write:
            write(PAGE, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
