"""What the options of a verb mean together, and which do not go together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eftlocal.cli.options import tell_left_out
from eftlocal.cli.streams import tell
from eftlocal.constraint import KINDS, Constraint, one_of
from eftlocal.disk import read_text
from eftlocal.errors import UsageError
from eftlocal.json_schema import schema_notes
from eftlocal.kinds import REST, for_role, number
from eftlocal.logits.recipe import TRIO, TUNED, UNGUIDED, Recipe
from eftlocal.prompt.messages import check_variables
from eftlocal.settings import CONTEXT, RANGES, ROPE, SETTINGS, flag_of, misplaced
from eftlocal.user_settings import RECIPE, Given, with_user_settings

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults
    from eftlocal.presets.schema import Preset


def fitting(given: Given, default: Defaults, roles: Collection[str]) -> tuple[Given, list[str]]:
    """The options without what the user's settings say that cannot be with these models.

    Args:
        default: of these models.

    Returns:
        The options; and where recipe settings stand that are not for these models.
    """
    from eftlocal.defaults import chosen_recipe, chosen_speculation
    from eftlocal.loading.roles import require_roles

    lost: list[str] = []
    recipe = [name for name in RECIPE if given.get(name) is not None and given[name] is not False]
    if recipe and given.sources.keys() >= set(recipe):
        try:
            chosen = chosen_recipe(default.recipe, given)
            require_roles(chosen, roles, to_load=True)
            check_guidance(chosen, given.get("system"), roles)
        except UsageError:
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
    """The options of a grid with the user's own dials where its axes stood."""
    names = [*axes, "any_sum", "persona"]
    dials, _ = with_user_settings(dict.fromkeys(names), (), names)
    along = [name for name in RECIPE if name in (*axes, "persona") and given[name] is not None]
    if along:  # the points say what the recipe is
        others = [name for name in RECIPE if name in dials.sources and name not in along]
        tell_left_out((dials.sources[name] for name in others), "the recipes of this grid")
        dials = dials.changed(**{**dict.fromkeys(RECIPE), "persona": given["persona"]})
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
        recipe=chosen_recipe(default.recipe, given),
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
    from eftlocal.loading.roles import with_adapted
    from eftlocal.presets.reading import find

    preset: str | None = given["preset"]
    files = trio_files(given)
    for text in given.get("role") or ():
        role, sign, path = text.partition("=")
        if not (role.isidentifier() and sign and path):
            raise UsageError(f"--role {text}: give a name and a file, as in plain=FILE.gguf")
        if role in TRIO or role in files:
            raise UsageError(f"--role {text}: {role} is given by --{role}, or twice")
        files[role] = Path(path)
    files = with_adapted(files, adapter_roles(given))
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


def trio_files(given: Given) -> dict[str, Path]:
    """Role to file, from --base, --tuned and --reference."""
    return {role: given[role] for role in TRIO if given[role] is not None}


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
        "prompts": prompts(given["chat_template"] or (), roles),
        "adapters": adapters(given, roles),
        "system_in_user": given["system_in_user"] or None,
        **{name: given[name] for name in ("chat_template_kwargs", "threads", "trust")},
        **context(given, roles),
        "gpu_layers": SETTINGS["gpu_layers"].kind.read(given["gpu_layers"]),
        "rpc": _of_roles(given, "rpc", roles),
        "reproducible": given["reproducible"] or None,
        "force": given["force"],
    }


def adapter_roles(given: Given) -> list[str]:
    """The roles that --adapter names."""
    return [text.partition("=")[0] for text in given["adapter"] or ()]


def adapters(given: Given, roles: Collection[str]) -> dict[str, tuple[Path, float]]:
    """Role to its LoRA adapter and the scale of it, from --adapter."""
    found = {}
    for role, value in by_role("--adapter", given["adapter"] or (), roles).items():
        file, _, scale = value.rpartition(":")
        times = number(scale) if file else scale
        if isinstance(times, str):  # a colon of the file's own name
            file, times = value, 1.0
        times = RANGES["adapter"].checked(f"--adapter {role}={value}: the scale", times)
        found[role] = Path(file), times
    return found


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


def prompts(given: Sequence[str], roles: Collection[str]) -> dict[str, str]:
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
    for name in ("system", "persona", "chat_template", "system_in_user", "chat_template_kwargs"):
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

    require_roles(recipe, roles, to_load=True, written=_role_flag)
    shown = list(dict.fromkeys(role.strip() for role in (show or "").split(",") if role.strip()))
    for role in shown:
        if role not in roles:
            raise UsageError(f"--show: there is no role {role!r}; there are {', '.join(roles)}")
    return shown
