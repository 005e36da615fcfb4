"""The user's own defaults: environment variables, and under them a settings file.

They stand for options of the command line that were left out, on every verb that has the option,
and above what a preset says. The Python API reads neither.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from eftlocal.disk import read_text
from eftlocal.errors import UsageError
from eftlocal.json_text import parse_toml
from eftlocal.kinds import REST, ByRole, RefusedError, over
from eftlocal.settings import (
    BODY,
    FILE,
    LINE,
    PRESET,
    SETTINGS,
    Setting,
    flag_of,
    named,
    read_table,
)
from eftlocal.terminal_text import shown

KNOWN = {name: setting for name, setting in SETTINGS.items() if FILE in setting.where}
RECIPE = tuple(setting.parameter for setting in named("recipe").values())
"""The options that name a recipe together; each alone may mean nothing."""
# What the program, its set-up, its scripts and tests read elsewhere.
_OTHERS = ("CACHE", "CONFIG", "DATA", "WHEELS", "API_KEY", "JUDGE_KEY", "NEW_PICTURES")


@dataclass(frozen=True)
class Default:
    """A value, and where it was given: a message begins with that."""

    value: Any
    source: str


def config_folder() -> Path:
    """The folder of the user's own files, which may not exist. EFTLOCAL_CONFIG overrides it."""
    if folder := os.environ.get("EFTLOCAL_CONFIG"):
        return Path(folder)
    import platformdirs

    return platformdirs.user_config_path("eftlocal")


def settings_path() -> Path:
    """The settings file, which may not exist."""
    return config_folder() / "settings.toml"


def from_environment() -> dict[str, Default]:
    """Settings of variables EFTLOCAL_NAME, by name. A blank one is not there.

    Raises:
        UsageError: a value is wrong, or a name is nearly that of a setting.
    """
    found = {}
    variables = {setting.variable: setting for setting in SETTINGS.values()}
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith("EFTLOCAL_") or not text.strip():
            continue
        if setting := variables.get(variable):
            if setting.name not in KNOWN:
                raise UsageError(f"{variable}: {_elsewhere(setting)}")
            try:
                value = setting.kind.parse(text if setting.name == "stop" else text.strip())
            except RefusedError as error:
                raise UsageError(error.told(variable)) from None
            found[setting.name] = Default(value, variable)
        elif variable.removeprefix("EFTLOCAL_") not in _OTHERS and (
            near := get_close_matches(variable, variables, 1, 0.85)
        ):
            raise UsageError(f"{variable} is no setting; did you mean {near[0]}?")
    return found


def from_file() -> dict[str, Default]:
    """Settings of the user's file, by name; nothing where there is no file.

    Raises:
        UsageError: the file cannot be read, or a key or value is wrong.
    """
    path = settings_path()
    if not path.exists():
        if path.parent.is_file():
            raise UsageError(f"{path.parent} is a file; EFTLOCAL_CONFIG names the folder of yours")
        return {}
    try:
        table = parse_toml(read_text(path))
        if apart := next((SETTINGS[k] for k in table if k in SETTINGS and k not in KNOWN), None):
            raise ValueError(_elsewhere(apart))
        table = read_table(table, KNOWN)
    except UsageError:  # it cannot be read, and the line says so
        raise
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    return {name: Default(value, f"{path}: {name}") for name, value in table.items()}


def _elsewhere(setting: Setting) -> str:
    """What to say of a setting that has no default of the user's."""
    places = {LINE: "on the command line", BODY: "in a request", PRESET: "in a preset"}
    where = " or ".join(places[place] for place in setting.where)
    return f"{setting.name} can be given {where} only"


def levels() -> tuple[dict[str, Default], dict[str, Default]]:
    """The settings of the environment, and those of the file; the first win.

    Raises:
        UsageError: one is wrong.
    """
    found = from_environment(), from_file()
    _parsed(_users_recipe(found))
    return found


def user_settings() -> dict[str, Default]:
    """What holds where the command line says nothing, by name."""
    environment, file = levels()
    recipe = _users_recipe((environment, file))
    return {
        name: one
        for name, one in _together(environment, file).items()
        if SETTINGS[name].group != "recipe" or recipe.get(SETTINGS[name].parameter) is one
    }


def _together(environment: dict[str, Default], file: dict[str, Default]) -> dict[str, Default]:
    """The values of both; those by role complete each other."""
    found = {**file, **environment}
    for name in environment.keys() & file.keys():
        if isinstance(SETTINGS[name].kind, ByRole):
            found[name] = replace(found[name], value=over(found[name].value, file[name].value))
    return found


