"""The one folder that calls llama_cpp: models, contexts, logits rows, rewinding, devices.

Token ids in, rows of logits out: nothing here knows roles, recipes or text beyond tokenizing.
The low-level functions are used, never the `Llama` class: they give a zero-copy view of just
the rows asked for.
"""

from eftlocal.llama.context import Check, Context, Span
from eftlocal.llama.engine import (
    Device,
    backends,
    blocked_types,
    build,
    chat_formats,
    default_threads,
    devices,
    facts,
    format_chat,
    repacked_types,
    system_info,
)
from eftlocal.llama.model import Model
from eftlocal.llama.rpc import Worker, connect, has_rpc, serve

__all__ = [
    "Check",
    "Context",
    "Device",
    "Model",
    "Span",
    "Worker",
    "backends",
    "blocked_types",
    "build",
    "chat_formats",
    "connect",
    "default_threads",
    "devices",
    "facts",
    "format_chat",
    "has_rpc",
    "repacked_types",
    "serve",
    "system_info",
]
