"""`eftlocal run`: one prompt, one answer, streamed."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal.cli import completion
from eftlocal.cli import option_rules as rules
from eftlocal.cli.options import takes
from eftlocal.cli.streams import of_answer, print_json, read_prompt, tell
from eftlocal.errors import UsageError
from eftlocal.generation import ENDINGS
from eftlocal.settings import LIMITS
from eftlocal.terminal_text import printable
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal import Answer, Emulator
    from eftlocal.speculation.settings import Totals


@takes(
    *("models", "recipe", "sampling", "length", "form", "drafts", "prompt", "raw", "cache"),
    *("engine",),
    also=["verbose"],
)
def run(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; without it, or as '-', stdin is read.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")
    ] = False,
    show: Annotated[
        str | None,
        typer.Option(
            help="Also answer with these roles alone, side by side, as in tuned,base.",
            autocompletion=completion.roles,
        ),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print the answer as one JSON object.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no timing.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print more timing, and draft acceptance.")
    ] = False,
    *,
    given: Given,
) -> None:
    """Answer one prompt with the combination of the three models."""
    from eftlocal.cli.prompt_cache import PromptCache
    from eftlocal.cli.selection import loading_bars, select

    rules.check_raw(given)
    text = read_prompt(prompt)
    selection = select(given)
    recipe = selection.defaults.recipe
    constraint = rules.constraint(given)
    if stats and quiet:
        raise UsageError("--stats and --quiet exclude each other; leave one out")
    roles = rules.check_roles(recipe, show, selection.roles)
    rules.check_guidance(recipe, system, selection.roles)
    cache = PromptCache(given["prompt_cache"])
    if given["verbose"]:
        _show_engine_log()
    with loading_bars() as bars:
        emulator = selection.load(bars)
        if not selection.defaults.speculation.off:
            emulator.measure(bars.measuring)
    with emulator:
        for note in emulator.notes(raw_text=text if raw and not given["special"] else ""):
            tell(f"note: {note}")
        asked: Any = text if raw else [{"role": "user", "content": text}]
        if system is not None:
            asked.insert(0, {"role": "system", "content": system})
        call = {"raw": raw, "special": given["special"]}
        if constraint is not None:
            call[constraint.kind] = constraint.text
        cache.read(emulator, quiet=quiet or json_)
        try:
            if roles or json_:
                answers = _answers(emulator, asked, roles, call)
                if json_:
                    _print_json(emulator, answers)
                else:
                    _print_beside(answers)
                finished = answers["emulation"]
            else:
                finished = _stream(emulator, asked, call)
        except KeyboardInterrupt:
            cache.stopped(emulator)
            raise
        cache.write(emulator, finished, quiet=quiet or json_)
        if not quiet and not json_:
            tell(_figures(finished), dim=True)
            if stats:
                for line in _draft_figures(finished.speculation):
                    tell(line, dim=True)


def _stream(emulator: Emulator, asked: Any, call: dict[str, Any]) -> Answer:
    stream = emulator.stream(asked, **call)
    try:
        for step in stream:
            typer.echo(of_answer(step.text), nl=False)
            sys.stdout.flush()
    finally:
        stream.close()
        typer.echo()
    return stream.answer()


def _answers(
    emulator: Emulator, asked: Any, roles: list[str], call: dict[str, Any]
) -> dict[str, Answer]:
    """The emulation's answer and each role's own, all with the emulation's seed."""
    from eftlocal.logits.recipe import Recipe

    answers = {"emulation": emulator.generate(asked, **call)}
    same = replace(emulator.defaults.sampling, seed=answers["emulation"].seed)
    for role in roles:
        answers[role] = emulator.generate(asked, recipe=Recipe.single(role), sampling=same, **call)
    return answers


def _print_beside(answers: dict[str, Answer]) -> None:
    from rich.table import Table
    from rich.text import Text

    from eftlocal.cli.screen import Screen

    table = Table(show_lines=False, pad_edge=False)
    for name in answers:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(printable(answer.text).strip()) for answer in answers.values()))
    Screen().print(table)


def _print_json(emulator: Emulator, answers: dict[str, Answer]) -> None:
    def record(answer: Answer) -> dict[str, Any]:
        timing, drafts = asdict(answer.timing), answer.speculation
        return {
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "stop": answer.stop,
            "tokens": len(answer.tokens),
            "timing": {**timing, "tokens_per_second": answer.timing.tokens_per_second},
            "speculation": {**asdict(drafts), "acceptance": drafts.acceptance},
        }

    first, *others = answers
    recipe, seed = emulator.defaults.recipe, answers[first].seed
    limits = {name: getattr(recipe, name) for name in LIMITS}
    result = {
        **record(answers[first]),
        "seed": seed,
        "preset": emulator.name or None,
        "recipe": {
            "name": recipe.name,
            "weights": dict(recipe.weights),
            **{name: None if value == math.inf else value for name, value in limits.items()},
            "text": str(recipe),
        },
        "sampling": asdict(emulator.defaults.sampling) | {"seed": seed},
        "alone": {role: record(answers[role]) for role in others},
    }
    print_json(result)


def _figures(answer: Answer) -> str:
    timing = answer.timing
    rate = timing.tokens_per_second  # 0 where all came at once
    parts = [
        f"{timing.tokens} tokens in {timing.seconds:.2f} s",
        f"{rate:.1f} tok/s" if rate else "",
        f"first token after {timing.first_token:.2f} s",
        ENDINGS[answer.finish_reason] if answer.finish_reason else "stopped",
        f"seed {answer.seed}",
    ]
    return ", ".join(filter(None, parts))


def _draft_figures(totals: Totals) -> list[str]:
    parts = {
        "prompt": totals.prompt_seconds,
        "draft": totals.draft_seconds,
        "verify": totals.verify_seconds,
        "combine": totals.combine_seconds,
    }
    lines = [
        f"{totals.rounds} rounds, {totals.drafts} drafts ({totals.looked_up} by prompt lookup)",
        "seconds: " + ", ".join(f"{part} {seconds:.3f}" for part, seconds in parts.items()),
    ]
    if totals.drafts:
        by_position = " ".join(
            f"{accepted}/{tried}"
            for accepted, tried in zip(totals.accepted, totals.tried, strict=True)
        )
        lines += [
            f"accepted {totals.acceptance:.0%} of the draft tokens that were verified, "
            f"{totals.accepted_length:.2f} of {totals.drafted_length:.2f} a draft",
            f"accepted by position: {by_position}",
        ]
    return lines


class _ToStderr(logging.Handler):
    """Writes to what stderr is at that moment: while bars are drawn, the lines above them."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(self.format(record))


def _show_engine_log() -> None:
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("llama.cpp: %(message)s"))
    engine = logging.getLogger("eftlocal.llama")
    engine.addHandler(handler)
    engine.setLevel(logging.DEBUG)
