"""Model files: found where they lie, else fetched from the hub, resumed, checked and kept.

A download grows in FILE.part beside its place; FILE.part.json says of which version it is a
prefix. Whatever ends the process, the next run goes on from there. FILE appears only whole: its
length and SHA-256 checked, flushed to the disk, then renamed. huggingface_hub finds the file's
address, size and checksum; the transfer is our own, because it starts again in every process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit

import platformdirs

from eftlocal.errors import DownloadError, ModelFileError, UsageError
from eftlocal.presets import SPLIT, FileRef

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

T = TypeVar("T")
Sleep = Callable[[float], object]
_log = logging.getLogger(__name__)

TRIES = 6  # in a row without one new byte on the disk
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
_BLOCK = 1 << 20
_RETRY = frozenset((408, 429, 500, 502, 503, 504))


class Progress(Protocol):
    """Called as bytes arrive: the file's name, bytes on the disk, bytes in all."""

    def __call__(self, file: str, done_bytes: int, total_bytes: int, /) -> None: ...


@dataclass(frozen=True)
class RemoteFile:
    """What the hub promises of a file. sha256 is None for a file that Git LFS does not keep."""

    size: int
    sha256: str | None
    etag: str | None
    commit: str | None
    location: str


class _Broken(Exception):  # noqa: N818 - an interruption to recover from, not an error
    """A try that may succeed when repeated, after `wait` seconds if the server named them."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


# Where files lie ------------------------------------------------------------------------------


def store() -> Path:
    """The folder of downloaded models. EFTLOCAL_MODELS overrides it."""
    folder = os.environ.get("EFTLOCAL_MODELS")
    return Path(folder) if folder else platformdirs.user_cache_path("eftlocal") / "models"


def stored_path(ref: FileRef) -> Path:
    """Where `ref`, a file of the hub, is or would be kept: <store>/<repo>/<revision>/<file>."""
    if ref.repo is None:
        raise UsageError(f"{ref.file} is a path, not a file of the hub")
    return store() / ref.repo / (ref.revision or "main") / ref.file


def shards(ref: FileRef) -> list[FileRef]:
    """The files that `ref` stands for: itself, or all shards of a split model, in order."""
    split = SPLIT.search(ref.file)
    if split is None:
        return [ref]
    stem, count = ref.file[: split.start()], int(split[2])
    return [
        FileRef(repo=ref.repo, revision=ref.revision, file=f"{stem}-{i:05}-of-{count:05}.gguf")
        for i in range(1, count + 1)
    ]


def locate(ref: FileRef) -> Path | None:
    """The file on this machine (the first shard of a split model), or None if it is not whole.

    Looks at the path, or in the store and then in huggingface_hub's own cache. A file that is
    not what a pin or its own record says counts as not there.
    """
    if ref.repo is None:
        return Path(ref.file) if Path(ref.file).is_file() else None
    for place in (_in_store, _in_hub_cache):  # llama.cpp looks for shards in one folder
        paths = [place(shard) for shard in shards(ref)]
        if None not in paths:
            return paths[0]
    return None


def stored_bytes(ref: FileRef) -> int:
    """Bytes that `ref` takes in the store, unfinished downloads included."""
    return sum(file.stat().st_size for shard in shards(ref) for file in _belongings(shard))


def remove(ref: FileRef) -> int:
    """Delete `ref` and what belongs to it from the store. Returns the bytes freed."""
    freed = 0
    for shard in shards(ref):
        path = stored_path(shard)
        if not path.parent.is_dir():
            continue
        with _lock(path, shard), _disk(path):
            for file in _belongings(shard):
                freed += file.stat().st_size
                file.unlink()
        with _disk(path):
            _beside(path, ".lock").unlink(missing_ok=True)
            for folder in path.parents:
                if folder == store() or any(folder.iterdir()):
                    break
                folder.rmdir()
    return freed


def resolve(
    ref: FileRef,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> Path:
    """The path of `ref` on this machine, downloading it if need be (all shards; the first's path).

    Raises:
        ModelFileError: a path with no file.
        DownloadError: not here and offline, or `download` failed.
    """
    if not ref.file:
        raise UsageError("this role has no file of its own; take Preset.weights(role)")
    found = locate(ref)
    if found is not None:
        return found
    if ref.repo is None:
        raise ModelFileError(f"{ref.file}: no such file; correct the path")
    if offline or _offline():
        raise DownloadError(
            f"{ref} is not on this machine and the program is offline: run "
            f"`eftlocal models pull` when online, or put the file at {stored_path(shards(ref)[0])}"
        )
    return download([ref], progress=progress, endpoint=endpoint, sleep=sleep)[0]


def download(
    refs: Sequence[FileRef],
    *,
    progress: Progress | None = None,
    endpoint: str | None = None,
    sleep: Sleep = time.sleep,
) -> list[Path]:
    """Fetch what the store lacks of `refs`; their paths (of a split model, its first shard's).

    Everything is looked up, and the free space checked for all of it, before the first byte.

    Args:
        refs: files of the hub.
        endpoint: the hub's address; None is HF_ENDPOINT or the public hub.
        sleep: called with the seconds to wait before a try is repeated.

    Raises:
        DownloadError: no such file, no access, no space, no network, not what was promised. What
            has arrived stays in the .part file, unless it was wrong.
    """
    missing = {
        stored_path(shard): shard
        for ref in refs
        for shard in shards(ref)
        if _in_store(shard) is None
    }
    jobs = [
        _Download(shard, look_up(shard, endpoint=endpoint, sleep=sleep), progress, endpoint, sleep)
        for shard in missing.values()
    ]
    _check_space(jobs)
    for job in jobs:
        job.run()
    return [stored_path(shards(ref)[0]) for ref in refs]


def look_up(ref: FileRef, *, endpoint: str | None = None, sleep: Sleep = time.sleep) -> RemoteFile:
    """What the hub says of one file, its pins compared.

    Raises:
        DownloadError: as for `download`; for a wrong name the line has the nearest right ones.
    """
    return _patiently(lambda: _look_up(ref, endpoint), ref, sleep, tries=3)


def readable(size: float) -> str:
    """Bytes as people read them: 1.32 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if size < 999.5 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


# One transfer ---------------------------------------------------------------------------------


@dataclass
class _Download:
    """One file on its way from the hub into the store."""

    ref: FileRef
    remote: RemoteFile
    progress: Progress | None
    endpoint: str | None
    sleep: Sleep

    def run(self) -> None:
        """Fetch the file, or the rest of it; check it; put it in its place."""
        path = stored_path(self.ref)
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path, self.ref):
            if _in_store(self.ref) is not None:
                return  # another process has finished it meanwhile
            with _Part(path) as part:
                resumed = self._fetch(part)
                if resumed and not self._is_right(part):
                    # What an earlier run left may have been torn by a power failure.
                    part.restart()
                    self._fetch(part)
                if not self._is_right(part):
                    part.discard()
                    raise DownloadError(
                        f"{self.ref}: what arrived has SHA-256 {part.sha256}, not the expected "
                        f"{self.ref.sha256 or self.remote.sha256}; it was not kept, try again"
                    )
                part.keep(self.remote)

    def _is_right(self, part: _Part) -> bool:
        expected = self.ref.sha256 or self.remote.sha256
        return expected is None or part.sha256 == expected

    def _fetch(self, part: _Part) -> int:
        """Make `part` the whole file, by its length. Returns the bytes it began with."""
        part.become(self.remote)
        began = part.size
        first = True

        def attempt() -> None:
            nonlocal first
            if not first:  # a signed address expires, and the file may have changed
                self.remote = _look_up(self.ref, self.endpoint)
                part.become(self.remote)
            first = False
            self._stream(part)

        _patiently(attempt, self.ref, self.sleep, tries=TRIES, gained=lambda: part.size)
        return began

    def _stream(self, part: _Part) -> None:
        """One request for what is missing of `part`, written as it comes."""
        self._report(part)
        if part.size == self.remote.size:
            return
        with _get(self.remote.location, part.size, self.endpoint) as response:
            self._check_answer(response, part)
            for chunk in response.iter_bytes():
                if part.size + len(chunk) > self.remote.size:
                    part.discard()
                    raise DownloadError(
                        f"{self.ref}: the server sent more than the {self.remote.size} bytes "
                        "that it promised; nothing was kept, try again"
                    )
                part.write(chunk)
                self._report(part)
        if part.size < self.remote.size:
            raise _Broken("the connection ended early")

    def _check_answer(self, response: Any, part: _Part) -> None:
        """Let pass only the bytes asked for, or the whole file from its beginning."""
        status = response.status_code
        if status == 200:
            part.restart()  # the server knows no ranges
        elif status == 206:
            asked = f"bytes {part.size}-{self.remote.size - 1}/"
            if not response.headers.get("Content-Range", "").startswith(asked):
                raise _Broken("the server sent another range than the one asked for")
        elif status == 416:
            part.restart()
            raise _Broken("the server does not have the range asked for")
        elif status in (401, 403) and not _same_host(self.remote.location, self.endpoint):
            raise _Broken(f"the file's address was refused ({status})")
        else:
            _refuse(status, response.headers, self.ref, self.endpoint)

    def _report(self, part: _Part) -> None:
        if self.progress is not None:
            self.progress(self.ref.file, part.size, self.remote.size)


def _patiently(
    attempt: Callable[[], T],
    ref: FileRef,
    sleep: Sleep,
    *,
    tries: int,
    gained: Callable[[], int] = lambda: 0,
) -> T:
    """Repeat `attempt` while it breaks; give up after `tries` in a row without progress.

    Progress is the most bytes there have ever been, so that a server that knows no ranges and
    always breaks at the same place cannot keep us for ever.
    """
    most, failures = gained(), 0
    while True:
        try:
            return attempt()
        except _Broken as broken:
            reason = broken
        failures = 0 if gained() > most else failures + 1
        most = max(most, gained())
        if failures >= tries:
            kept = f"; {readable(gained())} are kept, run it again to go on" if gained() else ""
            raise DownloadError(
                f"{ref}: gave up after {tries} tries without progress ({reason}){kept}"
            ) from reason
        wait = 2.0 ** max(0, failures - 1) if reason.wait is None else reason.wait
        _log.info("%s: %s; trying again in %g s", ref, reason, wait)
        sleep(min(wait, _LONGEST_WAIT))


class _Part:
    """FILE.part: a prefix of the file to be, and the SHA-256 of what it holds so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part, self.note = _part_files(path)
        with _disk(self.part):
            self.part.touch()
            # Unbuffered, so that an error is met where it happens and nothing is left to flush.
            self._file: IO[bytes] = self.part.open("r+b", buffering=0)
            self._hash = _sha256(self._file)
            self.size = self._file.tell()
        self.total = 0

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def become(self, remote: RemoteFile) -> None:
        """Go on towards this version of the file; start again if the bytes are another's."""
        identity = {"etag": remote.etag, "size": remote.size, "commit": remote.commit}
        note = _read_json(self.note)
        same = remote.etag is not None and note.get("etag") == remote.etag
        if not same or note.get("size") != remote.size or self.size > remote.size:
            self.restart()
        self.total = remote.size
        with _disk(self.part):
            self.note.write_text(json.dumps(identity), encoding="utf-8")

    def restart(self) -> None:
        with _disk(self.part):
            self._file.seek(0)
            self._file.truncate()
        self._hash, self.size = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        with _disk(self.part, self.total):
            write_all(self._file, chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def discard(self) -> None:
        with _disk(self.part):
            self._file.close()
            self.part.unlink()
            self.note.unlink(missing_ok=True)

    def keep(self, remote: RemoteFile) -> None:
        """Make the part the file. Its record is there before it is, so a file has a record."""
        record = {"sha256": self.sha256, "size": self.size, "commit": remote.commit}
        with _disk(self.part, self.total):
            os.fsync(self._file.fileno())
            self._file.close()
            _beside(self.path, ".json").write_text(json.dumps(record), encoding="utf-8")
            self.part.replace(self.path)
            self.note.unlink(missing_ok=True)
            if os.name == "posix":  # elsewhere a folder cannot be opened to flush the rename
                folder = os.open(self.path.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)


def write_all(file: IO[bytes], chunk: bytes) -> None:
    """Write every byte of `chunk` to an unbuffered file; a nearly full disk takes a part of it."""
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


# The hub --------------------------------------------------------------------------------------


def _look_up(ref: FileRef, endpoint: str | None) -> RemoteFile:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    assert ref.repo is not None
    url = hf_hub_url(ref.repo, ref.file, revision=ref.revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url, token=_token() or False, endpoint=endpoint)
    except OfflineModeIsEnabled as error:
        raise DownloadError(f"{ref}: HF_HUB_OFFLINE is set; unset it to download") from error
    except HfHubHTTPError as error:
        _refuse(error.response.status_code, error.response.headers, ref, endpoint)
    except _http_error() as error:
        raise _Broken(_first_line(error)) from error
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


def _refuse(
    status: int, headers: Mapping[str, str], ref: FileRef, endpoint: str | None
) -> NoReturn:
    """Raise what an error status means: _Broken if it may pass, else a DownloadError."""
    code = headers.get("X-Error-Code", "")
    page = f"{_endpoint(endpoint)}/{ref.repo}"
    if status in _RETRY:
        wait = headers.get("Retry-After", "")
        raise _Broken(f"the server answered {status}", float(wait) if wait.isdigit() else None)
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
def _get(url: str, start: int, endpoint: str | None) -> Iterator[Any]:
    """GET from byte `start` on; the response, its body unread. A broken connection is _Broken."""
    from huggingface_hub import constants, get_session

    # Ranges count the bytes of the file itself, so no compression on the way.
    headers = {"Accept-Encoding": "identity", "User-Agent": "eftlocal"}
    if _same_host(url, endpoint) and (token := _token()):
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
        raise _Broken(_first_line(error)) from error


def _http_error() -> type[Exception]:
    """The root error of the HTTP client that this huggingface_hub brings (httpx, then httpx2)."""
    from huggingface_hub.errors import HfHubHTTPError

    root: type[Exception] = HfHubHTTPError.__bases__[0]
    return root


def _endpoint(endpoint: str | None) -> str:
    from huggingface_hub import constants

    return (endpoint or constants.ENDPOINT).rstrip("/")


def _same_host(url: str, endpoint: str | None) -> bool:
    ours, theirs = urlsplit(_endpoint(endpoint)), urlsplit(url)
    return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


def _token() -> str | None:
    from huggingface_hub import constants, get_token

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


# The disk -------------------------------------------------------------------------------------


def _in_store(ref: FileRef) -> Path | None:
    path = stored_path(ref)
    if not path.is_file():
        return None
    record = _read_json(_beside(path, ".json"))
    size = path.stat().st_size
    if any(size != claim for claim in (ref.size, record.get("size")) if claim is not None):
        return None
    if ref.sha256 is not None:
        if "sha256" not in record:  # put there by hand: look at it once
            with _disk(path), path.open("rb") as file:
                record = {"size": size, "sha256": _sha256(file).hexdigest()}
                _beside(path, ".json").write_text(json.dumps(record), encoding="utf-8")
        if record["sha256"] != ref.sha256:
            return None
    return path


def _in_hub_cache(ref: FileRef) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    assert ref.repo is not None
    cached = try_to_load_from_cache(ref.repo, ref.file, revision=ref.revision)
    if not isinstance(cached, str):
        return None
    path = Path(cached)
    if ref.size is not None and path.stat().st_size != ref.size:
        return None
    # The cache names a blob by its checksum; where it cannot link to blobs, nothing tells it.
    if ref.sha256 is not None and path.resolve().name != ref.sha256:
        return None
    return path


def _check_space(jobs: Iterable[_Download]) -> None:
    needed = 0
    for job in jobs:
        part, _ = _part_files(stored_path(job.ref))
        needed += max(0, job.remote.size - (part.stat().st_size if part.is_file() else 0))
    top = store().absolute()
    folder = next((place for place in (top, *top.parents) if place.is_dir()), top)
    with _disk(folder):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{store()}: {readable(needed)} to download and only {readable(free)} free; "
            "make room, or set EFTLOCAL_MODELS to a folder on another disk"
        )


@contextmanager
def _lock(path: Path, ref: FileRef) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(_beside(path, ".lock"))
    with _disk(path):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise DownloadError(f"{ref}: another process is downloading it; wait for it") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk(path: Path, total: int = 0) -> Iterator[None]:
    """Turn a failure of the disk into one line; `total` is the size of the file in the making."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            done = path.stat().st_size if path.is_file() else 0
            raise DownloadError(
                f"{path}: the disk is full; the first {readable(done)} are kept, make room for "
                f"{readable(max(0, total - done))} more and run it again"
            ) from error
        raise DownloadError(f"{path}: {error.strerror or error}") from error


def _belongings(ref: FileRef) -> list[Path]:
    path = stored_path(ref)
    return [file for file in (path, _beside(path, ".json"), *_part_files(path)) if file.is_file()]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _part_files(path: Path) -> tuple[Path, Path]:
    return _beside(path, ".part"), _beside(path, ".part.json")


def _read_json(path: Path) -> dict[str, Any]:
    """A small record; empty where there is none or a crash tore it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _sha256(file: IO[bytes]) -> Hash:
    """The hash of a file from where it stands to its end, ready to go on."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
