"""What a sweep is: two files of results go together when their manifests are equal.

The grid is no part of it: points may be added to a sweep, or left out. Nor are threads and GPU
layers, which change the speed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import eftlocal
from eftlocal.errors import ModelFileError
from eftlocal.roles import RoleSource
from eftlocal.speculation.settings import Speculation
from eftlocal.sweep.prompts import Item, digest

Manifest = dict[str, str]

_END = 1 << 20  # bytes of either end of a model file that are hashed: all of it would take minutes
_FORMATS = ("chat", "same", "plain")


def manifest(
    *,
    preset: str,
    roles: Mapping[str, RoleSource],
    items: Sequence[Item],
    seed: int,
    max_tokens: int | None,
    stop: Sequence[str],
    speculation: Speculation,
) -> Manifest:
    """Everything that the answers depend on beside the points.

    Raises:
        ModelFileError: a model file cannot be read.
    """
    drafts = "off" if speculation.off else str(speculation)
    sweep = {
        "eftlocal": eftlocal.__version__,
        "llama-cpp-python": version("llama-cpp-python"),
        "preset": preset or "none",
        "prompts": f"{len(items)}, sha256 {digest(items)}",
        "seed": str(seed),
        "max-tokens": "none" if max_tokens is None else str(max_tokens),
        "stop": repr(list(stop)),
        "speculative": drafts,
    }
    for role, source in roles.items():
        sweep |= {f"{name} of {role}": value for name, value in _model(source).items()}
    return sweep


def differences(then: Mapping[str, object], now: Manifest) -> list[str]:
    """What differs, in words."""
    keys = dict.fromkeys([*now, *then])
    return [
        f"{key} was {then.get(key, 'not there')} and is {now.get(key, 'not there')}"
        for key in keys
        if then.get(key) != now.get(key)
    ]


def _model(source: RoleSource) -> Manifest:
    prompt = source.prompt
    if prompt not in _FORMATS:
        prompt = f"template {hashlib.sha256(prompt.encode()).hexdigest()[:12]}"
    return {
        "file": _file(source.path),
        "adapter": "none" if source.lora is None else _file(source.lora),
        "prompt": prompt + (" without system" if source.without_system else ""),
        "n_ctx": "auto" if source.n_ctx is None else str(source.n_ctx),
        "cache": f"{source.cache_type_k} {source.cache_type_v}",
        "flash attention": source.flash_attention,
    }


def _file(path: Path) -> str:
    try:
        size = path.stat().st_size
        digest = hashlib.sha256()
        with path.open("rb") as file:
            digest.update(file.read(_END))
            file.seek(max(0, size - _END))
            digest.update(file.read(_END))
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from None
    return f"{path.name} ({size} bytes, {digest.hexdigest()[:12]})"
