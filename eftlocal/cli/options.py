"""The options that verbs share, made from the table of settings, and what they mean together.

An option left out is None (a flag False), so that a preset's own value stands; one that is given
is checked before any model is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal.cli.streams import tell
from eftlocal.constraint import KINDS, Constraint, one_of
from eftlocal.disk import read_text
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.json_schema import schema_notes
from eftlocal.kinds import (
    OFF,
    REST,
    ByRole,
    File,
    Flag,
    Range,
    RefusedError,
    Texts,
    for_role,
    number,
    over,
)
from eftlocal.logits.recipe import TRIO, TUNED, UNGUIDED, Recipe
from eftlocal.prompt.messages import check_variables
from eftlocal.settings import (
    AXIS,
    CONTEXT,
    FILE,
    LINE,
    ROPE,
    SETTINGS,
    Setting,
    flag_of,
    misplaced,
    named,
)
from eftlocal.user_settings import RECIPE, Given, with_user_settings

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults
    from eftlocal.presets.schema import Preset

HEADINGS = {
    **{"models": "Models", "recipe": "Recipe", "limits": "Recipe", "sampling": "Sampling"},
    **{"length": "Length", "form": "Form of the answer"},
    "drafts": "Speculation (changes the speed, never the distribution)",
    **{"prompt": "Prompt", "raw": "Prompt", "cache": "Prompt", "engine": "Engine", "log": "Engine"},
    "context": "Context",
}


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
        if AXIS in setting.where
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


def fitting(given: Given, default: Defaults, roles: Collection[str]) -> tuple[Given, list[str]]:
    """The options without what the user's settings say that cannot be with these models.

    Args:
        default: of these models.

    Returns:
        The options; and where recipe settings stand that are not for these models.
    """
    from eftlocal.defaults import chosen_recipe, chosen_speculation

    lost: list[str] = []
    recipe = [name for name in RECIPE if given.get(name) is not None and given[name] is not False]
    if recipe and given.sources.keys() >= set(recipe):
        guided = {UNGUIDED} if TUNED in roles and given.get("system") is not None else set()
        try:
            needed = set(chosen_recipe(default.recipe, given).roles)
        except UsageError:
            needed = {""}
        if not needed <= {*roles, *guided}:
            lost = [given.sources[name] for name in recipe]
            given = given.changed(**dict.fromkeys(recipe))
    try:
        chosen_speculation(default.speculation, given)
    except UsageError:  # a rule or source without drafts: what was typed stands
        described = [n for n in ("draft_rule", "draft_source") if given.get(n) is not None]
        typed = any(name not in given.sources for name in described)
        changed = ["speculative"] if typed else described
        given = given.changed(**{name: None for name in changed if name in given.sources})
    return given, lost


def without_axes(given: Given, axes: Collection[str]) -> Given:
    """The options of a sweep with the user's own dials where its axes stood."""
    names = [*axes, "any_sum"]
    dials, _ = with_user_settings(dict.fromkeys(names), (), names)
    along = [name for name in RECIPE if name in axes and given[name] is not None]
    if along:  # the points say what the recipe is
        others = [name for name in RECIPE if name in dials.sources and name not in along]
        tell_left_out((dials.sources[name] for name in others), "the recipes of this sweep")
        dials = dials.changed(**dict.fromkeys(RECIPE))
    return Given({**given, **dials}, {**given.sources, **dials.sources})


def _role_flag(role: str) -> str:
    return f"--{role}" if role in TRIO else f"--role {role}=FILE"


def chosen_defaults(default: Defaults, given: Mapping[str, Any]) -> Defaults:
    """The defaults with a verb's options of recipe, sampling, speculation and length.

    Args:
        given: the verb's parameters by their names, those of other options too.
    """
    from eftlocal.defaults import chosen_recipe, chosen_sampling, chosen_speculation

    limits: dict[str, Any] = {n: given.get(n) for n in ("max_tokens", "loop_guard")}
    return replace(
        default,
        recipe=chosen_recipe(default.recipe, given, flag_of),
        sampling=chosen_sampling(default.sampling, given),
        speculation=chosen_speculation(default.speculation, given, flag_of),
        stop=(*default.stop, *(given.get("stop") or ())),
        **{name: value for name, value in limits.items() if value is not None},
    )


