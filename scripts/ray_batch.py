"""Run the shards of a batch on the machines of a Ray cluster, and merge what they wrote.

Usage: python scripts/ray_batch.py IN.jsonl OUT.jsonl --shards N [--address auto]
           [--cpus-per-shard C] [--gpus-per-shard G] [--retries R] -- OPTIONS OF eftlocal batch

Each shard is a Ray task that runs `eftlocal batch` with its own models in a process of its own, so
that a crash of native code fails a task and no worker. A task whose process or machine dies is
tried again and goes on where it was killed; the same command goes on with a run that was stopped.

1. Install eftlocal with its extra `ray`, the same versions, on every machine (scripts/setup.py
   --extra ray), and start Ray there: `ray start --head`, then `ray start --address HEAD:6379`.
2. Put IN, and the folder of OUT, on a file system that all machines share, under one path. Model
   files named in the options must be there too. Presets are downloaded by each machine, unless
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
import glob
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eftlocal.batch.merge import merge
from eftlocal.batch.output import check_output
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.hub.disk import beside
from eftlocal.journal.lines import WholeLines

FAILED, MOST_TOLD = 10, 90  # exit code of a finished run with failed lines: this, and how many
STOPPED = 130
SAME_EVERYWHERE = ("eftlocal", "llama-cpp-python")  # shards of other versions cannot be merged
FRAME = " │╭╮╰╯─"  # around what is wrong with an option
LOCK_SECONDS = 120.0  # a file server keeps the locks of a machine that died for about 90
OURS = {
    "--shard": "give --shards N before the --",
    "--dry-run": "run `eftlocal batch --dry-run` on one machine",
}
# os.read ends when the worker does, however that happens: no shard outlives its task. (Reading
# sys.stdin instead would hold a lock that the interpreter wants at its end.)
CHILD = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = [path for path in sys.path if path]
def follow():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=follow, daemon=True).start()
from eftlocal.cli.app import main
main()
"""


@dataclass(frozen=True)
class Shard:
    """What a worker is told; paths are absolute.

    Attributes:
        name: "1/4", or "" for the whole batch.
        mark: a file in the folder of the output that shows a worker that it sees that folder.
        size: of the input in bytes.
    """

    name: str
    source: Path
    output: Path
    options: tuple[str, ...]
    mark: Path
    size: int
    folder: Path
    versions: tuple[tuple[str, str], ...]

    @property
    def label(self) -> str:
        return f"shard {self.name}" if self.name else self.output.name

    @property
    def log(self) -> Path:
        return beside(self.output, ".log")


@dataclass(frozen=True)
class Outcome:
    """How a shard ended: its exit code, where, and the last line that it said."""

    code: int
    node: str
    seconds: float
    words: str

    @property
    def finished(self) -> bool:
        return self.code == 0 or FAILED < self.code <= FAILED + MOST_TOLD


class KilledError(Exception):
    """A signal or a crash ended a shard's process: Ray tries again."""


# On a worker -------------------------------------------------------------------------------------


def run_shard(shard: Shard) -> Outcome:
    """Runs a shard to its end in a process of its own; KilledError if that was killed."""
    node, began = platform.node(), time.monotonic()
    if words := unfit(shard):
        return Outcome(UsageError.exit_code, node, 0.0, f"{node}: {words}")
    wait_for_lock(beside(shard.output, ".lock"))
    part = ["--shard", shard.name] if shard.name else []
    command = ["batch", str(shard.source), str(shard.output), *part, *shard.options]
    with shard.log.open("ab") as log:
        log.write(f"-- {shard.label} on {node}\n".encode())
        log.flush()
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=shard.folder if shard.folder.is_dir() else None,
        )
        try:
            code = child.wait()
        finally:
            child.kill()
        if not 0 <= code <= 255:  # on Windows a crash is a large number
            words = f"killed by signal {-code}" if code < 0 else f"crashed ({code:#x})"
            log.write(f"-- {words}\n".encode())
            raise KilledError(f"{words} on {node}")
    return Outcome(code, node, time.monotonic() - began, last_line(shard.log))


def unfit(shard: Shard) -> str:
    """Why this machine cannot run the shard, or nothing."""
    shared = "put it on a file system that all machines share"
    if not shard.source.is_file():
        return f"there is no {shard.source} here; {shared}, under one path"
    if shard.source.stat().st_size != shard.size:
        return f"{shard.source} is another file here; {shared}"
    if not shard.mark.exists():
        return f"{shard.output.parent} is another folder here; {shared}"
    for package, wanted in shard.versions:
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "none"
        if found != wanted:
            return f"{package} {wanted} is needed, as where the run was started; here is {found}"
    return ""


def wait_for_lock(lock: Path) -> None:
    """Gives an earlier try the time to let go; whoever holds on then, the batch refuses."""
    with suppress(Timeout), FileLock(lock, timeout=LOCK_SECONDS):
        return


def last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    said = [words for line in lines if (words := line.strip(FRAME))]
    return said[-1].removeprefix("eftlocal: ") if said else ""


# Where the run is started ------------------------------------------------------------------------


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


def shard_path(output: Path, index: int | str, count: int | str) -> Path:
    """answers.jsonl.gz: answers.shard-1-of-4.jsonl.gz."""
    packed = ".gz" if output.name.endswith(".gz") else ""
    plain = Path(output.name.removesuffix(packed))
    return output.with_name(f"{plain.stem}.shard-{index}-of-{count}{plain.suffix}{packed}")


def plan(output: Path, whole: Shard, count: int) -> list[Shard]:
    """The shards to run; the whole alone where the output is there already."""
    if output.exists():
        return [whole]
    paths = [shard_path(output, index, count) for index in range(1, count + 1)]
    named_alike = shard_path(Path(glob.escape(output.name)), "*", "*").name
    for other in sorted(output.parent.glob(named_alike)):
        if other not in paths:
            raise UsageError(
                f"{other} is of a run with another --shards; give that number to go on with it, "
                "or remove its shards"
            )
    named = enumerate(paths, 1)
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
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"no Ray cluster at {address}: {reason}") from None
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
    signal.signal(signal.SIGTERM, stop)  # joining the cluster has set it
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
                reason = str(getattr(error, "cause", None) or error).strip().partition("\n")[0]
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
    failed = f", {outcome.code - FAILED} failed" if outcome.code else ""
    return f"{shard.label}: {rows} rows{failed}, {outcome.seconds:.1f} s on {outcome.node}"


def stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


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
        shards = plan(output, whole, args.shards)
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
    return FAILED + min(merged.failed, MOST_TOLD) if merged.failed else 0


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
        say("stopped; what is done is kept: run the same command again to go on")
        return STOPPED
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
