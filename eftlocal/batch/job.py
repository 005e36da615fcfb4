"""A batch from beginning to end: checked, resumed, answered, written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from eftlocal.bases import Closing
from eftlocal.batch.lines import BadLine, Checked, Line, check, read_line, shard_of
from eftlocal.batch.output import Format, Output, check_output, error_row, row_of
from eftlocal.batch.prompt_bound import prompt_bound
from eftlocal.batch.runner import answer_lines
from eftlocal.batch.source import open_source
from eftlocal.constraint import Constraint
from eftlocal.emulator import Emulator
from eftlocal.errors import EftlocalError, EngineError
from eftlocal.journal.manifest import Manifest, brief, of_roles, of_versions
from eftlocal.loading.loader import Progress, UpTo, prepare
from eftlocal.loading.roles import with_made
from eftlocal.logits.recipe import UNGUIDED
from eftlocal.request import RequestDefaults
from eftlocal.scheduler import best_parallel
from eftlocal.sources import Sources

SHARD = "shard"  # the one key in which the manifests of one batch's shards differ


@dataclass(frozen=True)
class Job:
    """A batch to run.

    Attributes:
        source: path of the input, or "-" for stdin.
        output: path of the output, or "-" for stdout.
        sources: the models, and the defaults of every line.
        seed: of the run; see `lines.seed_of`.
        raw: string prompts are continued as they are, unless a line says otherwise.
        special: in raw text, special tokens' texts are those tokens, unless a line says otherwise.
        system: a system message for conversations that have none.
        constraint: of answers whose line asks for none.
        limit: only the first N lines.
        shard: (i, n): the i-th of n parts, from 1.
        retry_errors: lines whose row is an error are answered again.
        parallel: lines at once; None chooses by the measured costs of decodes and by memory.
        force: load even where the memory seems too small.
    """

    source: str
    output: str
    sources: Sources
    format: Format = "openai"
    seed: int = 0
    raw: bool = False
    special: bool = False
    system: str | None = None
    constraint: Constraint | None = None
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)
    retry_errors: bool = False
    parallel: int | None = None
    force: bool = False


def batch_manifest(job: Job, of_lines: RequestDefaults, checked: Checked) -> Manifest:
    """Everything that the rows depend on, except for rounding. What a line says is in the input.

    Args:
        of_lines: what lines are read against.
        checked: a merge tells by the number of lines whether rows are missing.

    Raises:
        ModelFileError: a model file cannot be read.
    """
    default = of_lines.answer
    recipe, sampling, speculation = default.recipe, default.sampling, default.speculation
    drawn = {**vars(sampling), "logit_bias": dict(sorted(sampling.logit_bias.items()))}
    length = "auto" if speculation.length is None else speculation.length
    drafts = f"{length}, rule {speculation.rule}, source {speculation.source}"
    constraint = of_lines.constraint
    given: dict[str, str] = {constraint.kind: constraint.text} if constraint else {}
    exactly = hashlib.sha256(repr(recipe).encode()).hexdigest()  # its text rounds
    return {
        **of_versions(),
        "input": f"sha256 {checked.sha256}",
        "lines": str(checked.total),
        "preset": of_lines.model or "none",
        "recipe": f"{recipe} (sha256 {exactly})",
        **{name.replace("_", "-"): brief(str(value)) for name, value in drawn.items()},
        "seed": str(job.seed),  # that of the sampling does not count
        "max-tokens": "none" if default.max_tokens is None else str(default.max_tokens),
        "stop": brief(repr(list(default.stop))),
        "loop-guard": str(default.loop_guard or "off"),
        "raw": str(of_lines.raw).lower(),
        **({"special": "true"} if of_lines.special else {}),
        "system": _text(of_lines.system),
        "grammar": _text(given.get("grammar")),
        "json-schema": _text(given.get("json_schema")),
        **{kind: _text(given[kind]) for kind in ("regex", "lark") if kind in given},
        "speculative": "off" if speculation.off else drafts,
        "format": job.format,
        SHARD: "{}/{}".format(*job.shard),
        **of_roles(job.sources.roles),
    }


def _text(given: str | None) -> str:
    return "none" if given is None else brief(repr(given))


class Batch(Closing):
    """A job whose every line was checked. Close it, or use it in a `with` block.

    Args:
        checking: called while a new model file is tried, as `Emulator.from_files` does.

    Attributes:
        checked: what the check found; lines with a fault get an error row each.
        n_seq_max: lines at once that the memory allows.
        special_text: of a special token, that stands in a raw prompt as ordinary text; or empty.

    Raises:
        EftlocalError: the input, the output, or a model file; nothing was written or loaded.
    """

    def __init__(self, job: Job, *, checking: Progress | None = None) -> None:
        self.job = job
        check_output(job.output, job.source)
        roles = with_made(job.sources.roles, job.sources.defaults.recipe)
        with ExitStack() as undone:
            self._source = undone.enter_context(open_source(job.source))
            prepared = prepare(
                roles,
                n_seq_max=job.parallel or UpTo(),
                vocabulary_exceptions=job.sources.vocabulary_exceptions,
                force=job.force,
                trust=job.sources.trust,
                checking=checking,
            )
            self._defaults = RequestDefaults(
                job.sources.defaults,
                model=job.sources.name,
                roles=tuple(roles),
                raw=job.raw,
                special=job.special,
                system=job.system,
                constraint=job.constraint,
                vocab_size=prepared.vocabulary.size,
                unguided_by_system=UNGUIDED in roles and UNGUIDED not in job.sources.roles,
            )
            with prompt_bound(prepared, job.sources.defaults.recipe) as bound:
                self._defaults = replace(self._defaults, call_format=bound.call_format)
                bound.check_constraint(job.constraint)
                self.checked = check(
                    self._source,
                    self._defaults,
                    limit=job.limit,
                    shard=job.shard,
                    too_long=lambda line: _beyond(line, job.format) or bound(line),
                )
                self.special_text = bound.special_text
            self.n_seq_max = min(prepared.n_seq_max, max(1, self.checked.to_run))
            self._resources = undone.pop_all()

    def open_output(self, *, look: bool = False) -> Output:
        """The output, new or resumed.

        Args:
            look: rows that are errors stay, whatever the job says.

        Raises:
            UsageError: it holds another batch; see `Output`.
        """
        manifest = batch_manifest(self.job, self._defaults, self.checked)
        retry = self.job.retry_errors and not look
        return Output(self.job.output, manifest, format=self.job.format, retry_errors=retry)

    def load(self, *, progress: Progress | None = None) -> Emulator:
        """The models, with room for as many lines at once as the job says or as fit."""
        return self.job.sources.load(
            force=self.job.force, n_seq_max=self.n_seq_max, progress=progress
        )

    @property
    def bad(self) -> int:
        """Lines of the shard with a fault."""
        return sum(self._is_ours(line.row_id) for line in self.checked.faults)

    def left(self, output: Output) -> int:
        """Rows that the output lacks."""
        if self.job.limit is not None and output.finished:  # it may have rows beyond the limit
            return sum(1 for _ in self._lacking(output))
        return self.checked.to_run + self.bad - len(output.finished)

    def write_faults(self, output: Output) -> int:
        """An error row for each line with a fault that has none; how many it wrote."""
        before = len(output.finished)
        for line in self.checked.faults:
            if self._is_ours(line.row_id) and line.row_id not in output:
                output.add(error_row(line.row_id, line.number, line.reason, self.job.format))
        return len(output.finished) - before

    def run(
        self,
        emulator: Emulator,
        output: Output,
        *,
        on_tokens: Callable[[int], object] = lambda _count: None,
    ) -> Iterator[bool]:
        """Answers the lines that have no row; after each row it gives whether that is an answer.

        Raises:
            EngineError: llama.cpp fails for one line after the other.
            EftlocalError: the disk refuses a row.
        """
        job = self.job
        lines = (line for line in self._lacking(output) if isinstance(line, Line))

        def on_round(count: int) -> None:
            output.sync()  # the last row may have waited for its turn
            on_tokens(count)

        parallel = self.n_seq_max if job.parallel else best_parallel(emulator)
        for line, outcome in answer_lines(
            emulator, lines, seed=job.seed, parallel=parallel, on_tokens=on_round
        ):
            if isinstance(outcome, EftlocalError):
                code = "engine_error" if isinstance(outcome, EngineError) else "invalid_request"
                row = error_row(line.custom_id, line.number, str(outcome), job.format, code)
            else:
                row = row_of(
                    line,
                    outcome,
                    format=job.format,
                    model=job.sources.name or "eftlocal",
                    piece=emulator.piece,
                    recipe=line.request.recipe or job.sources.defaults.recipe,
                )
            output.add(row)
            yield not isinstance(outcome, EftlocalError)

    def close(self) -> None:
        """A second call does nothing."""
        self._resources.close()

    def _lacking(self, output: Output) -> Iterator[Line | BadLine]:
        """The lines of the shard that have no row, in the order of the input."""
        for number, data in self._source.lines(self.job.limit):
            line = self.checked.bad.get(number) or read_line(number, data, self._defaults)
            custom_id = line.row_id if isinstance(line, BadLine) else line.custom_id
            if self._is_ours(custom_id) and custom_id not in output:
                yield line

    def _is_ours(self, custom_id: str) -> bool:
        index, count = self.job.shard
        return shard_of(custom_id, count) == index - 1


def _beyond(line: Line, format: Format) -> str | None:
    """What a line asks for that its row has no place for."""
    request = line.request
    asked = {
        "several prompts": len(request.prompts) > 1,
        "n": request.n > 1,
        "echo": request.echo,
        "top_logprobs": request.top_logprobs > 0,
        "tools": request.tools is not None,
    }
    if format == "openai" or not any(asked.values()):
        return None
    name = next(name for name, is_asked in asked.items() if is_asked)
    return f"rows of the format {format} have no place for {name}; use --format openai"
