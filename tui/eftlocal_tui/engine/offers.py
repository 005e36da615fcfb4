"""What this machine has room for: a preset, or a larger context or another role beside what is
loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from eftlocal.errors import DoesNotFitError, EftlocalError
from eftlocal.hub import Missing, size_of
from eftlocal.loading.host import host_memory_free
from eftlocal.loading.placement import Held, Plan
from eftlocal.loading.roles import require_roles, with_made, with_settings
from eftlocal.logits.recipe import Recipe
from eftlocal.sources import Sources
from eftlocal_tui.engine import Fit, Offer
from eftlocal_tui.engine.wanted import Start, Wanted

_SHARES = (1, 3 / 4, 1 / 2, 1 / 4)  # of what a context is to grow by, where memory is short
_STEP = 256  # tokens: llama.cpp makes caches of so many


def look(start: Start, name: str, held: Held) -> Offer:
    """What is known of a preset without asking the network.

    Args:
        held: by what is loaded, and given back before.
    """
    wanted = Wanted.of(start, name)
    assert wanted.preset is not None
    files = {str(ref): ref for ref in wanted.preset.files().values()}
    missing = Missing.of(files.values())
    offer = Offer(
        name,
        tuple(wanted.preset.roles),
        to_come=missing.size,
        begun=bool(missing.begun) or len(missing.refs) < len(files),
        free=_free(held),
    )
    if missing:
        known = [size_of(ref) for ref in files.values()]
        sizes = [size for size in known if size is not None]
        if len(sizes) < len(known):
            return offer
        fits = None if offer.free is None else sum(sizes) < offer.free
        return replace(offer, size=sum(sizes), needs=sum(sizes), fits=fits)
    try:
        sources = wanted.fetched(lambda _: None)
        prepared = wanted.planned(sources, held, force=True)
    except EftlocalError as error:
        return replace(offer, problem=str(error))
    paths = {file for header in prepared.headers.values() for file in header.files}
    plan = prepared.plan
    return replace(
        offer,
        size=sum(file.stat().st_size for file in paths),
        n_ctx=min(source.n_ctx or 0 for source in prepared.sources.values()),
        needs=plan.needed,
        free=plan.host_free,
        fits=None if plan.host_free is None else plan.fits,
    )


def _free(held: Held) -> int | None:
    free = host_memory_free()
    return None if free is None else free + held.host


class Grown(NamedTuple):
    """The same models with a larger context; see `engine.Larger`."""

    sources: Sources
    sizes: Mapping[str, int]
    needs: int
    slower: int


def larger(wanted: Wanted, sources: Sources, held: Held, fit: Fit) -> Grown | None:
    """The context that a conversation needs, as far as it can be had; None where it cannot.

    Args:
        held: by these very models, which are closed before.
    """
    factor = 2
    while not fit.with_sizes(_times(fit, factor)).enough:
        if _times(fit, factor) == _times(fit, 2 * factor):  # more than they were trained for
            return None
        factor *= 2
    now = wanted.planned(sources, held, force=True).plan
    for share in _SHARES:
        sizes = {
            role: fit.sizes[role] + _part(size - fit.sizes[role], share)
            for role, size in _times(fit, factor).items()
        }
        full = fit.fullest
        if sizes[full] == fit.sizes[full] or not fit.with_sizes(sizes).enough:
            return None
        context = {role: size for role, size in sizes.items() if role in sources.roles}
        grown = replace(sources, roles=with_settings(sources.roles, n_ctx=context))
        try:
            then = wanted.planned(grown, held).plan
        except DoesNotFitError:
            continue
        return Grown(grown, sizes, *_costs(now, then))
    return None


def also(wanted: Wanted, sources: Sources, held: Held, recipe: Recipe) -> tuple[Sources, int, int]:
    """The sources with the roles of a recipe that loading makes, and `needs` and `slower`; see
    `engine.Again`.

    Args:
        held: by these models, which are closed before.

    Raises:
        EftlocalError: other roles are missing, or they do not fit.
    """
    require_roles(recipe, sources.roles, to_load=True)
    more = replace(sources, roles=with_made(sources.roles, recipe))
    now = wanted.planned(sources, held, force=True).plan
    return more, *_costs(now, wanted.planned(more, held).plan)


def _costs(now: Plan, then: Plan) -> tuple[int, int]:
    needs = then.host_bytes + sum(map(then.device_bytes, range(len(then.devices))))
    return needs, max(0, _offloaded(now) - _offloaded(then))


def _times(fit: Fit, factor: int) -> dict[str, int]:
    """Every context so many times as long, where its model was trained for that."""
    return {
        role: max(size, min(factor * size, fit.trained[role] or factor * size))
        for role, size in fit.sizes.items()
    }


def _part(grown: int, share: float) -> int:
    return grown if share == 1 else int(grown * share) // _STEP * _STEP


def _offloaded(plan: Plan) -> int:
    return sum(sum(placement.split) for placement in plan.roles.values())
