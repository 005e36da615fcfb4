"""What an adapter changed: answers of its model without it and with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from eftlocal.defaults import Defaults
from eftlocal.emulator import Emulator
from eftlocal.loading.roles import RoleSource
from eftlocal.logits.recipe import REFERENCE, TUNED, Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.tuning.examples import Example

_TOKENS = 60  # of an answer


def before_and_after(
    source: RoleSource, adapter: Path, examples: Sequence[Example]
) -> Iterator[tuple[Example, str, str]]:
    """Each example with the greedy answer of the model, and of the model with its adapter.

    Args:
        source: of the model, which was loaded before.
    """
    roles = {TUNED: replace(source, lora=adapter), REFERENCE: source}
    alone = {role: Recipe.single(role) for role in roles}
    with Emulator.from_sources(roles, defaults=Defaults(alone[TUNED]), trust=True) as emulator:
        for example in examples:
            before, after = (
                emulator.chat(
                    example.messages,
                    recipe=alone[role],
                    sampling=Sampling(temperature=0.0),
                    max_tokens=_TOKENS,
                ).text
                for role in (REFERENCE, TUNED)
            )
            yield example, before, after
