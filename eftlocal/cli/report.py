"""What `eftlocal doctor --report` writes, to be attached to a bug report, and the last error in it.

Nothing private: no prompt, no answer, no token or key; the home folder is ~. Of a refused option or
prompt only the kind is kept, and of a fault of the program only where it came up; other errors
speak of files, downloads, memory and llama.cpp. Whoever attaches the report can read it first.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eftlocal import __version__
from eftlocal.disk import cache_folder, read_json, replace_text
from eftlocal.errors import EftlocalError, PromptError, UsageError
from eftlocal.terminal_text import shown_json

# Their values tell something and hold no secret; of the others of these families the name is told.
_SHOWN = re.compile(
    r"EFTLOCAL_\w+|GGML_\w+|LLAMA_\w+|CUDA_VISIBLE_DEVICES|HIP_VISIBLE_DEVICES|OMP_NUM_THREADS"
    r"|HF_HOME|HF_HUB_(?:CACHE|OFFLINE)|LANG|LC_ALL|TERM|COLORTERM|NO_COLOR|PYTHONUTF8"
)
_NAMED = re.compile(r"HF_\w+|HUGGING\w+|https?_proxy|no_proxy|PYTHON\w+", re.IGNORECASE)
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_SECRET = re.compile(r"\bhf_\w{4,}|(?<=://)[^/\s@]+@|\b(?:Bearer|Basic) +\S+")
_FRAMES = 20  # of a fault, from the innermost
_LEAST = 6  # characters of a value that is looked for elsewhere: shorter ones are words


def remember(error: BaseException, code: int) -> None:
    """Keeps this error for the next report, in place of the one before; if it can."""
    told = isinstance(error, (EftlocalError, OSError))
    asked = isinstance(error, (UsageError, PromptError))
    record = {
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "eftlocal": __version__,
        "verb": next((word for word in sys.argv[1:2] if word.isalpha()), None),
        "exit_code": code,
        "kind": type(error).__name__,
        "message": str(error) if told and not asked else None,
        "where": [] if told else [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        ],
    }  # fmt: skip
    with suppress(OSError):
        replace_text(_place(), shown_json(record))


def last_error() -> dict[str, Any] | None:
    """What was kept; None where there is nothing, or something else."""
    return read_json(_place()) or None


def _place() -> Path:
    return cache_folder() / "last-error.json"


def report(found: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report as plain data.

    Args:
        found: what `doctor.collect` gives.
    """
    import psutil

    from eftlocal.loading.host import usable_cpus

    memory = psutil.virtual_memory()
    private = _Private()
    cleaned: dict[str, Any] = private.without(
        {
            "report": "eftlocal doctor --report",
            "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            **found,
            "user_settings": _without_texts(found["user_settings"]),
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


def _without_texts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The user's settings; of texts, which may be private, only that they are set."""
    texts = ("stop", "chat_template_kwargs", "persona")
    values = {
        name: {"source": one["source"]} if name.startswith(texts) else one
        for name, one in settings["values"].items()
    }
    return {**settings, "values": values}


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
    from eftlocal.presets.reading import load_presets, user_path

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
