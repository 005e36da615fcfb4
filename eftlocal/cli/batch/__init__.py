"""`eftlocal batch`: many prompts from a file into a file of answers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from eftlocal.cli.batch.command import batch
from eftlocal.cli.batch.merge import merge


class _BatchUnlessMerge(TyperGroup):
    """`eftlocal batch IN OUT` has no verb of its own; `merge` is one."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **more: Any
    ) -> Any:
        if args[:1] == [_MERGE]:
            return super().make_context(info_name, args, parent, **more)
        return self.commands[_BATCH].make_context(info_name, args, parent, **more)


def _help(verb: Callable[..., None]) -> str:
    """Its docstring with a line for each paragraph: typer keeps a source line's end as it is."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(verb.__doc__ or ""))


_BATCH, _MERGE = "batch", "merge"
batch_app = typer.Typer(cls=_BatchUnlessMerge, help="Answer a file of prompts, row by row.")
batch_app.command(_BATCH, help=_help(batch))(batch)
batch_app.command(_MERGE, help=_help(merge))(merge)
