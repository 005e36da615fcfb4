"""What a saved cache is bound to: the files, the build of llama.cpp, how the contexts are made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from eftlocal import llama
from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import Header
from eftlocal.loading.roles import RoleSource
from eftlocal.settings import CONTEXT
from eftlocal.state_file import Bound

Identity = Callable[[], Mapping[str, Bound]]
"""By role; made when it is first asked for, because that reads the files' headers.

Raises UsageError where a file was changed after it was loaded.
"""

_NOT_BOUND = ("n_batch", "translation")  # nothing that a cache holds depends on these


def identity(
    sources: Mapping[str, RoleSource],
    headers: Mapping[str, Header],
    adapters: Mapping[str, Header],
    n_seq_max: int,
    fingerprint: str,
) -> Identity:
    """What the caches of these roles are bound to; to be called when they are loaded.

    Args:
        n_seq_max: with other sequences beside it, llama.cpp writes a sequence differently.
        fingerprint: of the machine, and of what decides the bits of a row.
    """
    stamps = {
        path: _stamp(path) for h in (*headers.values(), *adapters.values()) for path in h.files
    }

    def of_file(header: Header | None) -> str | None:
        if header is None:
            return None
        told = hashlib.sha256()
        for path, length in zip(header.files, header.header_bytes, strict=True):
            told.update(f"\n{path.name} {stamps[path]}\n".encode())
            with suppress(OSError), path.open("rb") as file:
                told.update(file.read(length))
            if _stamp(path) != stamps[path]:
                raise UsageError(f"{path}: was changed after it was loaded; load it again")
        return told.hexdigest()

    def of_role(role: str) -> Bound:
        source, adapter = sources[role], of_file(adapters.get(role))
        bound = {
            "model file:": of_file(headers[role]),
            "LoRA adapter:": adapter and f"{adapter} x {source.lora_scale:g}",
            "build of llama.cpp:": llama.build(),
            "n_seq_max": n_seq_max,
            **{name: getattr(source, name) for name in CONTEXT if name not in _NOT_BOUND},
            "reproducible": source.reproducible,
        }
        if source.reproducible:  # then a row has the bits that it had when it was first computed
            bound["machine, or way of decoding:"] = fingerprint
        return bound

    return cache(lambda: {role: of_role(role) for role in sources})


def _stamp(path: Path) -> str:
    """Size and time of a file. Not its inode and device, which another start may number anew."""
    try:
        found = path.stat()
    except OSError:
        return "gone"
    return f"{found.st_size} {found.st_mtime_ns}"
