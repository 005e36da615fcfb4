"""The verb itself: options checked in full, then models loaded once for all points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eftlocal.cli import options as opt
from eftlocal.cli.interrupts import raising
from eftlocal.cli.options import Given, takes
from eftlocal.cli.screen import tell
from eftlocal.cli.sweep import options as own
from eftlocal.errors import UsageError
from eftlocal.settings import LIMITS, OFF

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults
    from eftlocal.logits.recipe import Recipe
    from eftlocal.logits.sampling import Sampling
    from eftlocal.sweep.grid import Build

_AXES = own.axes()


@takes(
    *("models", "length", "drafts", "prompt", "raw", "engine"),
    first=_AXES,
    any_sum=opt.AnySum,
)
def sweep(
    prompts: own.PromptsFile = None,
    questions: own.QuestionSetName = None,
    split: own.SplitName = None,
    limit: own.Limit = None,
    system: own.System = None,
    raw: own.Raw = False,
    out: own.Out = None,
    metrics: own.Metrics = None,
    json_: own.Json = False,
    picture: own.Picture = None,
    page: own.Page = None,
    dry_run: own.DryRun = False,
    seed: own.Seed = 0,
    speculative: own.Speculative = "off",
    *,
    given: Given,
) -> None:
    """Answer a set of prompts at every point of a grid, and compare the points.

    Figures are means over the prompts with 95% bootstrap intervals. Example:

    eftlocal sweep --questions demo --limit 100 --beta 0:2:0.5 --out beta.jsonl --plot beta.png
    """
    from eftlocal.arguments import checked
    from eftlocal.cli.bars import loading_bars
    from eftlocal.cli.loaded import chosen_sources
    from eftlocal.cli.sweep.asking import check_files, chosen_items, chosen_metrics
    from eftlocal.cli.sweep.showing import print_grid, progress, write
    from eftlocal.defaults import Defaults, preset_defaults
    from eftlocal.evaluate.answers import LONGEST
    from eftlocal.generation import TextStream
    from eftlocal.presets.reading import find
    from eftlocal.sweep.dials import parse_dials
    from eftlocal.sweep.grid import cross
    from eftlocal.sweep.journal import Journal
    from eftlocal.sweep.manifest import manifest
    from eftlocal.sweep.measures import possible
    from eftlocal.sweep.running import remaining, run_sweep

    offline, stop, max_tokens = given["offline"], given["stop"], given["max_tokens"]
    models = opt.chosen_models(given)
    found = find(models) if isinstance(models, str) else None
    roles = tuple(found.roles if found else models)
    opt.check_raw(given)
    engine = opt.engine(given, roles)
    checked("max_tokens", max_tokens)
    TextStream(stop or ())  # refuses what cannot be a stop string
    defaults = preset_defaults(found) if found else Defaults()
    if questions:
        defaults = replace(defaults, sampling=replace(defaults.sampling, temperature=0.0))
        max_tokens = max_tokens or LONGEST
    guard = opt.chosen_loop_guard(defaults, given["loop_guard"])
    dials = parse_dials({name.rstrip("_"): given[name] for name in _AXES})
    points = cross(dials, _builder(defaults, roles, given["any_sum"]))
    speculation = opt.chosen_speculation(
        defaults.speculation,
        length=speculative,
        rule=given["draft_rule"],
        source=given["draft_source"],
    )
    items = chosen_items(
        prompts, questions, split, limit=limit, system=system, raw=raw, special=given["special"]
    )
    shown = chosen_metrics(metrics, possible(items, roles, drafts=not speculation.off))
    check_files(prompts, out, picture, page)
    if dry_run:
        print_grid(points, len(items))
        return
    if out is None:
        raise UsageError("--out is missing: name a file for the results, as in --out sweep.jsonl")
    with loading_bars() as bars:
        sources = chosen_sources(models, bars, offline=offline, **engine)
        identity = manifest(
            preset=sources.name,
            roles=sources.roles,
            items=items,
            seed=seed,
            max_tokens=max_tokens or defaults.max_tokens,
            stop=(*defaults.stop, *(stop or ())),
            loop_guard=guard,
            speculation=speculation,
        )
    with raising(), Journal(out, identity) as journal:
        if left := remaining(points, items, journal):
            with loading_bars() as bars:
                # Only a default recipe that needs it brings the role `unguided` along.
                first = next((p for p in points if "unguided" in p.recipe.roles), points[0])
                sources = replace(sources, defaults=replace(defaults, recipe=first.recipe))
                emulator = sources.load(
                    force=given["force"], progress=bars.weights, checking=bars.checking
                )
                if speculation.length is None:
                    emulator.measure(bars.measuring)
            texts = (str(i.prompt) for i in items if i.raw and not i.special)
            spelled = "\n".join(texts)
            notes = (n for p in points for n in emulator.notes(p.recipe, raw_text=spelled))
            for note in dict.fromkeys(notes):
                tell(f"note: {note}")
            with emulator, progress(left, journal) as advance:
                run_sweep(
                    emulator,
                    points,
                    items,
                    journal,
                    seed=seed,
                    max_tokens=max_tokens,
                    stop=stop or (),
                    loop_guard=guard,
                    speculation=speculation,
                    advance=advance,
                )
    write(points, items, journal, identity, shown, json_=json_, picture=picture, page=page)


def _builder(defaults: Defaults, roles: tuple[str, ...], any_sum: bool) -> Build:
    """What a combination of dials means; the others are the preset's."""

    def build(dials: Mapping[str, Any]) -> tuple[Recipe, Sampling]:
        # No limit at all is None in a grid.
        limits = {
            name: OFF if dials[name] is None else dials[name] for name in LIMITS if name in dials
        }
        recipe = opt.chosen_recipe(
            defaults.recipe,
            name=dials.get("recipe"),
            alpha=dials.get("alpha"),
            beta=dials.get("beta"),
            lambda_=dials.get("lambda"),
            strength=dials.get("strength"),
            any_sum=any_sum,
            **limits,
        )
        opt.check_roles(recipe, None, roles)
        known = vars(defaults.sampling)
        return recipe, replace(defaults.sampling, **{k: v for k, v in dials.items() if k in known})

    return build
