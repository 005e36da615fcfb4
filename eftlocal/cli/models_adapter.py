"""`eftlocal models adapter`: a LoRA adapter of one's own, made ready for llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eftlocal.cli.streams import say
from eftlocal.errors import UsageError
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.peft import CONFIG, TYPES, WEIGHTS, convert
from eftlocal.output_file import cannot_write, check_place


def convert_adapter(
    folder: Annotated[
        Path, typer.Argument(help=f"What PEFT or unsloth saved: {CONFIG} and {WEIGHTS}.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The GGUF file to write.")],
    base: Annotated[
        Path,
        typer.Option(help="GGUF of the model that it was trained on, in any quantization."),
    ],
    type_: Annotated[
        str | None,
        typer.Option(
            "--type", metavar=f"<{'|'.join(TYPES).lower()}>", help="Default: as it is stored."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it is there.")] = False,
) -> None:
    """Convert a LoRA adapter to a GGUF file for --adapter. Needs neither torch nor the network."""
    if type_ is not None and type_.upper() not in TYPES:
        raise UsageError(f"--type {type_}: give {', '.join(TYPES[:-1])} or {TYPES[-1]}".lower())
    place = check_place(output)
    if output.exists() and not force:
        raise UsageError(f"{output} is there already; name another file, or add --force")
    header = checked_model(base)
    if header.is_adapter:
        raise UsageError(f"--base {base}: is an adapter; give the model that it is for")
    try:
        changed = convert(folder, place, header, type_ and type_.upper())
    except OSError as error:
        raise cannot_write(output, error) from None
    say(f"{output}: changes {changed} matrices of {base.name}")