def constraint(given: Mapping[str, Any]) -> Constraint | None:
    """Of --grammar, --json-schema, --regex or --lark, checked as far as it can be without a model.

    Args:
        given: a verb's options by their names.
    """
    kinds = {flag_of(kind): kind for kind in KINDS}
    found = one_of({option: given[kind] for option, kind in kinds.items()})
    if found is None:
        return None
    option, value = found
    kind = kinds[option]
    text = value if kind == "regex" else read_text(value, f"{option} {value}")
    constraint = Constraint(kind, text)
    constraint.check()
    if kind == "json_schema":
        for note in schema_notes(text):
            tell(f"note: {option}: {note}")
    return constraint


def chosen_models(given: Given) -> Preset | dict[str, Path]:
    """The preset, or the files given.

    Args:
        given: a verb's options of models by their names.
    """
    from eftlocal.presets.reading import find

    preset: str | None = given["preset"]
    files: dict[str, Path] = {role: given[role] for role in TRIO if given[role] is not None}
    for text in given.get("role") or ():
        role, sign, path = text.partition("=")
        if not (role.isidentifier() and sign and path):
            raise UsageError(f"--role {text}: give a name and a file, as in plain=FILE.gguf")
        if role in TRIO or role in files:
            raise UsageError(f"--role {text}: {role} is given by --{role}, or twice")
        files[role] = Path(path)
    if not files:
        name = SETTINGS["preset"].default if preset is None else preset
        try:
            return find(name)
        except UsageError as error:
            if source := given.sources.get("preset"):
                raise UsageError(f"{source}: {error}") from None
            raise
    if preset is not None:
        raise UsageError(f"--preset and --{next(iter(files))} exclude each other; leave one out")
    return files


def engine(given: Given, roles: Collection[str]) -> dict[str, Any]:
    """How roles are to be loaded, as `eftlocal.load` takes it.

    Args:
        given: a verb's parameters by their names.
        roles: that are there.
    """
    if given["threads"] is not None:
        from eftlocal.loading.host import check_threads

        check_threads(given["threads"], given.named("threads"))
    check_variables(given["chat_template_kwargs"] or {}, given.named("chat_template_kwargs"))
    return {
        "prompts": _prompts(given["chat_template"] or (), roles),
        "system_in_user": given["system_in_user"] or None,
        **{name: given[name] for name in ("chat_template_kwargs", "threads", "trust")},
        **context(given, roles),
        "gpu_layers": SETTINGS["gpu_layers"].kind.read(given["gpu_layers"]),
        "rpc": _of_roles(given, "rpc", roles),
        "reproducible": given["reproducible"] or None,
        "force": given["force"],
    }


def context(given: Given, roles: Collection[str]) -> dict[str, Any]:
    """How contexts are to be made, by the names of settings.CONTEXT; None where it is left open."""
    found = {name: _of_roles(given, name, roles) for name in CONTEXT}
    if given.typed("rope_scaling") is not None:  # defaults that do not go with it are left out
        scaling = {role: for_role(found["rope_scaling"], role) or "yarn" for role in roles}
        for name, value in [(name, found[name]) for name in ROPE]:
            lost = [r for r in roles if given.of_user(name, r) and name in misplaced(scaling[r])]
            if lost and value is not None:
                kept = {role: for_role(value, role) for role in roles if role not in lost}
                found[name] = {role: one for role, one in kept.items() if one is not None}
    return found


