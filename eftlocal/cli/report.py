"""What `eftlocal doctor --report` writes: a file to attach to a bug report, nothing private in it.

No prompt, no answer, no token or key; the home folder is ~. Whoever attaches it can read it first.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from eftlocal.cli.last_error import last_error
from eftlocal.errors import EftlocalError
from eftlocal.loading.machine import usable_cpus
from eftlocal.presets.reading import load_presets, user_path

# Their values tell something and hold no secret; of the others of these families the name is told.
_SHOWN = re.compile(
    r"EFTLOCAL_\w+|GGML_\w+|LLAMA_\w+|CUDA_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES|OMP_NUM_THREADS"
    r"|HF_HOME|HF_HUB_(?:CACHE|OFFLINE)|LANG|LC_ALL|TERM|COLORTERM|NO_COLOR|PYTHONUTF8"
)
_NAMED = re.compile(r"HF_\w+|HUGGING\w+|https?_proxy|no_proxy|PYTHON\w+", re.IGNORECASE)
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_SECRET = re.compile(r"\bhf_\w{4,}|(?<=://)[^/\s@]+@|\b(?:Bearer|Basic) +\S+")
_LEAST = 6  # characters of a value that is looked for elsewhere: shorter ones are words


def report(found: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report as plain data.

    Args:
        found: what `doctor.collect` gives.
    """
    memory = psutil.virtual_memory()
    private = _Private()
    cleaned: dict[str, Any] = private.without(
        {
            "report": "eftlocal doctor --report",
            "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            **found,
            "machine": {
                "cpus": usable_cpus(),
                "memory": memory.total,
                "memory_available": memory.available,
            },
            "settings": _environment(),
            "chat_settings": _chat_settings(),
            "presets": _presets(),
            "last_error": last_error(),
        }
    )
    return cleaned


def _environment() -> dict[str, str]:
    told = {}
    for name, value in sorted(os.environ.items()):
        if _SHOWN.fullmatch(name) and not _SECRET_NAME.search(name):
            told[name] = value
        elif _NAMED.fullmatch(name):
            told[name] = "(set)"
    return told


def _chat_settings() -> list[str] | str | None:
    """Names of what is set, not the values: a system prompt may be among them."""
    if find_spec("eftlocal_tui") is None:
        return None
    from eftlocal_tui.settings import read_settings

    try:
        return sorted(read_settings().model_fields_set)
    except EftlocalError as error:
        return type(error).__name__


def _presets() -> dict[str, Any]:
    try:
        names = list(load_presets())
        own = list(load_presets(user_path())) if user_path().is_file() else []
    except EftlocalError as error:
        return {"fault": type(error).__name__}
    return {"names": names, "own": own}


class _Private:
    """What is taken out of every text: the home folder, the account's name, tokens and keys."""

    def __init__(self) -> None:
        home = Path.home()
        self._homes = {str(home), str(home.resolve())} - {str(Path(home.anchor))}
        self._secrets = {
            value
            for name, value in os.environ.items()
            if _SECRET_NAME.search(name) and len(value) >= _LEAST
        }

    def without(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self._text(str(key)): self.without(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.without(inner) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "(secret)")
        for home in sorted(self._homes, key=len, reverse=True):
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
        text = re.sub(r"(?<=[/\\])(home|Users)([/\\])[^/\\\s:]+", r"\1\2(user)", text)
        return _SECRET.sub("(secret)", text)
