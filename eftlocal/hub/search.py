"""What the hub has for some words: repositories with GGUF files, and the sizes of these."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError

from eftlocal.hub.http import (
    Fatal,
    ask_for,
    hub_address,
    patience,
    patiently,
)
from eftlocal.hub.remote import failed, files_of, page_of
from eftlocal.presets.schema import FileRef, first_part


@dataclass(frozen=True)
class Repository:
    """A repository, and the bytes of its GGUF models: of all parts, where one is split.

    Attributes:
        gated: its licence has to be accepted first.
    """

    name: str
    gated: bool
    files: Mapping[str, int]


def search(words: str, most: int) -> list[Repository]:
    """The repositories that the hub finds, those that are downloaded most first.

    Raises:
        DownloadError: the hub cannot be asked.
    """
    found = patiently(partial(_found, words, most), f'searching the hub for "{words}"', tries=3)
    repositories = []
    for name, gated in found[:most]:
        ref = FileRef(repo=name, file="model.gguf")
        listing = patiently(partial(files_of, ref), name, tries=3)
        repositories.append(Repository(name, gated, _models(listing.names if listing else {})))
    return repositories


def _found(words: str, most: int) -> list[tuple[str, bool]]:
    query = {"search": words, "filter": "gguf", "sort": "downloads", "limit": most}
    until = time.monotonic() + patience()
    with ask_for("GET", f"{hub_address()}/api/models?{urlencode(query)}") as answer:
        if answer.status != 200:
            raise failed(answer.status, answer.headers)
        page = page_of(answer, until)
    if not isinstance(page, list):
        raise Fatal("what came is no list of repositories")
    return [
        (entry["id"], bool(entry.get("gated")))
        for entry in page
        if isinstance(entry, dict) and _is_repository(entry.get("id"))
    ]


def _is_repository(name: Any) -> bool:
    try:
        FileRef(repo=name, file="model.gguf")
    except ValidationError:
        return False
    return isinstance(name, str)


def _models(files: Mapping[str, int]) -> dict[str, int]:
    """The language models among them, each by its first part."""
    found: dict[str, int] = {}
    for name, size in sorted(files.items()):
        if not name.endswith(".gguf") or "mmproj" in name.lower():
            continue
        first = first_part(name)
        found[first] = found.get(first, 0) + size
    return found