def _of_roles(given: Given, name: str, roles: Collection[str]) -> Any:
    """A setting's value, without what the user's settings say of roles that are not there.

    Raises:
        UsageError: the command line speaks of such a role.
    """
    value = given[name]
    if isinstance(value, Mapping):
        there = (*roles, REST)
        for role in value:
            if role not in there and not given.of_user(name, role):
                option = f"{flag_of(name)}: there is no role {role}"
                raise UsageError(f"{option}; there are {', '.join(roles)}")
        value = {role: one for role, one in value.items() if role in there}
    return None if value is False else value


def by_role(
    option: str, given: Sequence[str], roles: Collection[str], otherwise: str | None = None
) -> dict[str, str]:
    """Role to its value, from an option that is given once for each role.

    Args:
        otherwise: the role of a value that names none; None refuses such a value.

    Raises:
        UsageError: a value names no role, one that is not there, or one that another names.
    """
    found: dict[str, str] = {}
    for text in given:
        role, sign, value = text.partition("=")
        if otherwise is not None and not (sign and role.isidentifier()):
            role, value = otherwise, text
        elif otherwise is None and not (sign and value):
            raise UsageError(f"{option} {text}: give a role and its value, as in base=...")
        if role not in roles:
            raise UsageError(
                f"{option} {text}: there is no role {role}; there are {', '.join(roles)}"
            )
        if role in found:
            raise UsageError(f"{option}: {role} is given twice; leave one out")
        found[role] = value
    return found


def _prompts(given: Sequence[str], roles: Collection[str]) -> dict[str, str]:
    """Role to its prompt, from --chat-template."""
    answers = TUNED if TUNED in roles else next(iter(roles))
    named = by_role("--chat-template", given, roles, otherwise=answers)
    return {role: _prompt(value) for role, value in named.items()}


def _prompt(value: str) -> str:
    """A prompt's format: named, or the template in a file."""
    from eftlocal.prompt.render import check_format
    from eftlocal.prompt.template import is_template

    try:
        check_format(value)
        return value
    except UsageError as error:
        try:
            there = bool(value) and Path(value).exists()
        except (OSError, ValueError):  # no system would have a file of that name
            there = False
        if not there:
            raise UsageError(f"--chat-template: no such file, and {error}") from None
    source = read_text(Path(value), f"--chat-template {value}")
    if not is_template(source):
        source = source.strip()
        try:
            check_format(source)
        except UsageError:
            raise UsageError(
                f"--chat-template {value}: the file holds no jinja2 template, which has {{{{ or "
                "{% in it"
            ) from None
    return source


def check_raw(given: Mapping[str, Any]) -> None:
    """Refuses what does not go with --raw, or only with it."""
    if given["special"] and not given["raw"]:
        raise UsageError("--special is for raw text; add --raw")
    for name in ("system", "chat_template", "system_in_user", "chat_template_kwargs"):
        if given["raw"] and given[name]:  # no variables at all change nothing
            raise UsageError(
                f"{flag_of(name)} needs the chat template, which --raw leaves out; drop one"
            )


def check_guidance(recipe: Recipe, system: str | None, roles: Collection[str]) -> None:
    """Refuses guidance by nothing: the two prompts differ in the system prompt only."""
    if UNGUIDED in recipe.roles and UNGUIDED not in roles and system is None:
        raise UsageError(
            f"recipe {recipe.name} is one model with and without its instructions; "
            "give them with --system"
        )


def check_roles(recipe: Recipe, show: str | None, roles: Collection[str]) -> list[str]:
    """The roles to show; refuses a recipe or --show that names a role which is not there."""
    from eftlocal.loading.roles import require_roles

    made = (UNGUIDED,) if TUNED in roles else ()
    require_roles(recipe, roles, made=made, written=_role_flag)
    shown = list(dict.fromkeys(role.strip() for role in (show or "").split(",") if role.strip()))
    for role in shown:
        if role not in roles:
            raise UsageError(f"--show: there is no role {role!r}; there are {', '.join(roles)}")
    return shown
