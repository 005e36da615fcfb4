"""What the hub says of a file and of a repository's files, and what its refusals mean."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Any, NoReturn
from urllib.parse import quote, urljoin

from eftlocal.errors import DownloadError
from eftlocal.hub.http import (
    Answer,
    Fatal,
    Retryable,
    ask_for,
    hub_address,
    may_pass,
    patience,
    phrase,
    public,
    quoted,
)
from eftlocal.json_text import TextError, parse_json
from eftlocal.presets.schema import FileRef, is_inside

_MOST_COMPARED = 2000  # names
MOST_PAGES, MOST_BYTES = 20, 8 << 20  # a page of the hub holds 1,000 files
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,<]*\brel\s*=\s*"?next\b', re.IGNORECASE)


@dataclass(frozen=True)
class RemoteFile:
    """What the hub promises of a file. sha256 is None for a file that Git LFS does not keep."""

    size: int
    sha256: str | None
    etag: str | None
    commit: str | None
    location: str


def ask(ref: FileRef) -> RemoteFile:
    """One question for what the hub knows of a file; a contradiction to its pins is an error."""
    assert ref.repo is not None
    revision = quote(ref.revision or "main", safe="")
    url = f"{hub_address()}/{ref.repo}/resolve/{revision}/{quote(ref.file)}"
    with ask_for("HEAD", url, stop=_knows_the_file) as answer:
        if answer.status != 200 and answer.target is None:
            refuse(answer.status, answer.headers, ref)
        return _promised(answer, ref)


def _knows_the_file(answer: Answer) -> bool:
    """A redirect to the storage tells of the file itself; one to its new name does not."""
    return "X-Linked-Etag" in answer.headers or "X-Linked-Size" in answer.headers


def _promised(answer: Answer, ref: FileRef) -> RemoteFile:
    etag = entity_tag(answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag"))
    etag = etag and etag.removeprefix("W/").strip('"')
    sha256 = etag if etag and re.fullmatch(r"[0-9a-f]{64}", etag) else None  # Git LFS
    said = answer.headers.get("X-Linked-Size")
    if said is None and answer.target is None:  # not the length of a redirect's own body
        said = answer.headers.get("Content-Length")
    size = None if said is None else whole_number(said)
    if said is not None and not size:
        raise Fatal(f"the hub says that the file has a size of {quoted(said)} bytes")
    for what, pinned, found in (("size", ref.size, size), ("SHA-256", ref.sha256, sha256)):
        if None not in (pinned, found) and pinned != found:
            raise DownloadError(
                f"{ref}: the hub has a file of {what} {found}, the preset pins {pinned}; "
                "correct the pin, or pin the revision that it belongs to"
            )
    size = size or ref.size
    if size is None:
        raise Fatal("the hub does not say how long the file is; pin its size")
    commit = answer.headers.get("X-Repo-Commit", "")
    known_commit = commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None
    return RemoteFile(size, sha256, etag, known_commit, answer.target or answer.url)


def whole_number(text: str) -> int | None:
    """A number of bytes as HTTP writes it; None if it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


def entity_tag(text: str | None) -> str | None:
    """An ETag header that is short enough to be one."""
    return text if text and len(text) <= 200 and text.isascii() and text.isprintable() else None


def refuse(status: int, headers: Mapping[str, str], ref: FileRef) -> NoReturn:
    """Raise what an error status means: Retryable if it may pass, else a Fatal or DownloadError."""
    code = headers.get("X-Error-Code", "")
    page, revision = f"{public(hub_address())}/{ref.repo}", ref.revision or "main"
    if may_pass(status):
        raise failed(status, headers)
    if status in (401, 403):
        raise Fatal(
            f"the hub refuses access ({status}): gated, private, or not there; "
            f"accept the licence on {page}, then run `hf auth login`"
        )
    if code == "RepoNotFound":
        raise Fatal(f"there is no repository {page}, or it is private")
    if code == "RevisionNotFound":
        raise Fatal(f'{page} has no revision "{revision}"')
    if status == 404:
        raise Fatal(f"no such file; {_nearest_files(ref)}")
    raise failed(status, headers)


