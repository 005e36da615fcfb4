"""What a run is: rows go into one file when the manifests of their runs are equal.

In a manifest is what rows depend on; what changes only the speed (threads, GPU layers) is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import eftlocal
from eftlocal.disk import beside, hash_rest, open_regular, replacing
from eftlocal.errors import ModelFileError, UsageError
from eftlocal.json_text import parse_json
from eftlocal.loading.roles import RoleSource
from eftlocal.terminal_text import one_line

Manifest = dict[str, str]

_TOLD = 6  # differences named in one line


def of_versions() -> Manifest:
    return {
        "eftlocal": eftlocal.__version__,
        "llama-cpp-python": version("llama-cpp-python"),
    }


def of_roles(roles: Mapping[str, RoleSource]) -> Manifest:
    """Each role's files by their SHA-256, its prompt and its cache.

    Raises:
        ModelFileError: a file cannot be read.
    """
    found: Manifest = {}
    for role, source in roles.items():
        found |= {f"{name} of {role}": value for name, value in _model(source).items()}
    return found


def differences(
    then: Mapping[str, object], now: Manifest, told: str = "{key} was {then} and is {now}"
) -> list[str]:
    """What differs, in words; checksums are told by their first digits."""
    return [
        _CHECKSUM.sub(r"\1", told.format(key=one_line(key), then=_of(then, key), now=_of(now, key)))
        for key in dict.fromkeys([*now, *then])
        if then.get(key) != now.get(key)
    ]


def in_one_line(faults: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    faults = list(faults)
    more = [f"and {len(faults) - _TOLD} more"] if len(faults) > _TOLD else []
    return "; ".join(faults[:_TOLD] + more)


def brief(text: str) -> str:
    """A setting's text, or what identifies it where it is long."""
    if len(text) <= 120:
        return text
    return f"{text[:40]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()})"


def manifest_path(rows: Path) -> Path:
    """Where the manifest of a file of rows is."""
    return beside(rows, ".manifest.json")


def read_manifest(rows: Path) -> dict[str, object] | None:
    """The manifest beside a file of rows; None where there is none.

    Raises:
        UsageError: it is no manifest, or cannot be read.
    """
    path = manifest_path(rows)
    try:
        with open_regular(path, follow=True) as file:
            found = parse_json(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            f"{path} is no manifest of a run; put back the one that was there, or give another "
            "output file"
        )
    return found


def write_manifest(rows: Path, manifest: Manifest) -> None:
    """Raises OSError; what was there before is then kept."""
    with replacing(manifest_path(rows)) as file:
        file.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())


_CHECKSUM = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def _of(manifest: Mapping[str, object], key: str) -> str:
    return one_line(str(manifest.get(key, "not there")), 400)


def _model(source: RoleSource) -> Manifest:
    prompt = source.prompt
    if "{" in prompt:
        prompt = f"template {hashlib.sha256(prompt.encode()).hexdigest()[:12]}"
    if source.chat_template_kwargs:
        variables = json.dumps(source.chat_template_kwargs, sort_keys=True)
        prompt += f" with {brief(variables)}"
    prompt += " without system" if source.without_system else ""
    prompt += " system in user" if source.system_in_user else ""
    scale = "" if source.lora_scale == 1.0 else f" x {source.lora_scale:g}"
    return {
        "file": _file(source.path),
        "adapter": "none" if source.lora is None else _file(source.lora) + scale,
        "prompt": prompt,
        "n_ctx": "auto" if source.n_ctx is None else str(source.n_ctx),
        "cache": f"{source.cache_type_k} {source.cache_type_v}",
        "flash attention": source.flash_attention,
        **({"rope": json.dumps(source.rope)} if source.rope else {}),
        **({"reproducible": "true"} if source.reproducible else {}),
    }


def _file(path: Path) -> str:
    try:
        found = path.stat()
        digest = _sha256(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from None
    return f"{path.name} ({found.st_size} bytes, sha256 {digest})"


@lru_cache(maxsize=64)
def _sha256(path: os.PathLike[str], _size: int, _modified: int) -> str:
    """Of the whole file; roles may share one, so it is read once."""
    with Path(path).open("rb") as file:
        return hash_rest(file).hexdigest()
