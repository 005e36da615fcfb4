"""What the hub says of a file, and the bytes it sends. huggingface_hub knows its addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NoReturn
from urllib.parse import urlsplit

from eftlocal.errors import DownloadError
from eftlocal.hub.retry import Broken
from eftlocal.presets.file_ref import FileRef

_RETRY = frozenset((408, 429, 500, 502, 503, 504))


@dataclass(frozen=True)
class RemoteFile:
    """What the hub promises of a file. sha256 is None for a file that Git LFS does not keep."""

    size: int
    sha256: str | None
    etag: str | None
    commit: str | None
    location: str


def ask(ref: FileRef, endpoint: str | None) -> RemoteFile:
    """One request for what the hub knows of a file; a contradiction to its pins is an error."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    assert ref.repo is not None
    url = hf_hub_url(ref.repo, ref.file, revision=ref.revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, token=_token() or False, endpoint=endpoint)
    except OfflineModeIsEnabled as error:
        raise DownloadError(f"{ref}: HF_HUB_OFFLINE is set; unset it to download") from error
    except HfHubHTTPError as error:
        refuse(error.response.status_code, error.response.headers, ref, endpoint)
    except _http_error() as error:
        raise Broken(_first_line(error)) from error
    etag = found.etag
    sha256 = etag if etag and re.fullmatch(r"[0-9a-f]{64}", etag) else None  # Git LFS
    said_size = found.size or None  # older versions take a redirect's own length, 0
    for what, pinned, said in (("size", ref.size, said_size), ("SHA-256", ref.sha256, sha256)):
        if pinned is not None and said is not None and pinned != said:
            raise DownloadError(
                f"{ref}: the hub has a file of {what} {said}, the preset pins {pinned}; "
                "correct the pin, or pin the revision that it belongs to"
            )
    size = said_size or ref.size
    if size is None:
        raise DownloadError(f"{ref}: the hub does not say how long the file is; pin its size")
    return RemoteFile(size, sha256, etag, found.commit_hash, found.location)


def refuse(status: int, headers: Mapping[str, str], ref: FileRef, endpoint: str | None) -> NoReturn:
    """Raise what an error status means: Broken if it may pass, else a DownloadError."""
    code = headers.get("X-Error-Code", "")
    page = f"{_endpoint(endpoint)}/{ref.repo}"
    if status in _RETRY:
        wait = headers.get("Retry-After", "")
        raise Broken(f"the server answered {status}", float(wait) if wait.isdigit() else None)
    if status in (401, 403):
        raise DownloadError(
            f"{ref}: the hub refuses access ({status}): gated, private, or not there; "
            f"accept the licence on {page}, then run `hf auth login`"
        )
    if code == "RepoNotFound":
        raise DownloadError(f"{ref}: there is no repository {page}, or it is private")
    if code == "RevisionNotFound":
        raise DownloadError(f'{ref}: {page} has no revision "{ref.revision}"')
    if status == 404:
        raise DownloadError(f"{ref}: no such file; {_nearest_files(ref, endpoint)}")
    raise DownloadError(f"{ref}: the server answered {status}; try again later")


def _nearest_files(ref: FileRef, endpoint: str | None) -> str:
    """The repository's .gguf files most like the one asked for, as a piece of a message."""
    from huggingface_hub import HfApi

    assert ref.repo is not None
    try:
        names = HfApi(endpoint=endpoint).list_repo_files(ref.repo, revision=ref.revision)
    except (_http_error(), ValueError):
        return f"see {_endpoint(endpoint)}/{ref.repo}/tree/{ref.revision or 'main'}"
    models = [name for name in names if name.endswith(".gguf")]
    if not models:
        return "the repository holds no .gguf file at all"
    wanted = ref.file.lower()
    models.sort(key=lambda name: -SequenceMatcher(None, wanted, name.lower()).ratio())
    return f"nearest of the {len(models)} .gguf files there: {', '.join(models[:3])}"


@contextmanager
def open_from(url: str, start: int, endpoint: str | None) -> Iterator[Any]:
    """GET from byte `start` on; the response, its body unread. A broken connection is Broken."""
    from huggingface_hub import constants, get_session

    # Ranges count the bytes of the file itself, so no compression on the way.
    headers = {"Accept-Encoding": "identity", "User-Agent": "eftlocal"}
    if same_host(url, endpoint) and (token := _token()):
        # The token belongs to the hub, not to the storage it redirects to.
        headers["Authorization"] = f"Bearer {token}"
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with get_session().stream(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            yield response
    except _http_error() as error:
        raise Broken(_first_line(error)) from error


def _http_error() -> type[Exception]:
    """The root error of the HTTP client that this huggingface_hub brings (httpx, then httpx2)."""
    from huggingface_hub.errors import HfHubHTTPError

    root: type[Exception] = HfHubHTTPError.__bases__[0]
    return root


def _endpoint(endpoint: str | None) -> str:
    from huggingface_hub import constants

    return (endpoint or constants.ENDPOINT).rstrip("/")


def same_host(url: str, endpoint: str | None) -> bool:
    ours, theirs = urlsplit(_endpoint(endpoint)), urlsplit(url)
    return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


def _token() -> str | None:
    from huggingface_hub import constants, get_token

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


def offline_by_environment() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