def failed(status: int, headers: Mapping[str, str]) -> Retryable | Fatal:
    """What an error status is, where nothing more is known of it."""
    told = f"the server answered {phrase(status)}"
    if not may_pass(status):
        return Fatal(told)
    return Retryable(told, _wait(headers.get("Retry-After", "")))


def _wait(asked: str) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date."""
    seconds = whole_number(asked)
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def check_parts(parts: Sequence[FileRef]) -> None:
    """Refuse a split model of which the hub's list of files lacks a part, before each is asked for.

    A hub that gives no list, or not all of one, is asked part by part.
    """
    listing = files_of(parts[0], folder_only=True)
    absent = [part for part in parts if listing and part.file not in listing.names]
    if listing is not None and listing.whole and absent:
        names = _nearest(listing, absent[0])
        raise DownloadError(
            f"{absent[0]}: no such file; {len(absent)} of {len(parts)} parts are not there; {names}"
        )


def _nearest_files(ref: FileRef) -> str:
    """The repository's .gguf files most like the one asked for, as a piece of a message."""
    try:
        listing = files_of(ref)
    except (Retryable, Fatal):
        listing = None
    if listing is None:
        return f"see {public(hub_address())}/{ref.repo}/tree/{ref.revision or 'main'}"
    return _nearest(listing, ref)


def _nearest(listing: Listing, ref: FileRef) -> str:
    models = sorted(name for name in listing.names if name.endswith(".gguf"))[:_MOST_COMPARED]
    if not models:
        return "the repository holds no .gguf file at all"
    wanted = ref.file.lower()
    models.sort(key=lambda name: -SequenceMatcher(None, wanted, name.lower()).ratio())
    return f"nearest of the {len(models)} .gguf files there: {', '.join(models[:3])}"


@dataclass(frozen=True)
class Listing:
    """Names of files in a repository and their bytes; `whole` if there are no others."""

    names: Mapping[str, int]
    whole: bool


def files_of(ref: FileRef, *, folder_only: bool = False) -> Listing | None:
    """The files of the repository, or of the folder that `ref` is in; None if it gives no list.

    Names that cannot be those of a file in the repository are left out.

    Raises:
        Retryable, Fatal: as `ask_for`; or what came is not a listing.
    """
    hub, revision = hub_address(), quote(ref.revision or "main", safe="")
    url = f"{hub}/api/models/{ref.repo}/tree/{revision}"
    folder = PurePosixPath(ref.file).parent
    if folder_only and folder.name:
        url += "/" + quote(str(folder), safe="")
    url += f"?recursive={'false' if folder_only else 'true'}"
    names: dict[str, int] = {}
    until = time.monotonic() + patience()
    for _ in range(MOST_PAGES):
        with ask_for("GET", url) as answer:
            if may_pass(answer.status):
                raise Retryable(f"the list of files: the server answered {phrase(answer.status)}")
            if answer.status != 200:
                return None
            names.update(_names(page_of(answer, until)))
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return Listing(names, whole=True)
            try:
                url = urljoin(answer.url, following[1])
            except ValueError as error:
                raise Fatal("the list of files continues at an invalid address") from error
    return Listing(names, whole=False)


def page_of(answer: Answer, until: float) -> Any:
    """JSON that the hub answered, of bounded length.

    Args:
        until: by time.monotonic.
    """
    text = bytearray()
    for chunk in answer.chunks:
        text += chunk
        if len(text) > MOST_BYTES:
            raise Fatal("the list of files is longer than any that the hub sends")
        if time.monotonic() > until:
            raise Retryable("the list of files came too slowly", in_vain=True)
    try:
        return parse_json(bytes(text))
    except TextError as error:
        raise Fatal(f"the list of files: {error}") from error


def _names(page: Any) -> dict[str, int]:
    if not isinstance(page, list) or not all(isinstance(entry, dict) for entry in page):
        raise Fatal("the list of files is not a list of files")
    found = [entry for entry in page if entry.get("type") == "file"]
    if not all(isinstance(entry.get("path"), str) for entry in found):
        raise Fatal("the list of files has an entry without a name")
    sizes = {entry["path"]: entry.get("size") for entry in found if is_inside(entry["path"])}
    return {name: size if isinstance(size, int) else 0 for name, size in sizes.items()}
