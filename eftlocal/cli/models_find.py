"""What `eftlocal models find` shows: the models on this machine, and trios to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eftlocal.cli.screen import Screen, add_row, counting_bars, new_table
from eftlocal.cli.streams import command, print_json, say
from eftlocal.disk import readable
from eftlocal.errors import UsageError
from eftlocal.library.guess import Guess, Sure, guesses
from eftlocal.library.inventory import Inventory, take
from eftlocal.library.places import Place, places
from eftlocal.library.trios import Trio, trios
from eftlocal.loading.placement import gib
from eftlocal.terminal_text import one_line

_SURE = {Sure.SURE: "", Sure.LIKELY: "likely", Sure.UNSURE: "doubtful"}
_NAME = "mine"  # of a preset, in the command that saves one


def look(folders: Sequence[Path], most: int) -> tuple[Inventory, list[Guess], list[Trio], int]:
    """What is on this machine and in these folders; the best trios, and how many there are.

    Raises:
        UsageError: a folder is none.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; correct the path")
    where = [*(Place("", folder) for folder in folders), *places()]
    with counting_bars() as begin:
        found = take(where, lambda count: begin("reading headers", count))
    kinds = guesses(found.models)
    proposed, count = trios(kinds, most, found.broken.append)
    found.broken = list(dict.fromkeys(found.broken))
    return found, kinds, proposed, count


def find(folders: Sequence[Path], most: int, json_: bool) -> None:
    """The verb, its options read."""
    found, kinds, proposed, count = look(folders, most)
    kinds.sort(key=lambda g: (g.model.vocabulary, -g.model.parameters, g.kind, g.name))
    if json_:
        report = {
            "models": [_model(guess) for guess in kinds],
            "left_out": dict(found.left_out),
            "broken": found.broken,
            "trios": [_trio(trio) for trio in proposed],
            "possible": count,
        }
        print_json(report, indent=2)
        return
    if kinds:
        show_models(kinds)
    for line in found.broken:
        say(f"skipped {one_line(line, 500)}")
    if found.left_out:
        say(f"left out: {left_out(found)}")
    if not kinds:
        say("no language models found; `eftlocal models find FOLDER` looks in a folder of yours")
    elif not proposed:
        say(
            "\nno trio: it takes a tuned model, the base of that (the reference), and a larger "
            "base, best all of one vocabulary; `eftlocal models search WORDS` finds what is missing"
        )
    for number, trio in enumerate(proposed, 1):
        say("")
        show_trio(trio, number)
        say(f"  run it:  {run_command(trio)}\n  save it: {add_command(trio)}")
    if count > len(proposed):
        say(f"\n{count - len(proposed)} more; --most {count} shows them")


def left_out(found: Inventory) -> str:
    """How many files of each other kind there are."""
    return ", ".join(
        f"{count} {what.replace(' (', 's (') if '(' in what else what + 's'}"
        if count > 1
        else f"1 {what}"
        for what, count in sorted(found.left_out.items())
    )


def show_models(kinds: Sequence[Guess]) -> None:
    """A table of models, those of one vocabulary together."""
    table = new_table("vocabulary", "model", "is", "weights", "type", "size", "from")
    above = None
    for guess in kinds:
        model = guess.model
        first = model.vocabulary != above
        above = model.vocabulary
        add_row(
            table,
            f"{model.tokens:,} tokens" if first else "",
            one_line(guess.name, 60),
            " ".join(filter(None, (guess.kind, f"({_SURE[guess.sure]})" * (guess.sure < 2)))),
            _count(model.parameters),
            model.type,
            readable(model.nbytes),
            model.program or str(model.path.parent),
        )
    Screen().show(table, by=1)


def show_trio(trio: Trio, number: int) -> None:
    """What it is made of, how sure that is, and whether it fits."""
    names = {role: one_line(guess.name, 80) for role, guess in trio.roles.items()}
    free = "unknown" if trio.free is None else gib(trio.free)
    fits = "fits" if trio.fits else "does not fit"
    doubt = f"; {_SURE[trio.sure]}" if trio.sure < Sure.SURE else ""
    say(f"{number}. {names['base']} steered by {names['tuned']} over {names['reference']}")
    say(f"  {gib(trio.needed)} needed, {free} free: {fits}{doubt}")
    if trio.is_translated:
        small, large = (guess.model.tokens for guess in (trio.tuned, trio.base))
        say(f"  translated: the pair's vocabulary has {small:,} tokens, base's has {large:,}")
    for role, guess in trio.roles.items():
        if guess.sure < Sure.SURE:
            say(f"  {role}: {guess.why}")
    if trio.relation < Sure.SURE:
        say("  reference: that the tuned model was made from it is not said anywhere")


def run_command(trio: Trio) -> str:
    return command(["run", *_files(trio), "In which country is Toulouse?"])


def add_command(trio: Trio) -> str:
    return command(["models", "add", _NAME, *_files(trio)])


def _files(trio: Trio) -> list[str]:
    return [word for role, path in trio.files.items() for word in (f"--{role}", str(path))]


def _count(weights: int) -> str:
    """1.24B, 135M"""
    size, unit = (weights / 1e9, "B") if weights >= 999.5e6 else (weights / 1e6, "M")
    return f"{size:.3g}{unit}"


def _model(guess: Guess) -> dict[str, Any]:
    model = guess.model
    return {
        "path": str(model.path),
        "name": guess.name,
        "program": model.program,
        "vocabulary": model.vocabulary,
        "tokens": model.tokens,
        "kind": guess.kind,
        "sure": guess.sure.name.lower(),
        "why": guess.why,
        "parameters": model.parameters,
        "type": model.type,
        "size": model.nbytes,
    }


def _trio(trio: Trio) -> dict[str, Any]:
    return {
        **{role: str(path) for role, path in trio.files.items()},
        "translated": trio.is_translated,
        "sure": trio.sure.name.lower(),
        "needed": trio.needed,
        "free": trio.free,
        "fits": trio.fits,
        "run": run_command(trio),
        "add": add_command(trio),
    }
