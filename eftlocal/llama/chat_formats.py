"""The chat formats that llama.cpp knows by name, for files that carry no template."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache

import llama_cpp

from eftlocal.errors import EngineError, PromptError


@cache
def chat_formats() -> tuple[str, ...]:
    """Their names: chatml, gemma, llama2, llama3 and others."""
    count = llama_cpp.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    pointer = ctypes.cast(names, ctypes.POINTER(ctypes.c_char_p))
    llama_cpp.llama_chat_builtin_templates(pointer, count)
    return tuple(sorted(name.decode() for name in names if name))


def format_chat(
    name: str, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
) -> str:
    """A conversation in one of these formats, BOS left out.

    Raises:
        PromptError: a message holds a NUL character, where C ends a text.
        EngineError: llama.cpp does not know the name.
    """
    for i, message in enumerate(messages):
        if "\0" in message["content"]:
            raise PromptError(
                f"message {i}: its text holds a NUL character, which the chat format {name} "
                "cannot carry; remove it"
            )
    told = (llama_cpp.llama_chat_message * len(messages))()
    for place, message in zip(told, messages, strict=True):
        place.role, place.content = message["role"].encode(), message["content"].encode()
    size = 0
    while True:
        buffer = ctypes.create_string_buffer(size + 1)
        needed = llama_cpp.llama_chat_apply_template(
            name.encode(), told, len(messages), add_generation_prompt, buffer, size
        )
        if needed < 0:
            raise EngineError(f"llama.cpp cannot make the chat format {name}")
        if needed <= size:
            return buffer.raw[:needed].decode("utf-8")
        size = needed
