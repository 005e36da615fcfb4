"""What several verbs of `eftlocal models` are given."""

from __future__ import annotations

from typing import Annotated

import typer

from eftlocal.cli.completion import presets

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A preset's name.", autocompletion=presets)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
