"""What the tests of downloads share: one small file, or a preset, and a user who fetches it."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hub_server import HubServer, isolate
from huggingface_hub import constants

from eftlocal import hub
from eftlocal.errors import DownloadError
from eftlocal.presets.reading import user_path
from eftlocal.presets.schema import FileRef

CONTENT = bytes(range(256)) * 1024  # 256 KiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REF = FileRef(repo="owner/models", file="base.gguf")


@contextmanager
def small_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[HubServer]:
    """A hub with that one file, and nothing else in reach."""
    isolate(monkeypatch, folder)
    with HubServer({"owner/models/base.gguf": CONTENT}) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address())
        yield running


PRESET = """
[[preset]]
name = "mine"
[preset.roles.base]
repo = "owner/models"
file = "base.gguf"
approx_size = 5_000_000
[preset.roles.tuned]
repo = "owner/models"
file = "tuned.gguf"
approx_size = 500_000
[preset.roles.reference]
repo = "owner/models"
file = "reference.gguf"
approx_size = 500_000
"""


@contextmanager
def preset_hub(
    monkeypatch: pytest.MonkeyPatch, folder: Path, models: Mapping[str, Path], presets: str = PRESET
) -> Iterator[HubServer]:
    """A hub with these models as files of owner/models, and a person with these presets."""
    isolate(monkeypatch, folder)
    user_path().parent.mkdir(parents=True)
    user_path().write_text(presets, encoding="utf-8")
    files = {f"owner/models/{role}.gguf": file.read_bytes() for role, file in models.items()}
    with HubServer(files) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address())
        yield running


class Fetch:
    """`hub.resolve` against the test's hub; keeps the waits and the progress."""

    def __init__(self, server: HubServer) -> None:
        self.server = server
        self.waits: list[float] = []
        self.progress: list[tuple[str, int, int]] = []

    def __call__(self, ref: FileRef = REF, **options: Any) -> Path:
        with patch("eftlocal.hub.http.sleep", self.waits.append):
            return hub.resolve(ref, progress=lambda *seen: self.progress.append(seen), **options)

    def fails(self, ref: FileRef = REF, **options: Any) -> str:
        with pytest.raises(DownloadError) as refused:
            self(ref, **options)
        message = str(refused.value)
        assert "\n" not in message
        return message


def part() -> Path:
    path = hub.stored_path(REF)
    return path.with_name(path.name + ".part")


def pin(**pins: Any) -> FileRef:
    return FileRef(repo="owner/models", file="base.gguf", **pins)


def child_environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_ENDPOINT": str(constants.ENDPOINT),
    }
