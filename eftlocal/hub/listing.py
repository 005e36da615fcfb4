"""The names of a repository's files, as far as the hub lists them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin

from eftlocal.hub.http import Answer, ask_for, endpoint_or_default, may_pass, patience, phrase
from eftlocal.hub.retry import Broken, Hopeless
from eftlocal.json_text import TextError, parse_json
from eftlocal.presets.schema import FileRef, is_inside

MOST_PAGES, MOST_BYTES = 20, 8 << 20  # a page of the hub holds 1,000 files
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel\s*=\s*"?next\b', re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """Names of files in a repository; `whole` if there are no others."""

    names: frozenset[str]
    whole: bool


def files_of(ref: FileRef, endpoint: str | None, *, folder_only: bool = False) -> Listing | None:
    """The files of the repository, or of the folder that `ref` is in; None if it gives no list.

    Names that cannot be those of a file in the repository are left out.

    Raises:
        Broken, Hopeless: as `ask_for`; or what came is not a listing.
    """
    hub, revision = endpoint_or_default(endpoint), quote(ref.revision or "main", safe="")
    url = f"{hub}/api/models/{ref.repo}/tree/{revision}"
    folder = PurePosixPath(ref.file).parent
    if folder_only and folder.name:
        url += "/" + quote(str(folder), safe="")
    url += f"?recursive={'false' if folder_only else 'true'}"
    names: set[str] = set()
    until = time.monotonic() + patience()
    for _ in range(MOST_PAGES):
        with ask_for("GET", url, endpoint) as answer:
            if may_pass(answer.status):
                raise Broken(f"the list of files: the server answered {phrase(answer.status)}")
            if answer.status != 200:
                return None
            names.update(_names(_page(answer, until)))
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return Listing(frozenset(names), whole=True)
            try:
                url = urljoin(answer.url, following[1])
            except ValueError as error:
                raise Hopeless("the list of files goes on at an address that is none") from error
    return Listing(frozenset(names), whole=False)


def _page(answer: Answer, until: float) -> Any:
    text = bytearray()
    for chunk in answer.chunks:
        text += chunk
        if len(text) > MOST_BYTES:
            raise Hopeless("the list of files is longer than any that the hub sends")
        if time.monotonic() > until:
            raise Broken("the list of files came too slowly", in_vain=True)
    try:
        return parse_json(bytes(text))
    except TextError as error:
        raise Hopeless(f"the list of files: {error}") from error


def _names(page: Any) -> list[str]:
    if not isinstance(page, list) or not all(isinstance(entry, dict) for entry in page):
        raise Hopeless("the list of files is not a list of files")
    found = [entry.get("path") for entry in page if entry.get("type") == "file"]
    if not all(isinstance(name, str) for name in found):
        raise Hopeless("the list of files has an entry without a name")
    return [name for name in found if is_inside(name)]