class Given(dict[str, Any]):
    """A verb's options by their parameters' names, with the user's defaults; None or False where
    nothing was said.

    Attributes:
        sources: where values came from that were not on the command line; of a role's alone, as
            cache_type_k[base], where the command line speaks of other roles.
    """

    def __init__(self, values: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> None:
        super().__init__(values)
        self.sources = dict(sources or {})

    def typed(self, name: str) -> Any:
        """The value that the command line gave; None where it gave none."""
        return None if name in self.sources else self[name]

    def of_user(self, name: str, role: str) -> bool:
        """Whether what is said of a role came from the user's settings."""
        value = self[name]
        said = role if isinstance(value, Mapping) and role in value else REST
        return name in self.sources or f"{name}[{said}]" in self.sources

    def changed(self, **values: Any) -> Given:
        sources = {name: source for name, source in self.sources.items() if name not in values}
        return Given({**self, **values}, sources)

    def in_file(self, name: str) -> bool:
        """Whether the value is of the settings file."""
        return not self.sources.get(name, "EFTLOCAL_").startswith("EFTLOCAL_")

    def named(self, name: str) -> str:
        """What a message calls an option: by where it was given."""
        return self.sources.get(name) or flag_of(name)


def with_user_settings(
    options: Mapping[str, Any], typed: Collection[str], shared: Collection[str]
) -> tuple[Given, list[str]]:
    """The options with the user's defaults, but for those that what was typed leaves no place for.

    Args:
        options: by their parameters' names.
        typed: those that the command line gave.
        shared: those that may have such a default.

    Returns:
        The options; and where recipe settings stand that do not go with the recipe typed.
    """
    given = Given(options)
    found = levels()
    _use_models_folder(found[1])
    apart = set(typed)
    if apart & {"base", "tuned", "reference", "role"}:
        apart.add("preset")
    if "raw" in typed:
        apart |= {"chat_template_kwargs", "system_in_user"}
    for name, one in _together(*found).items():
        parameter = SETTINGS[name].parameter
        if parameter not in shared or parameter in RECIPE:
            continue
        if parameter not in apart:
            given[parameter], given.sources[parameter] = one.value, one.source
        elif isinstance(SETTINGS[name].kind, ByRole):
            line = options[name]
            given[name] = over(line, one.value)
            if given[name] is not line:
                of_user = given[name].keys() - line.keys()
                given.sources |= dict.fromkeys((f"{name}[{r}]" for r in of_user), one.source)
    if not set(RECIPE) <= set(shared):
        return given, []
    line = {name: Default(options[name], "") for name in RECIPE if name in typed}
    recipe = merged_recipe([line, *map(_of_recipe, found)])
    for name, one in recipe.items():
        if name not in typed:
            given[name], given.sources[name] = one.value, one.source
    user = _users_recipe(found)
    lost = [name for name in user if name not in recipe and name != "any_sum"]
    return given, [user[name].source for name in lost]


def use_models_folder() -> None:
    """Makes the models folder of the settings file that of this process and of its children."""
    _use_models_folder(from_file())


def _use_models_folder(file: Mapping[str, Default]) -> None:
    if "models" in file and not os.environ.get("EFTLOCAL_MODELS"):
        value, source = file["models"].value, file["models"].source
        try:
            folder = config_folder() / Path(value).expanduser()
        except RuntimeError:
            raise UsageError(f"{source}: {shown(value)} begins with an unknown user") from None
        os.environ["EFTLOCAL_MODELS"] = str(folder.absolute())


def merged_recipe(found: Iterable[dict[str, Default]]) -> dict[str, Default]:
    """The options that name a recipe, of several levels, the highest first.

    A lower level may complete the recipe that a higher one names; never make it another one.
    any_sum is no part of a recipe: it waits for weights.
    """
    merged: dict[str, Default] = {}
    any_sum: Default | None = None
    for level in found:
        any_sum = any_sum or level.get("any_sum")
        new = {n: one for n, one in level.items() if n not in merged and n != "any_sum"}
        if not merged:
            merged = new
            continue
        name = _name(merged)
        for part in (new, *({key: one} for key, one in new.items())):
            there = _name(merged | part)
            if there is not None and there == (name or there):
                merged |= part
    if any_sum is not None and "recipe" in merged and "=" in merged["recipe"].value:
        merged["any_sum"] = any_sum
    return merged


def _users_recipe(found: Iterable[Mapping[str, Default]]) -> dict[str, Default]:
    """The options that the user's settings name a recipe with, as `levels` gives them."""
    return merged_recipe(map(_of_recipe, found))


def _of_recipe(level: Mapping[str, Default]) -> dict[str, Default]:
    named_ = {SETTINGS[name].parameter: one for name, one in level.items()}
    return {name: one for name, one in named_.items() if name in RECIPE and one.value is not False}


def _parsed(options: Mapping[str, Default]) -> Any:
    """The recipe that these options name.

    Raises:
        UsageError: they name none; the line says where they were given.
    """
    from eftlocal.logits.recipe_text import parse_recipe

    if not options:
        return None
    values: dict[str, Any] = {name: one.value for name, one in options.items()}
    try:
        return parse_recipe(values.pop("recipe", None), **values)
    except UsageError as error:
        sources = dict.fromkeys(one.source for one in options.values())
        raise UsageError(f"{', '.join(sources)}: {error}") from None


def _name(options: Mapping[str, Default]) -> str | None:
    try:
        recipe = _parsed(options)
    except UsageError:
        return None
    return None if recipe is None else str(recipe.name)
