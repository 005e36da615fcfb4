"""`eftlocal eval --save-best`: the best point of a grid as a preset of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from eftlocal.defaults import preset_defaults
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.kinds import OFF
from eftlocal.logits.recipe_text import NAMED, parse_recipe
from eftlocal.presets.schema import Preset
from eftlocal.presets.writing import add_preset, check_name
from eftlocal.settings import LIMITS

if TYPE_CHECKING:
    from eftlocal.cli.selection import Selection
    from eftlocal.evaluation.figures import PointSummary
    from eftlocal.evaluation.grid import Point, Value
    from eftlocal.evaluation.task import Metric
    from eftlocal.user_settings import Given

_RECIPE = ("recipe", "alpha", "beta", "lambda", "strength", *LIMITS)


def check_save(given: Given, tasks: Sequence[str]) -> str | None:
    """The metric to choose by; None where nothing is to be saved.

    Raises:
        UsageError: an option lacks the other, or does not go with it; the name is taken or none.
    """
    metric, name = given["save_best"], given["as_"]
    if (metric is None) != (name is None):
        raise UsageError("--save-best METRIC and --as NAME go together")
    if metric is None:
        return None
    if given["split"] is not None:
        raise UsageError("--save-best chooses on one half and measures on the other: no --split")
    if len(tasks) > 1:
        raise UsageError("--save-best chooses by one task")
    check_name(name, replace=False, other="give another name with --as")
    return str(metric)


def best(summaries: Sequence[PointSummary], name: str, metric: Metric) -> PointSummary:
    """The point with the best mean; of equal ones the first.

    Raises:
        EftlocalError: none has one.
    """
    grid = [s for s in summaries if name in s.metrics and not isnan(s.metrics[name].mean)]
    if not grid:
        raise EftlocalError(f"--save-best: {name} was measured at no point")
    sign = -1.0 if metric.less_is_better else 1.0
    return max(grid, key=lambda s: sign * s.metrics[name].mean)


def save(selected: Selection, given: Given, point: Point, comment: str) -> None:
    """Writes the preset that was evaluated, with the point's recipe and sampling."""
    add_preset(_at(selected, given, point), comment)


def check_points(selected: Selection, given: Given, points: Sequence[Point]) -> None:
    """Refuses, before any is answered, points that cannot be saved.

    Raises:
        UsageError: a preset cannot say the recipe of one.
    """
    for point in points:
        _at(selected, given, point)


def _at(selected: Selection, given: Given, point: Point) -> dict[str, Any]:
    """The preset of a point."""
    table = _table(selected, given)
    dials = {name: value for name, value in point.dials.items() if name in _RECIPE}
    if dials:
        old = {} if "recipe" in dials else table.get("recipe", {})
        table["recipe"] = _recipe({**old, **dials})
    drawn = {name: _plain(of) for name, of in point.dials.items() if name not in _RECIPE}
    if drawn:
        table["sampling"] = {**table.get("sampling", {}), **drawn}
    if preset_defaults(Preset.model_validate(table)).recipe != point.recipe:
        raise UsageError(f"--save-best: a preset cannot hold the recipe {point.recipe}")
    return table


def _table(selected: Selection, given: Given) -> dict[str, Any]:
    """The models as a preset, under the new name."""
    from eftlocal.cli.models_add import preset_table
    from eftlocal.presets.schema import FileRef

    models, name = selected.models, str(given["as_"])
    if isinstance(models, Mapping):
        files = {role: FileRef.at(file) for role, file in models.items()}
        adapters = {r: (FileRef.at(f), s) for r, (f, s) in selected.engine["adapters"].items()}
        return preset_table(name, files, adapters, selected.engine["prompts"])
    table = models.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return {**table, "name": name, "title": f"{models.title or models.name}, chosen by eval"}


def _recipe(settings: Mapping[str, Value]) -> dict[str, Any]:
    """The table of a recipe of these settings, of which "recipe" is its name or its weights."""
    found = {name: _plain(value) for name, value in settings.items() if name != "recipe"}
    if (text := settings.get("recipe")) is None:
        return found
    if text in NAMED:
        return {"name": text, **found}
    return {"weights": dict(parse_recipe(str(text)).weights), **found}


def _plain(value: Any) -> Any:
    return OFF if value is None else dict(value) if isinstance(value, Mapping) else value
