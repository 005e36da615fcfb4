"""Emulated fine-tuning on your own machine, over llama.cpp.

import eftlocal

with eftlocal.load("demo") as em:
    for step in em.stream("In which country is Toulouse?"):
        print(step.text, end="", flush=True)
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing's own takes milliseconds, in which a Ctrl-C would be a traceback
if TYPE_CHECKING:
    from typing import Any

    from eftlocal.answer import Answer as Answer
    from eftlocal.answer import AnswerStream as AnswerStream
    from eftlocal.answer import Timing as Timing
    from eftlocal.decoding.score import TextLogprobs as TextLogprobs
    from eftlocal.defaults import Defaults as Defaults
    from eftlocal.emulator import Emulator as Emulator
    from eftlocal.errors import EftlocalError as EftlocalError
    from eftlocal.generation import Step as Step
    from eftlocal.logits.recipe import Recipe as Recipe
    from eftlocal.logits.sampling import Sampling as Sampling
    from eftlocal.prompt.messages import Message as Message
    from eftlocal.sources import load as load
    from eftlocal.speculation.settings import Speculation as Speculation

__version__ = "0.1.0"

# Loaded on first use: `eftlocal --help` must not wait for llama.cpp.
_HOME = {
    "Answer": "answer",
    "AnswerStream": "answer",
    "Defaults": "defaults",
    "EftlocalError": "errors",
    "Emulator": "emulator",
    "Message": "prompt.messages",
    "Recipe": "logits.recipe",
    "Sampling": "logits.sampling",
    "Speculation": "speculation.settings",
    "Step": "generation",
    "TextLogprobs": "decoding.score",
    "Timing": "answer",
    "load": "sources",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'eftlocal' has no attribute {name!r}")
    return getattr(import_module(f"eftlocal.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """The public names, for a Python prompt that completes them."""
    return [*__all__, "__version__"]
