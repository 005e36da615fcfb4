"""The ways to answer that are measured side by side."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from llama_cpp import llama_speculative

from eftlocal.logits.recipe import Recipe
from eftlocal.speculation.settings import OFF, Speculation

BASE, PLAIN, AUTO = "base alone", "plain emulation", "speculative, auto"
LLAMA_CPP = "llama.cpp's own drafts"
NOT_OFFERED = "not offered by this build"


@dataclass(frozen=True)
class Mode:
    """One way to answer.

    Attributes:
        endless: end tokens end nothing. A base answers a chat with one of these at once, or never:
            how fast it is shows on a given number of tokens.
    """

    name: str
    recipe: Recipe
    speculation: Speculation = OFF
    endless: bool = False


def modes(
    roles: Collection[str], recipe: Recipe, speculation: Speculation, lengths: Sequence[int]
) -> list[Mode]:
    """Base alone where there is a base, plain emulation, and speculation of chosen and given
    lengths; the rule and the source of drafts are those of `speculation`."""
    alone = [Mode(BASE, Recipe.single("base"), endless=True)] if "base" in roles else []
    drafts = [Mode(AUTO, recipe, replace(speculation, length=None))]
    drafts += [
        Mode(f"speculative, {k}", recipe, replace(speculation, length=k))
        for k in dict.fromkeys(lengths)
    ]
    return [*alone, Mode(PLAIN, recipe), *drafts]


def llama_cpp_drafts() -> str:
    """What to say of llama.cpp's own speculation with a draft model.

    The installed package offers it if it has a concrete LlamaDraftModel that takes a model:
    version 0.3.36 has prompt lookup only, and its library has no function for more (llama.cpp
    keeps speculation in its `common` folder, which the package does not build).
    """
    base = llama_speculative.LlamaDraftModel
    offered = [
        name
        for name, kind in vars(llama_speculative).items()
        if inspect.isclass(kind)
        and issubclass(kind, base)
        and not inspect.isabstract(kind)
        and "model" in " ".join(inspect.signature(kind).parameters)
    ]
    return f"offered as {offered[0]}, not measured yet" if offered else NOT_OFFERED
