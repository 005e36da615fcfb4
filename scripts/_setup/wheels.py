"""Wheels of llama-cpp-python: built with a plan's settings, and kept.

The cache has a folder a key, with a wheel in it only when it is whole. All checkouts of this user
share it. EFTLOCAL_WHEELS names another place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from .accelerator import ACCELERATORS
from .child import WINDOWS, clean_environment, work
from .machine import default_jobs
from .plan import Plan
from .report import SetupError, diagnose, last_lines, say, shown


def cache_folder(env: Mapping[str, str], system: str = sys.platform) -> Path:
    """Where wheels are kept, after each system's own custom."""
    if own := env.get("EFTLOCAL_WHEELS"):
        return Path(own).expanduser().absolute()
    home = Path.home()
    if system == "darwin":
        base = home / "Library" / "Caches"
    elif system == "win32":
        base = Path(env.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "eftlocal" / "wheels"


@dataclass(frozen=True)
class Cached:
    wheel: Path
    built: str  # ISO date and time, UTC

    @property
    def accelerator(self) -> str:
        """What the wheel has llama.cpp's libraries for, as `Choice.name`: whatever was asked."""
        with zipfile.ZipFile(self.wheel) as content:
            found = set(_LIBRARY.findall("\n".join(content.namelist())))
        return "+".join(name for name in ACCELERATORS if name in found) or "cpu"


# libggml-vulkan.so, ggml-vulkan.dll
_LIBRARY = re.compile(r"(?m)[/\\](?:lib)?ggml-(\w+)\.(?:so|dll|dylib)\S*$")


def find(cache: Path, key: str) -> Cached | None:
    """The whole wheel of this key, or None."""
    for wheel in sorted((cache / key).glob("*.whl")):
        # The index of a wheel is at its end: a torn file does not open.
        if zipfile.is_zipfile(wheel):
            try:
                built = json.loads((cache / key / "built.json").read_text())["built"]
            except (OSError, ValueError, KeyError):
                built = "unknown"
            return Cached(wheel, str(built))
    return None


def build(cache: Path, key: str, make: Callable[[Path], None]) -> Cached:
    """Let `make` put one wheel into the folder it is given, then bring it into the cache at once.

    Whatever stops `make`, the cache holds either the whole wheel or what it held before.
    """
    with tempfile.TemporaryDirectory(prefix=f"building-{key}-", dir=cache) as name:
        make(Path(name))
        made = sorted(Path(name).glob("*.whl"))
        if len(made) != 1 or not zipfile.is_zipfile(made[0]):
            raise SetupError("the build ended without an error, but also without a wheel")
        with made[0].open("rb+") as written:
            os.fsync(written.fileno())
        home = cache / key
        home.mkdir(exist_ok=True)
        for old in home.glob("*.whl"):
            if old.name != made[0].name:
                old.unlink()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        (home / "built.json").write_text(json.dumps({"built": now}))
        made[0].replace(home / made[0].name)
    found = find(cache, key)
    assert found is not None
    return found


def sweep(cache: Path, key: str) -> None:
    """Remove what killed builds of this key left; call it only under the key's lock."""
    for left in cache.glob(f"building-{key}-*"):
        shutil.rmtree(left, ignore_errors=True)


def prepare(cache: Path) -> None:
    """Make the cache's folders, or say plainly that they cannot be made."""
    try:
        for folder in (cache, cache / "locks", cache / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot make the wheel cache {shown(cache)}: {error.strerror}",
            next_step="set EFTLOCAL_WHEELS to a folder that can be written",
        ) from error


@contextmanager
def locked(cache: Path, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock `name`; the system frees it when the process ends, however it ends."""
    with (cache / "locks" / f"{name}.lock").open("a+b") as handle:
        if not _try_lock(handle.fileno()):
            on_wait()
            _wait_lock(handle.fileno())
        try:
            yield
        finally:
            _unlock(handle.fileno())


if sys.platform == "win32":
    import msvcrt
    import time

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, 0, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _wait_lock(handle: int) -> None:
        while not _try_lock(handle):  # msvcrt's own waiting gives up after ten tries
            time.sleep(0.5)

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX)

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


USUAL_TIME = {
    "cpu": "usually 3 to 8 minutes",
    "metal": "usually 2 to 5 minutes",
    "vulkan": "usually 4 to 10 minutes",
}
LONG = "usually 5 to 40 minutes, by the number of cores and GPU architectures"


def builder(plan: Plan, python: Path, jobs: int | None, log: Path) -> Callable[[Path], None]:
    """A function that builds the plan's wheel into the folder it is given."""

    def make(folder: Path) -> None:
        count = jobs or default_jobs(plan.accelerator.name)
        say(
            f"building llama-cpp-python {plan.version} for {plan.accelerator.name} with {count} "
            f"job(s): {USUAL_TIME.get(plan.accelerator.name, LONG)}, once for this machine"
        )
        # pip's own cache knows neither CMAKE_ARGS nor CXXFLAGS: keep it out.
        command = [
            *(str(python), "-m", "pip", "wheel", "--verbose", "--no-cache-dir", "--no-deps"),
            *("--no-binary", "llama-cpp-python", "--wheel-dir", str(folder)),
            f"llama-cpp-python=={plan.version}",
        ]
        log.unlink(missing_ok=True)
        env = clean_environment(plan.build_environment(count))
        if not WINDOWS:  # where paths are too short for it
            # pip leaves its folders behind when it is stopped: here they go with `folder`.
            (folder / "tmp").mkdir()
            env["TMPDIR"] = str(folder / "tmp")
        if work(command, log=log, label="building", env=env) == 0:
            return
        text = log.read_text(encoding="utf-8", errors="replace")
        for line in last_lines(text):
            say(f"  | {line}")
        cause, advice = diagnose(text)
        raise SetupError(
            "llama-cpp-python could not be built" + (f": {cause}" if cause else ""),
            next_step=advice or "read the log, then run this again",
            log=log,
        )

    return make
