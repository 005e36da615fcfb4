"""`eftlocal inspect`: which model moved which token, of one answer or over a set of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal.cli import option_rules as rules
from eftlocal.cli.options import takes
from eftlocal.cli.streams import print_json, tell
from eftlocal.disk import read_text
from eftlocal.errors import PromptError, UsageError
from eftlocal.output_file import check_outputs, write_whole
from eftlocal.settings import SAMPLING
from eftlocal.user_settings import Given

if TYPE_CHECKING:
    from eftlocal.study.inspection import Inspection

_LIMITS = ("max_tokens", "stop", "loop_guard")


@takes("models", "recipe", "sampling", "length", "prompt", "raw", "engine")
def inspect(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; without it, or as '-', stdin is read.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='File of prompts: one per line, or .jsonl with "prompt" and an optional "answer".'
        ),
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="Inspect this answer instead of generating one.")
    ] = None,
    answer_file: Annotated[
        Path | None, typer.Option(help="Inspect the answer in this file.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="Measure of how far a token was moved: tv-ROLE (total variation from the "
            "combination), tv-base-tuned, tv-tuned-reference, gain-ROLE (probability gained over "
            "the role) or rank-ROLE (default: tv-base)."
        ),
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=1, max=100, help="Top tokens to record for each model.")
    ] = 5,
    top: Annotated[
        int, typer.Option(min=0, help="How many of the most moved tokens to list.")
    ] = 10,
    least: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --prompts: list tokens with at least this many occurrences (default: 5).",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain table, one row per token, no color.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--plot", help="With --prompts: write a plot (needs the extra `plot`)."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")
    ] = False,
    *,
    given: Given,
) -> None:
    """Show what each model would have said at every token, and which model moved it."""
    from eftlocal.cli.screen import Screen, counting_bars
    from eftlocal.cli.selection import loading_bars, select
    from eftlocal.cli.streams import read_prompt
    from eftlocal.study.influence import inspect as inspect_answer
    from eftlocal.study.inspection import measure_of, measures_for
    from eftlocal.study.plot import check_plot
    from eftlocal.study.report import plain as as_plain
    from eftlocal.study.survey import SurveyPrompt, plot, read_prompts, survey, tables

    rules.check_raw(given)
    own_answer = _given_answer(answer, answer_file)
    if prompts is not None:
        single = {"PROMPT": prompt, "--answer": own_answer, "--html": html}
        _refuse(single | {"--plain": plain or None}, "cannot be used with --prompts; leave one out")
        asked = read_prompts(prompts)
    else:
        _refuse({"--plot": picture, "--least": least}, "needs --prompts")
        if own_answer is not None:
            generation = {given.named(name): given.typed(name) for name in (*SAMPLING, *_LIMITS)}
            _refuse(generation, "is for generated answers, and an answer was given; leave it out")
        asked = (SurveyPrompt(read_prompt(prompt), own_answer),)
    if json_ and plain:
        raise UsageError("--json and --plain exclude each other; leave one out")
    check_outputs(
        {"--html": html, "--plot": picture}, {"--prompts": prompts, "--answer-file": answer_file}
    )
    check_plot(picture)
    selection = select(given)
    defaults, chosen = selection.defaults, selection.defaults.recipe
    rules.check_guidance(chosen, system, selection.roles)
    loaded = tuple(dict.fromkeys((*selection.roles, *chosen.roles)))
    measure_of(measures_for(loaded, chosen), measure)  # refused before anything is loaded
    with loading_bars() as bars:
        emulator = selection.load(bars)
        if not defaults.speculation.off and any(one.answer is None for one in asked):
            emulator.measure(bars.measuring)
    special = given["special"]

    def see(one: SurveyPrompt) -> Inspection:
        conversation: Any = one.prompt
        if system is not None:
            conversation = [
                {"role": "system", "content": system},
                {"role": "user", "content": one.prompt},
            ]
        options: dict[str, Any] = {"candidates": candidates, "raw": raw, "special": special}
        return inspect_answer(emulator, conversation, one.answer, **options)

    with emulator:
        spelled = "\n".join(one.prompt for one in asked) if raw and not special else ""
        for note in emulator.notes(chosen, raw_text=spelled):
            tell(f"note: {note}")
        if prompts is None:
            _print_answer(see(asked[0]), measure, top=top, plain=plain, as_json=json_, html=html)
            return
        all_seen = []
        with counting_bars() as begin:
            advance = begin("inspecting", len(asked))
            for one in asked:
                all_seen.append(see(one))
                advance()
    figures = survey(all_seen, measure, least=least or 5)
    if picture is not None:
        plot(figures, picture)
    if json_:
        print_json(as_plain(figures))
        return
    console = Screen(highlight=False)
    for shown in tables(figures, top):
        console.print(shown)


def _print_answer(
    seen: Inspection,
    measure: str | None,
    *,
    top: int,
    plain: bool,
    as_json: bool,
    html: Path | None,
) -> None:
    """Coloured text, a table of all its tokens (plain), or JSON; and a page."""
    from eftlocal.cli.screen import Screen
    from eftlocal.study.inspection import measure_of, measures_of
    from eftlocal.study.report import plain as as_plain
    from eftlocal.study.view import as_data, heat, legend, most_moved, page, summary, token_table

    chosen = measure_of(measures_of(seen), measure)
    if html is not None:
        write_whole(html, page(seen, chosen.name))
    if as_json:
        print_json(as_plain(as_data(seen)))
        return
    console = Screen(highlight=False)
    if plain:
        console.print(token_table(seen, chosen, seen.tokens))
    else:
        console.print(heat(seen, chosen), soft_wrap=True)
        console.print()
        console.print(legend(chosen))
        if top:
            console.print()
            console.print(token_table(seen, chosen, most_moved(seen, chosen, top)))
    console.print()
    console.print(summary(seen, chosen), markup=False)


def _given_answer(answer: str | None, file: Path | None) -> str | None:
    if answer is not None and file is not None:
        raise UsageError("--answer and --answer-file exclude each other; leave one out")
    if file is not None:
        answer = read_text(file, f"--answer-file {file}", not_text=PromptError)
    if answer == "":
        raise PromptError("the answer is empty: there is no token to inspect")
    return answer


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Refuses the first option that was given."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {why}")
