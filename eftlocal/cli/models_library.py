"""`eftlocal models find`, `add` and `search`: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eftlocal.cli.option_rules import adapters, prompts, trio_files
from eftlocal.cli.options import AsJson, takes
from eftlocal.logits.recipe import TRIO
from eftlocal.user_settings import Given


def find_models(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER", help="Folders to look in, too.")
    ] = None,
    most: Annotated[
        int, typer.Option(min=1, metavar="<number>", help="How many trios to propose.")
    ] = 5,
    json_: AsJson = False,
) -> None:
    """Find models on this machine, and trios that fit it.

    Looks where other programs keep theirs: the Hugging Face hub's cache, llama.cpp, LM Studio,
    Ollama and GPT4All. Only headers are read.
    """
    from eftlocal.cli.models_find import find

    find(folders or (), most, json_)


@takes(also=[*TRIO, "adapter", "chat_template", "trust"])
def add_models(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Of the new preset.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a preset that this command wrote.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    *,
    given: Given,
) -> None:
    """Check three files, and make a preset of them.

    Files of the hub are downloaded where they are missing. On a terminal it asks for what is not
    given, and proposes what `models find` finds.
    """
    from eftlocal.cli.models_add import add

    files = trio_files(given)
    formats = prompts(given["chat_template"] or (), TRIO)
    put_on = adapters(given, TRIO)
    add(name, files, put_on, formats, replace=replace, yes=yes, trust=given["trust"])


def search_models(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="Such as qwen2.5.")],
    most: Annotated[
        int, typer.Option(min=1, max=100, metavar="<number>", help="How many repositories.")
    ] = 15,
    json_: AsJson = False,
) -> None:
    """Search the hub for base and tuned files of a family.

    Says too where a preset's pinned file has a newer revision.
    """
    from eftlocal.cli.models_search import search

    search(words, most, json_)
