"""`eftlocal`: the verbs put together, and errors turned into one line and an exit code."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eftlocal import __version__
from eftlocal.cli.batch import batch_app
from eftlocal.cli.bench import bench
from eftlocal.cli.chat import chat
from eftlocal.cli.doctor import doctor
from eftlocal.cli.eval import evaluate
from eftlocal.cli.inspect import inspect
from eftlocal.cli.interrupts import finish
from eftlocal.cli.last_error import remember
from eftlocal.cli.models import models_app
from eftlocal.cli.run import run
from eftlocal.cli.screen import tell
from eftlocal.cli.streams import prepare_streams
from eftlocal.cli.sweep import sweep
from eftlocal.errors import EftlocalError, InterruptedRunError


class _OneLineErrors(TyperGroup):
    """Whatever ends a verb is one line on stderr and an exit code; wrong options too."""

    def main(self, *args: Any, **more: Any) -> Any:
        more["standalone_mode"] = False  # or typer would print what goes wrong in its own way
        try:
            code = super().main(*args, **more)
        except typer.TyperException as error:
            code = error.exit_code
            if type(error).__name__ != "NoArgsIsHelpError":  # which has printed the help
                tell(f"eftlocal: {_of_usage(error)}")
        except EftlocalError as error:
            code = error.exit_code
            tell(f"eftlocal: {error}")
            remember(error, code)
        except typer.Abort:  # a question answered with no, or not at all
            code = EftlocalError.exit_code
            tell("eftlocal: aborted; nothing was done")
        except OSError as error:  # of the machine: a full disk, a file that may not be read
            code = EftlocalError.exit_code
            with suppress(OSError):
                sys.stdout.close()  # at exit it would fail once more
            where = "output" if error.filename is None else error.filename
            tell(f"eftlocal: {where}: {error.strerror or error}")
            remember(error, code)
        except Exception as error:  # a fault of the program, with its traceback
            remember(error, EftlocalError.exit_code)
            raise
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # which typer would end without a word
            tell("eftlocal: stopped")
            raise typer.Exit(InterruptedRunError.exit_code) from None


def _of_usage(error: Any) -> str:
    """What is wrong with an option or argument, and whose help says more."""
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", "") if hasattr(error, "possibilities") else ""
    is_text = option and not re.fullmatch(r"--[^\W\d][\w-]+", option)
    if context is not None and option:
        known = [name for each in context.command.params for name in each.opts]
        begun = [name for name in known if len(option) > 3 and name.startswith(option)]
        error.possibilities = [] if is_text else begun or error.possibilities
    words: str = error.format_message().strip().rstrip(".").replace("Value error, ", "")
    if context is None:
        return words
    words = f"{words}; see `{context.command_path} --help`"
    arguments = [p for p in context.command.params if p.param_type_name == "argument"]
    if arguments and is_text:
        name = arguments[0].name.upper()
        words += f"; a {name} that begins with - goes after --: `{context.command_path} -- ...`"
    elif "unexpected extra argument" in words:
        words += "; text with spaces needs quotes"
    return words


app = typer.Typer(
    cls=_OneLineErrors,
    name="eftlocal",
    help="Emulated fine-tuning on your own machine: a large base model, steered by a small "
    "tuned one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(chat)
app.command()(doctor)
app.command()(bench)
app.command()(inspect)
app.command("eval")(evaluate)
app.command()(sweep)
app.add_typer(batch_app, name="batch")
app.add_typer(models_app, name="models")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"eftlocal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version  # its callback acts before any verb


def main() -> None:
    """The verb that the command line names."""
    prepare_streams()
    try:
        app(prog_name="eftlocal")
    except SystemExit as ended:
        finish(ended.code if isinstance(ended.code, int) else 0)
        raise
