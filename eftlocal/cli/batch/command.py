"""The verb itself: everything checked first, then models loaded, then row by row."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eftlocal.cli import options as opt
from eftlocal.cli.batch import options as own
from eftlocal.cli.batch.exit_codes import code_of
from eftlocal.cli.options import Given, takes
from eftlocal.cli.screen import tell
from eftlocal.errors import InterruptedRunError, PromptError, UsageError
from eftlocal.output_file import STDOUT

if TYPE_CHECKING:
    from eftlocal.batch.job import Batch
    from eftlocal.batch.output import Output
    from eftlocal.cli.batch.showing import Telling


@takes(*("models", "recipe", "sampling", "length", "form", "drafts", "prompt", "raw", "engine"))
def batch(
    source: own.Input,
    output: own.OutputFile,
    skip_invalid: own.SkipInvalid = False,
    limit: own.Limit = None,
    shard: own.Shard = None,
    system: own.System = None,
    raw: own.Raw = False,
    format: own.Format = own.RowFormat.openai,
    retry_errors: own.RetryErrors = False,
    parallel: own.Parallel = None,
    dry_run: own.DryRun = False,
    quiet: own.Quiet = False,
    seed: own.Seed = 0,
    *,
    given: Given,
) -> None:
    """Answer every line of a file, side by side, and lose nothing.

    Every line is checked before the first is run. Rows are written as answers are ready: after a
    kill the same command goes on where it was left. Options are defaults; a line may say otherwise.

    eftlocal batch questions.jsonl answers.jsonl --preset qwen2.5-7b --max-tokens 256

    Exit codes: 0 every line has an answer; 10 + n finished, n lines have none (100: 90 or more);
    7 some lines are bad, nothing was run; 130 stopped by Ctrl-C or SIGTERM; 1 the disk or the
    reader of stdout refused, or another process took the output away; 2 to 8 as everywhere
    (options, models, memory, llama.cpp). After any of them the same command goes on.

    `eftlocal batch merge ALL.jsonl SHARD...` puts the outputs of shards together.
    """
    from eftlocal.batch.job import Batch, Job
    from eftlocal.batch.output import check_output
    from eftlocal.cli.bars import loading_bars
    from eftlocal.cli.batch.showing import Telling, tell_faults, working
    from eftlocal.cli.batch.stopping import terminable
    from eftlocal.cli.chosen import choose
    from eftlocal.cli.loaded import chosen_sources

    opt.check_raw(given)
    chosen = choose({**given, "seed": None})  # --seed is the run's
    form = opt.constraint(given["grammar"], given["json_schema"])
    part, lines_at_once = own.chosen_shard(shard), own.chosen_parallel(parallel)
    # A name that is wrong is told before gigabytes are downloaded.
    check_output(output, source)
    if source != "-" and not Path(source).exists():
        raise UsageError(f"{source}: cannot be read: No such file or directory")
    with loading_bars() as bars:
        sources = chosen_sources(chosen.models, bars, offline=given["offline"], **chosen.engine)
    defaults, max_tokens = chosen.defaults, given["max_tokens"]
    defaults = replace(
        defaults,
        max_tokens=defaults.max_tokens if max_tokens is None else max_tokens,
        stop=(*defaults.stop, *(given["stop"] or ())),
    )
    job = Job(
        source=source,
        output=output,
        sources=replace(sources, defaults=defaults),
        format=format.value,
        seed=seed,
        raw=raw,
        special=given["special"],
        system=system,
        **form,
        limit=limit,
        shard=part,
        retry_errors=retry_errors,
        parallel=lines_at_once,
        force=given["force"],
    )
    with ExitStack() as resources:
        resources.enter_context(terminable())
        first = "reading stdin to its end, and " if source == "-" else ""
        with working(f"{first}checking every line", quiet=quiet) as checking:
            ready = resources.enter_context(Batch(job, checking=checking))
        if faults := ready.checked.faults:
            tell_faults(faults, all=dry_run)
            if not skip_invalid:
                raise PromptError(
                    f"{len(faults)} of {ready.checked.lines} lines cannot be run; mend them, or "
                    "leave them out with --skip-invalid"
                )
        if dry_run:
            tell(_plan(ready))
            return
        with working("comparing with what is done", quiet=quiet):
            rows = resources.enter_context(ready.open_output())
            left = ready.left(rows)
        shared = output == STDOUT and sys.stdout.isatty()
        telling = Telling(left, quiet=quiet, bar=not shared)
        if left:
            _run(ready, rows, telling, left)
        rows.close()  # which says if what is in it was lost
        if not quiet:
            tell(telling.figures() if left else "nothing left to do")
        if rows.failed:
            tell(f"eftlocal: {_failures(ready, rows)}")
            raise typer.Exit(code_of(rows.failed))


def _run(ready: Batch, rows: Output, telling: Telling, left: int) -> None:
    from eftlocal.cli.bars import loading_bars
    from eftlocal.cli.batch.showing import counted

    before = len(rows.finished)
    try:
        for _ in range(ready.write_faults(rows)):
            telling.on_row(answered=False)
        if telling.rows < left:
            with loading_bars() as bars:
                emulator = ready.load(progress=bars.weights)
                emulator.measure(bars.measuring)
            for note in emulator.notes(raw_text=ready.special_text):
                tell(f"note: {note}")
            with emulator, telling.shown():
                for answered in ready.run(emulator, rows, on_tokens=telling.on_tokens):
                    telling.on_row(answered)
    except KeyboardInterrupt:
        rows.close()
        done = len(rows.finished) - before
        kept = f"; {rows.path} keeps them: run the same command again to go on"
        kept = "" if rows.path == STDOUT else kept
        raise InterruptedRunError(f"stopped after {counted(done, 'row')}{kept}") from None


def _failures(ready: Batch, rows: Output) -> str:
    said = f"{rows.failed} {'line has' if rows.failed == 1 else 'lines have'} no answer"
    if rows.path == STDOUT:
        return said
    said += f"; {rows.path} says why"
    if rows.failed > ready.bad:
        said += ", and --retry-errors tries again"
    if ready.bad:
        said += "; a bad line, once mended, goes into a file of its own"
    return said


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _plan(ready: Batch) -> str:
    job, checked = ready.job, ready.checked
    done = ""
    if job.output != STDOUT and _holds_something(Path(job.output)):
        with ready.open_output(look=True) as rows:
            again = rows.failed if job.retry_errors else 0
            errors = f" ({rows.failed} errors)" if rows.failed else ""
            done = f"; {len(rows.finished)} have a row{errors}, {ready.left(rows) + again} left"
    part = "" if job.shard == (1, 1) else f" in shard {job.shard[0]}/{job.shard[1]}"
    at_once = f"{ready.n_seq_max}" if job.parallel else f"up to {ready.n_seq_max}"
    return (
        f"{checked.lines} lines, {checked.to_run} to answer{part}, {len(checked.bad)} bad"
        f"{done}; {at_once} at once with {job.sources.name or 'the files given'}, recipe "
        f"{job.sources.defaults.recipe}; nothing was loaded or written"
    )
