"""How a preset can be had on this machine: what is here, how large, whether it fits."""

from __future__ import annotations

from dataclasses import replace

from eftlocal.errors import EftlocalError
from eftlocal.hub import Missing, size_of
from eftlocal.loading.host import host_memory_free
from eftlocal.loading.placement import Held
from eftlocal_tui.engine import Offer
from eftlocal_tui.engine.wanted import Start, Wanted


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
