"""Room on the stack for native code that recurses once for each character.

llama.cpp splits a text by std::regex where it has no splitter of its own for a tokenizer (tekken,
bailingmoe, viking and others), and libstdc++'s takes a stack frame for every character of a match:
some 20,000 letters without a break end the process, 1,400 of them in a thread of macOS.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from eftlocal.errors import PromptError
from eftlocal.llama.signals import SignalsLater

_T = TypeVar("_T")

_PIECE = re.compile(rb"\s+|\S+")  # no pre-tokenizer's match is longer than two of these
_SHORT = 256  # bytes of such a piece that any stack has room for
_FRAME = 1 << 10  # bytes of stack for a byte of text; 360 were measured (GCC 12, x86-64)
_UNIT, _MOST = 1 << 20, 16 << 30  # bytes; macOS takes whole pages only, of 16 KiB

_TOO_LONG = "a word, or white space, of the text is too long to be tokenized: break it up"
_size = threading.Lock()  # the size of a new thread's stack is the whole process's


def stack_for(text: bytes) -> int:
    """Bytes of stack that it takes to tokenize a text; 0 where the caller's own will do."""
    if len(text) <= _SHORT:
        return 0
    longest = max(map(len, _PIECE.findall(text)))
    return 0 if longest <= _SHORT else (1 + -(-2 * longest * _FRAME // _UNIT)) * _UNIT


def on_deep_stack(size: int, call: Callable[[], _T]) -> _T:
    """What `call` gives, run in a thread with so many bytes of stack; 0 runs it in this one.

    Memory is taken for what is used of them only. An interrupt waits for the end of the call.

    Raises:
        PromptError: there is no room for such a stack.
    """
    if not size:
        return call()
    if size > _MOST:
        raise PromptError(_TOO_LONG)
    # An interrupt that ended the waiting would leave the thread in native code.
    with SignalsLater(), ThreadPoolExecutor(1, "eftlocal-tokenize") as pool:
        with _size:
            before = threading.stack_size(size)
            try:
                waiting = pool.submit(call)
            except (RuntimeError, MemoryError):
                raise PromptError(_TOO_LONG) from None
            finally:
                threading.stack_size(before)
        return waiting.result()
