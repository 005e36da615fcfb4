"""The place of a conversation in the caches, while something else is decoded.

What is compared or inspected has the conversation's own beginning, so it would be given that very
place and drop the answers there. The place is therefore taken by a sequence that holds what the
caches hold and is never advanced; others copy from it what they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.logits.sampling import Sampling


@contextmanager
def kept_aside(ensemble: Ensemble, talk: RunningSequence | None) -> Iterator[None]:
    """Keeps what an ended sequence left in its place, where there is another place besides."""
    if talk is None or not talk.closed or len(ensemble.free) < 2:
        yield
        return
    prompts = {}
    for role, context in ensemble.contexts.items():
        held = list(context.tokens(talk.slot)) or list(talk.prompts[role][:1])
        # A prompt's last token is always decoded anew, so what is held needs one after it.
        prompts[role] = [*held, held[-1]][: context.n_ctx - 1]
    holder = ensemble.open(prompts, recipe=talk.recipe, sampling=Sampling(temperature=0.0))
    try:
        yield
    finally:
        ensemble.close(holder)
