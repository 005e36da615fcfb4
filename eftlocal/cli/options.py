"""The options that verbs share, made from the table of settings.

An option left out is None (a flag False), so that a preset's own value stands; one that is given
is checked before any model is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import reduce, wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from eftlocal.cli.streams import tell
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.kinds import OFF, ByRole, File, Flag, Range, RefusedError, Texts, number, over
from eftlocal.settings import AXIS, FILE, LINE, SETTINGS, Setting, named
from eftlocal.user_settings import with_user_settings

HEADINGS = {
    **{"models": "Models", "recipe": "Recipe", "limits": "Recipe", "sampling": "Sampling"},
    **{"length": "Length", "form": "Form of the answer"},
    "drafts": "Speculation (changes the speed, never the distribution)",
    **{"prompt": "Prompt", "raw": "Prompt", "cache": "Prompt", "engine": "Engine", "log": "Engine"},
    "context": "Context",
}


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class OptionError(EftlocalError):
    """An option's value is wrong. No ValueError: typer would put words of its own before it."""

    exit_code = UsageError.exit_code


def option(name: str, heading: str = "", **other: Any) -> Any:
    """The option of a setting, for `Annotated`.

    Args:
        heading: in the help, instead of that of its group.
        other: arguments of `typer.Option` instead of those that the table gives.
    """
    setting = SETTINGS[name]
    kind, flag = setting.kind, setting.flag
    if isinstance(kind, Flag) and FILE in setting.where:  # so that the line can say no
        flag = f"{flag}/--no-{flag[2:]}"
    more: dict[str, Any] = {"help": _help(setting), "show_default": False}
    more["rich_help_panel"] = heading or HEADINGS[setting.group]
    words = getattr(kind, "choices", None) or getattr(kind, "words", None)
    if setting.completion or words:
        more["autocompletion"] = _completion(setting.completion, words or ())
    if not isinstance(kind, (Flag, File, Texts)):
        more["parser"] = _parser(setting)
    if kind.metavar:
        more["metavar"] = kind.metavar
    return typer.Option(flag, **{**more, **other})


def annotation(name: str) -> Any:
    """The type of a setting's parameter, with its option."""
    kind = SETTINGS[name].kind
    several = list[str] | None
    types: dict[type, Any] = {Flag: bool, File: Path | None, Texts: several, ByRole: several}
    return Annotated[types.get(type(kind), str | None), option(name)]


def _help(setting: Setting) -> str:
    if setting.default_text in ("", OFF):
        return setting.help
    return f"{setting.help.rstrip('.')} (default: {setting.default_text})."


def _parser(setting: Setting) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return setting.kind.parse(text)
        except RefusedError as error:
            raise OptionError(error.told(setting.flag)) from None

    return parse


def _one_by_role(values: Sequence[Any] | None) -> Any:
    """The value of an option that may be given once for each role."""
    return reduce(lambda all_, one: over(one, all_), values) if values else None


def _completion(name: str, words: Iterable[str]) -> Callable[..., Any]:
    def complete(ctx: typer.Context, incomplete: str) -> Any:
        if not name:
            return [*words]
        from eftlocal.cli import completion

        return getattr(completion, name)(ctx, incomplete)

    return complete


def verb_option(flag: str, text: str, heading: str, **more: Any) -> Any:
    """An option of one verb only, under a heading of its help."""
    return typer.Option(flag, help=text, rich_help_panel=heading, show_default=False, **more)


def parallel(text: object) -> int:
    """How many answers at once; 0 is auto."""
    try:
        count: int = Range(1, 256, auto=0, whole=True).read(number(str(text)))
    except ValueError as error:
        raise OptionError(f"--parallel {error}") from None
    return count


GROUPS: dict[str, dict[str, Any]] = {
    group: {s.parameter: annotation(s.name) for s in named(group, where=LINE).values()}
    for group in HEADINGS
}
GROUPS["recipe"] |= GROUPS.pop("limits")
GROUPS["engine"] |= GROUPS["context"]


GRID = tuple(s.parameter for s in SETTINGS.values() if AXIS in s.where)
"""Parameters of the settings that are axes of a grid."""
FIXED = "any_sum", "persona"  # of the recipe, the same at every point of a grid


def axes(heading: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The options that are axes of a grid, by their parameters: each is text.

    Args:
        texts: help of those that mean something else there, by their names.
    """
    return {
        setting.parameter: Annotated[
            str | None,
            option(
                *(setting.name, heading),
                parser=None,
                metavar="VALUES",
                help=texts.get(setting.name, setting.help),
            ),
        ]
        for setting in SETTINGS.values()
        if setting.parameter in GRID
    }


_Verb = Callable[..., None]


def takes(
    *groups: str,
    also: Sequence[str] = (),
    first: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
    shared: Collection[str] = (),
) -> Callable[[_Verb], Callable[..., None]]:
    """Gives a verb the options of these groups, after its own. Its last parameter is `given`: all
    of them, with the user's defaults for those that were left out.

    Args:
        also: further settings by their names.
        first: options by their names that come before those of the groups.
        without: options of the groups that it does not have.
        shared: options that the verb declares itself, and that mean what the settings of their
            names do.
    """
    types = dict(first or {})
    own_kind = set(types)
    for group in groups:
        types |= {name: kind for name, kind in GROUPS[group].items() if name not in without}
    types |= {name: annotation(name) for name in also}

    def decorate(verb: _Verb) -> Callable[..., None]:
        *own, _given = inspect.signature(verb, eval_str=True).parameters.values()
        names = {parameter.name for parameter in own}
        by_role = [n for n in types if n in SETTINGS and isinstance(SETTINGS[n].kind, ByRole)]
        may_be_set = (set(types) - own_kind - names) | set(shared)
        common = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if kind.__origin__ is bool else None,
                annotation=kind,
            )
            for name, kind in types.items()
            if name not in names
        ]
        context = inspect.Parameter(
            "_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context
        )

        @wraps(verb)
        def run(*, _context: typer.Context, **options: Any) -> None:
            typed = [name for name in options if _is_typed(_context, name)]
            for name in by_role:
                options[name] = _one_by_role(options[name])
            given, left_out = with_user_settings(options, typed, may_be_set)
            tell_left_out(left_out, "this recipe")
            for name in shared:  # a number that the verb needs cannot be off
                if isinstance(options[name], int) and given[name] == OFF:
                    given = given.changed(**{name: options[name]})
            verb(**{name: given[name] for name in names}, given=given)

        run.__signature__ = inspect.Signature([*own, *common, context])  # type: ignore[attr-defined]
        return run

    return decorate


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def tell_left_out(sources: Iterable[str], what: str) -> None:
    for source in sources:
        tell(f"note: {source} does not go with {what}; left out")
