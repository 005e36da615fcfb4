"""`eftlocal`: its verbs, and errors turned into one line and an exit code."""

from __future__ import annotations

import gc
import re
import sys
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info, get_group_from_info
from typer.models import CommandInfo, TyperInfo

from eftlocal import __version__
from eftlocal.cli.interrupts import finish
from eftlocal.cli.streams import prepare_streams, say, tell
from eftlocal.errors import EftlocalError, InterruptedRunError

# Where a verb is, and what the list of verbs says of it; its module is imported when it is used.
VERBS = {
    "run": ("run:run", "Answer one prompt."),
    "chat": ("chat:chat", "Chat in the terminal, and turn the dials meanwhile."),
    "batch": ("batch:batch_app", "Answer a JSONL file of prompts."),
    "models": ("models:models_app", "List, download, check, optimize and remove models."),
    "inspect": ("inspect:inspect", "Show which model moved which token."),
    "tune": ("tune:tune", "Train a behaviour from examples, for a small model."),
    "eval": ("eval:evaluate", "Measure the emulation on tasks, at one setting or a grid of them."),
    "serve": ("serve:serve", "Serve models to OpenAI's clients, and as a web page."),
    "bench": ("bench:bench", "Measure speed, memory and energy on this machine."),
    "worker": ("worker:worker", "Offer this machine's devices to eftlocal on another one."),
    "doctor": ("doctor:doctor", "Check this installation; write a file for a bug report."),
}


_KINDS = {"str": "text", "path": "file", "Path": "file", "int": "number", "float": "number"}
_PYTHON_TYPE = re.compile(r"<(?:list\[)?(str|[pP]ath|int|float)(?: range)?\]?>")
_FACTS = re.compile(r"  \[((?:default: |required|\S*x[<>]=)[^\]]*)\]$")


class Verb(TyperCommand):
    """A verb with help in plain words, its options under the headings of their groups."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for parameter in self.params:
            if parameter.param_type_name == "argument" and parameter.metavar is None:
                parameter.metavar = str(parameter.name).upper()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub("[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            is_argument = parameter.param_type_name == "argument"
            group = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None)
            if record is not None:
                name, text = record
                plain = _PYTHON_TYPE.sub(lambda found: f"<{_KINDS[found[1]]}>", name)
                plain = re.sub(" <(text|file)>$", "", plain) if is_argument else plain
                sections.setdefault(group or "Options", []).append((plain, _with_facts(text)))
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _with_facts(text: str) -> str:
    """A help text whose end is `(default: 64; 2 or more).`, not typer's `[default: 64; x>=2]`."""
    found = _FACTS.search(text)
    if found is None or found[1] == "required":
        return text[: found.start()] if found else text
    facts = found[1].replace("; required", "")
    facts = re.sub(
        r"(\d+)<=x<=(\d+)", r"\1 to \2", re.sub(r"\bx>=([\d.]*\d)", r"\1 or more", facts)
    )
    words = text[: found.start()].rstrip(".")
    return f"{words[:-1]}; {facts})." if words.endswith(")") else f"{words} ({facts})."


class _Verbs(TyperGroup):
    """The verbs. Whatever ends one is one line on stderr and an exit code; wrong options too."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.commands.update(
            {name: TyperCommand(name, help=text) for name, (_, text) in VERBS.items()}
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and _imported(str(name)), rest

    def main(self, *args: Any, **more: Any) -> Any:
        more["standalone_mode"] = False  # or typer would print what goes wrong in its own way
        try:
            code = super().main(*args, **more)
        except typer.TyperException as error:
            code = error.exit_code
            if type(error).__name__ == "NoArgsIsHelpError":
                say(error.format_message())
            else:
                tell(f"eftlocal: {_of_usage(error)}")
        except EftlocalError as error:
            code = error.exit_code
            tell(f"eftlocal: {error}")
            _remember(error, code)
        except typer.Abort:  # a question answered with no, or not at all
            code = EftlocalError.exit_code
            tell("eftlocal: aborted; nothing was done")
        except OSError as error:  # of the machine: a full disk, a file that may not be read
            code = EftlocalError.exit_code
            with suppress(OSError):
                sys.stdout.close()  # at exit it would fail once more
            where = "output" if error.filename is None else error.filename
            tell(f"eftlocal: {where}: {error.strerror or error}")
            _remember(error, code)
        except Exception as error:  # a fault of the program, with its traceback
            _remember(error, EftlocalError.exit_code)
            raise
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # which typer would end without a word
            tell("eftlocal: stopped")
            raise typer.Exit(InterruptedRunError.exit_code) from None


def _imported(name: str) -> TyperCommand | TyperGroup:
    """The verb itself, with help in plain text."""
    module, _, attribute = VERBS[name][0].partition(":")
    verb = getattr(import_module(f"eftlocal.cli.{module}"), attribute)
    plain: Any = {"pretty_exceptions_short": False, "rich_markup_mode": None}
    if not isinstance(verb, typer.Typer):
        return get_command_from_info(CommandInfo(name, cls=Verb, callback=verb), **plain)  # type: ignore[return-value]
    for command in verb.registered_commands:
        command.cls = Verb
    return get_group_from_info(TyperInfo(verb, name=name), suggest_commands=True, **plain)


def _remember(error: BaseException, code: int) -> None:
    from eftlocal.cli.report import remember

    remember(error, code)


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
    cls=_Verbs,
    name="eftlocal",
    help="Emulated fine-tuning on your own machine: a large base model, steered by a small "
    "tuned one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
        gc.freeze()  # or the interpreter looks through all that there is, several times, as it ends
        finish(ended.code if isinstance(ended.code, int) else 0)
        raise
