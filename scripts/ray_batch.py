"""Run the shards of a batch on the machines of a Ray cluster, and merge what they wrote.

Usage: python scripts/ray_batch.py IN.jsonl OUT.jsonl --shards N [--address auto]
           [--cpus-per-shard C] [--gpus-per-shard G] [--retries R] -- OPTIONS OF eftlocal batch

Each shard is a Ray task that runs `eftlocal batch` with its own models in a process of its own, so
that a crash of native code fails a task and no worker. A task whose process or machine dies is
tried again and goes on where it was killed; the same command goes on with a run that was stopped.

1. Install eftlocal with its extra `ray`, the same versions, on every machine (scripts/setup.py
   --extra ray), and start Ray there: `ray start --head`, then `ray start --address HEAD:6379`.
2. Put IN, and the folder of OUT, on a file system that all machines share, under one path. Files
   named in the options must be there too. Presets are downloaded by each machine, unless
   EFTLOCAL_MODELS names a shared folder where `ray start` is typed.
3. Run this on any of the machines with --address auto. Without an address (and without RAY_ADDRESS)
   the cluster is this machine alone. --shards: one a machine, or one a GPU with --gpus-per-shard 1;
   shards beyond those wait for their turn. A shard takes a whole machine, or its share by GPUs,
   unless --cpus-per-shard says less, which is then also its --threads.

What a shard says is in OUT.shard-i-of-n.jsonl.log. Where OUT is there already, one task goes on
with it, which finds that it is whole, answers what it lacks, or says that it is of another batch.
The exit code is `eftlocal batch`'s: 0, 10 + n if n lines failed, 2 to 9 refused, 130 stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eftlocal.batch.output import check_output
from eftlocal.batch.shards import merge, shard_path, shard_paths
from eftlocal.cli.shard_process import STOPPED, Outcome, Shard, code_of, failed_lines, run_shard
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.journal.file import WholeLines

SAME_EVERYWHERE = ("eftlocal", "llama-cpp-python")
OURS = {
    "--shard": "give --shards N before the --",
    "--dry-run": "run `eftlocal batch --dry-run` on one machine",
}


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """What is before the first "--", and the options of `eftlocal batch` after it."""
    mine, options = list(arguments), []
    if "--" in mine:
        at = mine.index("--")
        mine, options = mine[:at], mine[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="ray_batch.py",
        usage="ray_batch.py IN.jsonl OUT.jsonl --shards N [options] -- [options of eftlocal batch]",
        description=(__doc__ or "").partition("Usage:")[0],
        epilog="How to set the machines up is at the head of this script.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="IN.jsonl", help="seen by all machines under this path")
    parser.add_argument("output", metavar="OUT.jsonl", help="in a folder that all machines share")
    parser.add_argument("--shards", type=int, required=True, metavar="N", help="parts to run")
    parser.add_argument("--address", help="of the cluster, or auto (default: this machine alone)")
    parser.add_argument("--cpus-per-shard", type=int, metavar="C", help="default: a whole machine")
    parser.add_argument("--gpus-per-shard", type=float, default=0.0, metavar="G", help="default: 0")
    parser.add_argument(
        "--retries", type=int, default=3, metavar="R", help="of a shard that is killed (default: 3)"
    )
    args = parser.parse_args(mine)
    least = {"shards": 1, "cpus_per_shard": 1, "gpus_per_shard": 0, "retries": 0}
    for name, at_least in least.items():
        given = getattr(args, name)
        if given is not None and not given >= at_least:
            raise UsageError(f"--{name.replace('_', '-')} {given}: give {at_least} or more")
    for option in options:
        if instead := OURS.get(option.partition("=")[0]):
            raise UsageError(f"{option.partition('=')[0]} cannot follow the --: {instead}")
    if "-" in (args.source, args.output):
        raise UsageError("stdin and stdout cannot be shared by machines; name files")
    return args, tuple(options)


def plan(whole: Shard, count: int) -> list[Shard]:
    """The shards to run; the whole alone where its output is there already."""
    if whole.output.exists():
        return [whole]
    named = enumerate(shard_paths(whole.output, count), 1)
    return [replace(whole, name=f"{index}/{count}", output=path) for index, path in named]


def share_of_cpus(nodes: Sequence[Mapping[str, Any]], cpus: int | None, gpus: float) -> int | None:
    """CPUs of a shard: as asked, else of the smallest machine; None where no machine has them."""
    found = [
        int(has["CPU"] // (has["GPU"] // gpus if gpus else 1)) or 1
        for has in (node["Resources"] for node in nodes if node["Alive"])
        if has.get("CPU", 0) >= (cpus or 1) and has.get("GPU", 0) >= gpus
    ]
    return (cpus or min(found)) if found else None


def connect(address: str | None) -> bool:
    """Joins the cluster; whether it is one of this machine alone, for this run."""
    import ray

    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        try:
            ray.init(address, **quietly)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster at {address}: {first_line(error)}") from None
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would set a third of the memory aside for objects; paths and exit codes need next to none.
    ray.init("local", include_dashboard=False, object_store_memory=80 << 20, **quietly)
    return True


def run_all(shards: Sequence[Shard], args: argparse.Namespace) -> list[Outcome]:
    """Every shard to its end, with a line for each; the outcomes in the order of the shards."""
    import ray
    from ray.exceptions import RayError

    alone = connect(args.address)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # joining the cluster has set it
    cpus = share_of_cpus(ray.nodes(), args.cpus_per_shard, args.gpus_per_shard)
    if cpus is None:
        lack = f"no machine has {args.cpus_per_shard or 1} CPUs and {args.gpus_per_shard:g} GPUs"
        if alone:
            raise UsageError(f"{lack} for a shard; ask for fewer")
        say(f"{lack} for a shard yet; waiting for one")
    task = ray.remote(run_shard).options(
        num_cpus=cpus or args.cpus_per_shard or 1,
        num_gpus=args.gpus_per_shard,
        max_retries=args.retries,
        retry_exceptions=True,
        scheduling_strategy="SPREAD",
    )
    running = {task.remote(shard): shard for shard in shards}
    outcomes: dict[Shard, Outcome] = {}
    try:
        while running:
            (ended, *_), _ = ray.wait(list(running))
            shard = running.pop(ended)
            try:
                outcomes[shard] = ray.get(ended)
            except RayError as error:
                reason = first_line(getattr(error, "cause", None) or error)
                outcomes[shard] = Outcome(1, "", 0.0, f"{reason}, after {args.retries} retries")
            say(told(shard, outcomes[shard]))
    except KeyboardInterrupt:
        for ref in running:  # never empty: it was being waited for
            ray.cancel(ref, force=True)
        ray.wait(list(running), num_returns=len(running), timeout=10.0)
        raise
    return [outcomes[shard] for shard in shards]


def told(shard: Shard, outcome: Outcome) -> str:
    if not outcome.finished:
        log = f"; see {shard.log}" if shard.log.exists() else ""
        return f"{shard.label} failed (exit code {outcome.code}): {outcome.words}{log}"
    rows = sum(1 for _ in WholeLines(shard.output))
    failed = f", {failed_lines(outcome.code)} failed" if outcome.code else ""
    return f"{shard.label}: {rows} rows{failed}, {outcome.seconds:.1f} s on {outcome.node}"


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def say(words: str) -> None:
    print(f"ray_batch: {words}", file=sys.stderr, flush=True)


def run(args: argparse.Namespace, options: tuple[str, ...]) -> int:
    # Not resolve(): the name of a shared folder may be a link that differs by machine.
    source, output = Path(args.source).absolute(), Path(args.output).absolute()
    if not source.is_file():
        raise UsageError(f"there is no file {source}")
    check_output(str(output), str(source))
    if args.cpus_per_shard and not any(o.partition("=")[0] == "--threads" for o in options):
        options = (*options, "--threads", str(args.cpus_per_shard))
    began = time.monotonic()
    with tempfile.NamedTemporaryFile(prefix=f".{output.name}.", dir=output.parent) as mark:
        whole = Shard(
            name="",
            source=source,
            output=output,
            options=options,
            mark=Path(mark.name),
            size=source.stat().st_size,
            folder=Path.cwd(),
            versions=tuple((package, version(package)) for package in SAME_EVERYWHERE),
        )
        shards = plan(whole, args.shards)
        if shards == [whole]:
            say(f"{output} is there already: going on with it, without shards")
        outcomes = run_all(shards, args)
    if unfinished := [outcome.code for outcome in outcomes if not outcome.finished]:
        say(
            f"{len(unfinished)} of {len(shards)} shards not finished; what is done is kept, "
            "and the same command goes on with it"
        )
        return unfinished[0]
    if shards == [whole]:
        return outcomes[0].code
    merged = merge(output, [shard.output for shard in shards])
    lines = f" of {merged.lines} lines" if (merged.lines or 0) > merged.rows else ""
    failed = f", {merged.failed} of them errors" if merged.failed else ""
    say(
        f"{output}: {merged.rows} rows{lines}{failed}, in {time.monotonic() - began:.1f} s; "
        f"{shard_path(output, '*', args.shards).name}* may be removed"
    )
    return code_of(merged.failed)


def main(arguments: Sequence[str]) -> int:
    try:
        args, options = parse(arguments)
        import ray
    except ImportError:
        say("Ray is not installed; set up with scripts/setup.py --extra ray")
        return UsageError.exit_code
    except UsageError as error:
        say(str(error))
        return error.exit_code

    try:
        return run(args, options)
    except EftlocalError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped; what is done is kept: run the same command again to resume")
        return STOPPED
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
