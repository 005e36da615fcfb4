"""`eftlocal batch`: many prompts from a file into a file of answers."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from eftlocal.cli import option_rules as rules
from eftlocal.cli import options as opt
from eftlocal.cli.options import takes
from eftlocal.cli.options import verb_option as _option
from eftlocal.cli.streams import tell
from eftlocal.errors import PromptError, UsageError
from eftlocal.output_file import STDOUT
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.batch.job import Batch
    from eftlocal.batch.output import Output
    from eftlocal.cli.progress import Tally

_LINES, _OUTPUT, _RUN = "Lines", "Output", "Run"


def _shard(text: str) -> tuple[int, int]:
    from eftlocal.batch.lines import parse_shard

    if place := parse_shard(text):
        return place
    raise opt.OptionError(f"--shard {text}: give the part and how many there are, as in 1/4 to 4/4")


@takes(
    *("models", "recipe", "sampling", "length", "form", "drafts", "prompt", "raw", "engine"),
    shared=["seed"],
)
def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN.jsonl",
            help="One request a line, gzip or not; '-' is stdin. A request is a line of OpenAI's "
            'Batch API ({"custom_id", "body"}), of AlpacaEval or of HumanEval, or {"prompt"} or '
            '{"messages"} with any field of a body.',
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT.jsonl",
            help="One row a line, written as answers are ready; .gz is compressed, '-' is stdout. "
            "If the file exists, the run resumes.",
        ),
    ],
    skip_invalid: Annotated[
        bool,
        _option("--skip-invalid", "Write an error row for bad lines, and run the rest.", _LINES),
    ] = False,
    limit: Annotated[
        int | None, _option("--limit", "Read only the first N lines.", _LINES, min=1)
    ] = None,
    shard: Annotated[
        Any,
        _option(
            "--shard",
            "Run only the i-th of n parts, as in 1/4; see `merge`.",
            _LINES,
            parser=_shard,
            metavar="<i/n>",
        ),
    ] = None,
    system: Annotated[
        str | None, _option("--system", "System prompt for lines without one.", _LINES)
    ] = None,
    raw: Annotated[
        bool, _option("--raw", "Continue each prompt as it is, without a template.", _LINES)
    ] = False,
    format: Annotated[
        Literal["openai", "plain", "alpaca", "humaneval"],
        _option("--format", "Format of the rows (default: openai).", _OUTPUT),
    ] = "openai",
    retry_errors: Annotated[
        bool, _option("--retry-errors", "Run lines again whose row is an error.", _OUTPUT)
    ] = False,
    parallel: Annotated[
        int | None,
        _option(
            "--parallel",
            "Lines answered at once: a number, or auto (default), which goes by "
            "measured speed and memory.",
            _RUN,
            parser=opt.parallel,
            metavar="<number|auto>",
        ),
    ] = None,
    dry_run: Annotated[
        bool, _option("--dry-run", "Check everything, say what would run, and stop.", _RUN)
    ] = False,
    quiet: Annotated[bool, _option("--quiet", "No progress, no summary.", _RUN)] = False,
    seed: Annotated[
        int,
        _option(
            "--seed",
            "Seed of the run; each line's own is derived from it and the line's id (default: 0).",
            "Sampling",
        ),
    ] = 0,
    *,
    given: Given,
) -> None:
    """Answer every line of a file, side by side, and lose nothing.

    Every line is checked before the first is run. Rows are written as answers are ready: after a
    kill the same command resumes. Options are defaults; a line may say otherwise.

    \b
    eftlocal batch questions.jsonl answers.jsonl --preset qwen2.5-7b --max-tokens 256

    Exit codes: 0 every line has an answer; 10 + n finished, n lines have none (100: 90 or more);
    7 some lines are bad, nothing was run; 130 stopped by Ctrl-C or SIGTERM; 1 the disk or the
    reader of stdout refused, or another process took the output away; 2 to 8 as everywhere
    (options, models, memory, llama.cpp). After any of them the same command resumes.

    `eftlocal batch merge ALL.jsonl SHARD...` puts the outputs of shards together.
    """
    from eftlocal.batch.job import Batch, Job
    from eftlocal.batch.output import check_output
    from eftlocal.cli.progress import Tally, tell_faults, terminable, working
    from eftlocal.cli.selection import loading_bars, select
    from eftlocal.cli.shard_process import code_of

    rules.check_raw(given)
    chosen = select(given.changed(seed=None))  # --seed is the run's
    constraint = rules.constraint(given)
    # A name that is wrong is told before gigabytes are downloaded.
    check_output(output, source)
    if source != "-" and not Path(source).exists():
        raise UsageError(f"{source}: cannot be read: No such file or directory")
    with loading_bars() as bars:
        sources = chosen.sources(bars)
    job = Job(
        source=source,
        output=output,
        sources=replace(sources, defaults=chosen.defaults),
        format=format,
        seed=seed,
        raw=raw,
        special=given["special"],
        system=system,
        constraint=constraint,
        limit=limit,
        shard=shard or (1, 1),
        retry_errors=retry_errors,
        parallel=parallel or None,
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
                    f"{len(faults)} of {ready.checked.lines} lines cannot be run; fix them, or "
                    "skip them with --skip-invalid"
                )
        if dry_run:
            tell(_plan(ready))
            return
        with working("comparing with what is done", quiet=quiet):
            rows = resources.enter_context(ready.open_output())
            left = ready.left(rows)
        shared = output == STDOUT and sys.stdout.isatty()
        tally = Tally(left, quiet=quiet, bar=not shared)
        if left:
            _run(ready, rows, tally, left)
        rows.close()  # which says if what is in it was lost
        if not quiet:
            tell(tally.figures() if left else "nothing left to do")
        if rows.failed:
            tell(f"eftlocal: {_failures(ready, rows)}")
            raise typer.Exit(code_of(rows.failed))


def _run(ready: Batch, rows: Output, tally: Tally, left: int) -> None:
    from eftlocal.cli.progress import keeping
    from eftlocal.cli.selection import loading_bars

    with keeping(rows, left):
        for _ in range(ready.write_faults(rows)):
            tally.on_row(answered=False)
        if tally.rows < left:
            with loading_bars() as bars:
                emulator = ready.load(progress=bars.weights)
                emulator.measure(bars.measuring)
            for note in emulator.notes(raw_text=ready.special_text):
                tell(f"note: {note}")
            with emulator, tally.shown():
                for answered in ready.run(emulator, rows, on_tokens=tally.on_tokens):
                    tally.on_row(answered)


def _failures(ready: Batch, rows: Output) -> str:
    said = f"{rows.failed} {'line has' if rows.failed == 1 else 'lines have'} no answer"
    if rows.path == STDOUT:
        return said
    said += f"; {rows.path} says why"
    if rows.failed > ready.bad:
        said += ", and --retry-errors tries again"
    if ready.bad:
        said += "; put bad lines, once fixed, into a file of their own"
    return said


def _plan(ready: Batch) -> str:
    from eftlocal.cli.progress import counted

    job, checked = ready.job, ready.checked
    done = ""
    out = Path(job.output)
    if job.output != STDOUT and out.exists() and out.stat().st_size:
        with ready.open_output(look=True) as rows:
            again = rows.failed if job.retry_errors else 0
            errors = f" ({counted(rows.failed, 'error')})" if rows.failed else ""
            done = f"; {len(rows.finished)} have a row{errors}, {ready.left(rows) + again} left"
    part = "" if job.shard == (1, 1) else f" in shard {job.shard[0]}/{job.shard[1]}"
    at_once = f"{ready.n_seq_max}" if job.parallel else f"up to {ready.n_seq_max}"
    return (
        f"{checked.lines} lines, {checked.to_run} to answer{part}, {len(checked.bad)} bad"
        f"{done}; {at_once} at once with {job.sources.name or 'the files given'}, recipe "
        f"{job.sources.defaults.recipe}; nothing was loaded or written"
    )


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="A new file for all rows.")],
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD", help="The outputs of all shards.")
    ],
) -> None:
    """Put the outputs of all shards of one batch together, whole or not at all."""
    from eftlocal.batch.shards import merge as merge_shards

    merged = merge_shards(out, shards)
    failed = f", {merged.failed} of them errors" if merged.failed else ""
    tell(f"{out}: {merged.rows} rows{failed}")
    if merged.lines is not None and merged.rows < merged.lines:
        tell(
            f"note: the input has {merged.lines} lines: {merged.lines - merged.rows} have no row; "
            "were the shards limited, or left unfinished?"
        )


class _BatchUnlessMerge(TyperGroup):
    """`eftlocal batch IN OUT` has no verb of its own; `merge` is one."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **more: Any
    ) -> Any:
        if args[:1] == [_MERGE]:
            return super().make_context(info_name, args, parent, **more)
        return self.commands[_BATCH].make_context(info_name, args, parent, **more)


_BATCH, _MERGE = "batch", "merge"
batch_app = typer.Typer(cls=_BatchUnlessMerge, help="Answer a file of prompts, row by row.")
batch_app.command(_BATCH)(batch)
batch_app.command(_MERGE)(merge)
