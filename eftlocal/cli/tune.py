"""`eftlocal tune`: a behaviour from examples, as a LoRA adapter and a preset that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal.cli.options import takes
from eftlocal.cli.options import verb_option as _option
from eftlocal.cli.streams import command, say, tell
from eftlocal.errors import InterruptedRunError, ModelFileError, PromptError, UsageError
from eftlocal.tuning import DEVICES
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.loading.roles import RoleSource
    from eftlocal.tuning.training import Losses, Options
    from eftlocal.tuning.training_set import TrainingSet

_TRAINING = "Training"


@takes(also=["base", "chat_template", "threads", "trust"])
def tune(
    examples: Annotated[
        Path,
        typer.Argument(
            metavar="EXAMPLES.jsonl",
            help='A line each: {"prompt": ..., "response": ...} or {"messages": [...]}; or a CSV '
            "file with the columns prompt and response.",
        ),
    ],
    model: Annotated[
        Path,
        typer.Option(
            metavar="<file>",
            help="The small model to tune: a GGUF file, or hf:owner/name/file.gguf.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(metavar="NAME", help="Of the new preset, and of its adapter."),
    ],
    rank: Annotated[
        int, _option("--rank", "Rank of the adapter (default: 8).", _TRAINING, min=1, max=256)
    ] = 8,
    learning_rate: Annotated[
        float,
        _option(
            *("--learning-rate", "The largest (default: 0.0005).", _TRAINING),
            min=0.0,
            max=1.0,
        ),
    ] = 5e-4,
    passes: Annotated[
        int | None,
        _option(
            *("--passes", "Over all examples (default: as many as make 100 steps).", _TRAINING),
            min=1,
        ),
    ] = None,
    hold_out: Annotated[
        float,
        _option(
            *("--hold-out", "Share of prompts to measure with (default: 0.1).", _TRAINING),
            min=0.0,
            max=0.9,
        ),
    ] = 0.1,
    max_length: Annotated[
        int,
        _option(
            *("--max-length", "Tokens of an example, at most (default: 512).", _TRAINING),
            min=16,
        ),
    ] = 512,
    seed: Annotated[
        int,
        _option(
            *("--seed", "Of the order and of the adapter's first values (default: 0).", _TRAINING),
            min=0,
        ),
    ] = 0,
    device: Annotated[
        str,
        _option(
            *("--device", "Where PyTorch trains (default: auto).", _TRAINING),
            metavar=f"<{'|'.join(DEVICES)}>",
        ),
    ] = "auto",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what this command wrote; begin anew.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the examples only. Needs no PyTorch.")
    ] = False,
    *,
    given: Given,
) -> None:
    """Train a behaviour from examples: a LoRA adapter for a small model, and a preset with it.

    Some of the prompts are held out: the loss on them and three answers, before and after, say
    what was learned. Ctrl-C stops with what is there; the same command goes on.
    """
    from eftlocal import hub
    from eftlocal.cli.models_add import fetched, preset_table
    from eftlocal.cli.option_rules import prompts
    from eftlocal.cli.selection import loading_bars
    from eftlocal.gguf_file.check import checked_model
    from eftlocal.gguf_file.peft import check_base
    from eftlocal.loading.loader import prepare
    from eftlocal.loading.roles import preset_sources, with_settings
    from eftlocal.logits.recipe import BASE, REFERENCE, TRIO, TUNED
    from eftlocal.output_file import check_place
    from eftlocal.presets.reading import user_path
    from eftlocal.presets.schema import FileRef
    from eftlocal.presets.writing import check_name
    from eftlocal.tuning.training import SAVED, Options
    from eftlocal.tuning.weights import check_memory, require

    if device not in DEVICES:
        raise UsageError(f"--device {device}: give {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
    folder = hub.store() / "tuned" / out
    begun = (folder / SAVED).is_file() or replace
    check_name(out, replace=begun, force="--replace", other="give another with --out")
    if (there := folder / f"{out}.gguf").exists() and not begun:
        raise UsageError(f"{there} is there already; --replace replaces it")
    if user_path().parent.is_dir():
        check_place(user_path())
    if not examples.exists():
        raise UsageError(f"{examples}: cannot be read: No such file or directory")
    if not dry_run:
        require()
    files = {REFERENCE: model, BASE: given["base"] or model}
    refs = {role: FileRef.at(file) for role, file in files.items()}
    table = preset_table(out, refs, {}, prompts(given["chat_template"] or (), TRIO))
    sources = preset_sources(fetched(table, yes=yes), hub.resolve)
    sources = with_settings(sources, threads=given["threads"])
    header = checked_model(sources[TUNED].path)
    check_base(header)
    if len(header.files) > 1:
        raise ModelFileError(f"{header.path}: is split into parts; merge them (llama-gguf-split)")
    check_memory(header)
    with loading_bars() as bars:
        prepare(sources, trust=given["trust"], checking=bars.checking)
    options = Options(
        rank=rank,
        alpha=2.0 * rank,
        learning_rate=learning_rate,
        passes=passes,
        seed=seed,
    )
    longest = min(max_length, header.n_ctx_train or max_length)
    ready = _checked(examples, sources[TUNED], hold_out, longest, options, dry_run=dry_run)
    if dry_run:
        return
    if replace:
        (folder / SAVED).unlink(missing_ok=True)
    table |= {
        "title": f"{model.name}, tuned on {examples.name}",
        "questions": [e.prompt for e in ready.shown if len(e.messages) == 1],
        "recipe": {"name": "proxy", "alpha": 1.0},
    }
    job = _Job(out, folder, table, sources[TUNED], f"{out}: by `eftlocal tune`, from {examples}")
    losses = job.run(ready, options, device)
    say(
        f"held-out loss: {losses.before:.3f} before, {losses.after:.3f} after (nats a token, "
        f"{len(ready.held_out)} examples)"
    )
    if losses.after >= losses.before:
        tell("note: nothing was learned that holds for other prompts: give more examples")
    job.show(ready)
    say(f"\n{job.adapter}\nwritten into {user_path()}; run it with\n{job.commands()}")


def _checked(
    examples: Path,
    source: RoleSource,
    hold_out: float,
    max_length: int,
    options: Options,
    *,
    dry_run: bool,
) -> TrainingSet:
    """The examples, if every line is one."""
    from eftlocal.cli.progress import tell_faults
    from eftlocal.tuning.training_set import training_set

    ready = training_set(examples, source, share=hold_out, longest=max_length)
    for note in ready.notes:
        tell(f"note: {note}")
    if ready.faults:
        tell_faults(ready.faults, all=dry_run)
        raise PromptError(
            f"{len(ready.faults)} of {ready.lines} examples cannot be used; mend them or take "
            "them out"
        )
    count = len(ready.trained)
    tell(
        f"{count} examples to train on, {len(ready.held_out)} held out; {ready.tokens} tokens a "
        f"pass, {options.passes_over(count)} passes, {options.steps_over(count)} steps"
    )
    return ready


class _Job:
    """A training with what it writes: the adapter as GGUF, and the preset.

    Args:
        table: of the preset, without the adapter.
    """

    def __init__(
        self, name: str, folder: Path, table: dict[str, Any], source: RoleSource, comment: str
    ) -> None:
        self.adapter = (folder / f"{name}.gguf").absolute()
        self._name, self._folder, self._table = name, folder, table
        self._source, self._comment = source, comment

    def run(self, ready: TrainingSet, options: Options, device: str) -> Losses:
        """Trains, and writes what came of it; after a Ctrl-C too."""
        from eftlocal.cli.progress import Bar, terminable
        from eftlocal.tuning.training import SAVED, Progress, train

        bar = Bar("training", "steps", options.steps_over(len(ready.trained)), quiet=False)

        def show(at: Progress) -> None:
            if at.loss is None:
                bar.begin_at(at.step)
            else:
                bar.show(at.step, f"loss {at.loss:.2f}")

        with terminable():
            try:
                with bar.shown():
                    losses = train(
                        self._source.path,
                        ready.trained,
                        ready.held_out,
                        self._folder,
                        options,
                        device=device,
                        threads=self._source.threads,
                        on_progress=show,
                    )
            except InterruptedRunError as stopped:
                if not (self._folder / SAVED).is_file():
                    raise
                self._write()
                raise InterruptedRunError(
                    f"{stopped}; what it is by now is in the preset {self._name}, and the same "
                    "command goes on"
                ) from None
            self._write()
        return losses

    def _write(self) -> None:
        from eftlocal.gguf_file.check import checked_model
        from eftlocal.gguf_file.peft import convert
        from eftlocal.logits.recipe import TUNED
        from eftlocal.presets.writing import add_preset

        convert(self._folder, self.adapter, checked_model(self._source.path), "F16")
        self._table["roles"][TUNED]["lora"] = {"file": str(self.adapter)}
        add_preset(self._table, self._comment)

    def show(self, ready: TrainingSet) -> None:
        """Held-out answers before and after."""
        from eftlocal.tuning.showing import before_and_after

        for example, before, after in before_and_after(self._source, self.adapter, ready.shown):
            say(f"\n> {example.prompt.strip()}\nbefore: {before.strip()}\nafter:  {after.strip()}")

    def commands(self) -> str:
        words = [["run", "--preset", self._name, "..."], ["chat", "--preset", self._name]]
        return "\n".join(f"  {command([*word, '--alpha', '1.3'])}" for word in words)
