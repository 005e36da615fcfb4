"""`eftlocal models`: the presets and their files, one verb a file."""

from __future__ import annotations

import typer

from eftlocal.cli.models.check import check_models
from eftlocal.cli.models.list import list_presets
from eftlocal.cli.models.pull import pull_preset
from eftlocal.cli.models.rm import remove_preset
from eftlocal.cli.models.show import show_preset

models_app = typer.Typer(no_args_is_help=True, help="Presets: list, download, remove, check.")
models_app.command("list")(list_presets)
models_app.command("show")(show_preset)
models_app.command("pull")(pull_preset)
models_app.command("rm")(remove_preset)
models_app.command("check")(check_models)
