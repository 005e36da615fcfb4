"""What several verbs of `eftlocal models` are given."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="NAME", help="A preset's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
