"""A program for mypy, with calls that must pass and, where it is told so, calls that must not."""

from __future__ import annotations

import eftlocal
from eftlocal import Answer, Emulator, Message, Recipe, Sampling


def use(other: Emulator) -> None:
    with eftlocal.load("demo", recipe=Recipe.upscale(0.5), n_seq_max=2) as em:
        messages: list[Message] = [{"role": "user", "content": "Hello"}]
        answer: Answer = em.chat(messages, sampling=Sampling(temperature=0.0), loop_guard="off")
        texts: list[str] = [step.text for step in em.stream("x", stop=["a"])]
        reason: str | None = answer.finish_reason
    other = Emulator.from_files(base="a.gguf", tuned="b.gguf", reference="c.gguf")
    other.generate("x", temprature=1)  # type: ignore[call-arg]
    other.stream("x", max_tokens="3")  # type: ignore[arg-type]
    other.chat("x")  # type: ignore[arg-type]
    del texts, reason
