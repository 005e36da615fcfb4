"""Where programs keep models on this machine, and the files there that may be one."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eftlocal import hub
from eftlocal.disk import open_regular, read_json

# How programs name what is still being downloaded.
_UNFINISHED = re.compile(
    r"\.(?:incomplete|part|partial|downloadInProgress|crdownload|download|downloading|tmp)\Z"
    r"|-partial\Z|\Aincomplete-|\Adownloading_",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")
_IN_HUB_CACHE = "models--"  # then the repository, with -- for its slash


@dataclass(frozen=True)
class Place:
    """A folder, and the program that keeps its models there."""

    program: str
    folder: Path


@dataclass(frozen=True)
class Found:
    """A file that may be a model.

    Attributes:
        name: what its program calls it (a repository, Ollama's model:tag), where it has a name
            beside that of the file.
        unfinished: it is still being downloaded.
    """

    path: Path
    program: str
    name: str = ""
    unfinished: bool = False


def places(
    home: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    system: str = sys.platform,
) -> list[Place]:
    """The folders of the programs that are known, whether they are there or not.

    Args:
        home: the user's folder; None is that of this user.
        system: as `sys.platform`.
    """
    home = home or Path.home()

    def folder(variable: str, default: Path) -> Path:
        return Path(value).expanduser() if (value := environment.get(variable)) else default

    if system == "win32":
        cache = data = folder("LOCALAPPDATA", home / "AppData" / "Local")
    elif system == "darwin":
        cache, data = home / "Library" / "Caches", home / "Library" / "Application Support"
    else:
        cache = folder("XDG_CACHE_HOME", home / ".cache")
        data = folder("XDG_DATA_HOME", home / ".local" / "share")
    found = [
        Place("eftlocal", hub.store()),
        Place("Hugging Face", hub.hub_cache()),
        Place("llama.cpp", folder("LLAMA_CACHE", cache / "llama.cpp")),
        *(Place("LM Studio", place) for place in _of_lm_studio(home)),
        Place("GPT4All", data / "nomic.ai" / "GPT4All"),
        Place("GPT4All", home / ".cache" / "gpt4all"),  # of its Python package
        Place("Ollama", folder("OLLAMA_MODELS", home / ".ollama" / "models")),
    ]
    if system == "linux":  # where it runs as a service, and its user has a home of its own
        services = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/models")
        found += [Place("Ollama", Path(service)) for service in services]
    return found


def _of_lm_studio(home: Path) -> Iterator[Path]:
    homes = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    try:
        pointer = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        pointer = ""
    for folder in [Path(pointer), *homes] if pointer else homes:
        chosen = read_json(folder / "settings.json").get("downloadsFolder")
        if isinstance(chosen, str) and chosen:
            yield Path(chosen)
        yield folder / "models"


def files(place: Place, refused: Callable[[OSError], object]) -> Iterator[Found]:
    """The files of a place that may be models, by their names; nothing where there is no such
    folder. Links are followed, each folder once.

    Args:
        refused: called with the error of a folder that cannot be read.
    """
    folder = place.folder
    if not _is_folder(folder):
        return
    if _is_folder(folder / "manifests") and _is_folder(folder / "blobs"):
        yield from _of_ollama(folder, refused)
        return
    seen: set[tuple[int, int]] = set()
    for at, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        here = Path(at)
        inside = here.relative_to(folder)
        folders[:] = [name for name in sorted(folders) if _is_new(here / name, seen)]
        for name in sorted(names):
            if _UNFINISHED.search(name):
                if ".gguf" in name.lower() or _is_gguf(here / name):
                    yield Found(here / name, place.program, unfinished=True)
            elif name.lower().endswith(".gguf"):
                yield Found(here / name, place.program, _repository(place, inside))


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - never raises


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return False
    key = (found.st_dev, found.st_ino)
    is_new = key not in seen
    seen.add(key)
    return is_new


def _repository(place: Place, inside: Path) -> str:
    """The repository that a folder is of, where the place is laid out so."""
    parts = inside.parts
    if parts and parts[0].startswith(_IN_HUB_CACHE):
        return parts[0].removeprefix(_IN_HUB_CACHE).replace("--", "/", 1)
    if place.program in ("LM Studio", "eftlocal") and len(parts) >= 2:
        return "/".join(parts[:2])
    return ""


def _of_ollama(folder: Path, refused: Callable[[OSError], object]) -> Iterator[Found]:
    """The models that manifests name. Their files are blobs, whose names are hashes."""
    blobs = folder / "blobs"
    for at, _, tags in os.walk(folder / "manifests", onerror=refused):
        for tag in sorted(tags):
            yield from _of_manifest(read_json(Path(at) / tag), blobs, f"{Path(at).name}:{tag}")
    for path in sorted(blobs.glob("*-partial")):
        if _is_gguf(path):
            yield Found(path, "Ollama", unfinished=True)


def _of_manifest(manifest: Mapping[str, Any], blobs: Path, name: str) -> Iterator[Found]:
    layers = manifest.get("layers")
    layers = [x for x in layers if isinstance(x, dict)] if isinstance(layers, list) else []
    files = {
        kind: blobs / f"sha256-{digest[1]}"
        for kind in ("model", "adapter")
        for layer in layers
        if layer.get("mediaType") == f"application/vnd.ollama.image.{kind}"
        and (digest := _DIGEST.match(str(layer.get("digest"))))
    }
    for path in files.values():
        # What an adapter adds is not in the model's own file, so the name is not of that file.
        yield Found(path, "Ollama", "" if "adapter" in files else name)


def _is_gguf(path: Path) -> bool:
    try:
        with open_regular(path, follow=True) as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False
