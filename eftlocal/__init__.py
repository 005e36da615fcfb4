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

    from eftlocal.answer import Answer, AnswerStream, Timing
    from eftlocal.decoding.score import TextLogprobs
    from eftlocal.defaults import Defaults
    from eftlocal.emulator import Emulator
    from eftlocal.errors import EftlocalError
    from eftlocal.generation import Step
    from eftlocal.logits.recipe import Recipe
    from eftlocal.logits.sampling import Sampling
    from eftlocal.prompt.messages import Message
    from eftlocal.sources import load
    from eftlocal.speculation.settings import Speculation

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
__all__ = [
    "Answer",
    "AnswerStream",
    "Defaults",
    "EftlocalError",
    "Emulator",
    "Message",
    "Recipe",
    "Sampling",
    "Speculation",
    "Step",
    "TextLogprobs",
    "Timing",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'eftlocal' has no attribute {name!r}")
    return getattr(import_module(f"eftlocal.{_HOME[name]}"), name)
