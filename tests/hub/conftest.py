"""A hub on localhost that breaks in every way the real one does, and nothing else in reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import CONTENT, Fetch
from hub_server import HubServer, isolate


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer({"owner/models/base.gguf": CONTENT}) as running:
        yield running


@pytest.fixture
def fetch(server: HubServer) -> Fetch:
    return Fetch(server)
