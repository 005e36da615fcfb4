"""Which file is meant: a path, or a file of a repository on the hub, perhaps pinned."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator, model_validator

from eftlocal.presets.strict_table import StrictTable

# llama.cpp's name of one shard of a model.
SPLIT = re.compile(r"-([0-9]{5})-of-([0-9]{5})\.gguf\Z")
MOST_SHARDS = 512  # the largest models have about a hundred
# Names that Windows keeps for devices, whatever follows the first dot.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_OURS = (".part", ".part.json", ".lock")  # what a download keeps beside its file
# The hub's rule for owner/name.
_REPO = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)


def is_inside(path: str) -> bool:
    """Whether this is a path inside a repository that every system can keep as it is."""
    return len(path) <= 1000 and all(map(_is_a_name, path.split("/")))


def _is_a_name(name: str) -> bool:
    return (
        0 < len(name.encode("utf-8", "replace")) <= 240
        and name.isprintable()
        and not name.endswith((".", " "))  # also . and ..
        and not re.search(r'[\\:*?"<>|]', name)
        and not _DEVICE.fullmatch(name)
    )


class FileRef(StrictTable):
    """One file: a path, or a file of a repository on the hub.

    Attributes:
        repo: owner/name on the hub; without it `file` is a path.
        file: path on this machine (relative to the presets file), or inside the repository. A
            file named ...-00001-of-0000N.gguf stands for all N shards.
        revision: commit, tag or branch; None is the main branch.
        sha256: 64 hexadecimal digits the file must have, whatever the hub says.
        size: bytes the file must have, whatever the hub says.
    """

    repo: str | None = None
    file: str = Field(min_length=1)
    revision: str | None = Field(default=None, min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    size: int | None = Field(default=None, gt=0)

    @field_validator("repo")
    @classmethod
    def _is_a_repo(cls, repo: str | None) -> str | None:
        if repo is not None and not (_REPO.fullmatch(repo) and is_inside(repo)):
            raise ValueError(f"{repo!a} is not of the form owner/name")
        return repo

    @field_validator("sha256", mode="before")
    @classmethod
    def _in_small_letters(cls, digits: object) -> object:
        return digits.lower() if isinstance(digits, str) else digits

    @field_validator("file", "revision")
    @classmethod
    def _stays_inside(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A hub file's path becomes a path in the store: it may not point out of it."""
        if value and info.data.get("repo"):
            if not is_inside(value):
                raise ValueError(f"{value!a} is not a path inside a repository")
            if info.field_name == "file" and value.endswith(_OURS):
                raise ValueError(f"{value} has the name of an unfinished download")
        elif value and info.field_name == "file" and info.context:
            try:
                return str(Path(info.context["root"]) / Path(value).expanduser())
            except RuntimeError:
                raise ValueError(f'"{value}" begins with a user who is not known here') from None
        return value

    @model_validator(mode="after")
    def _is_a_shard(self) -> FileRef:
        if self.repo and (split := SPLIT.search(self.file)):
            number, count = int(split[1]), int(split[2])
            if not 1 <= number <= count <= MOST_SHARDS:
                raise ValueError(
                    f"{self.file}: there is no part {number} of {count}; a model has at most "
                    f"{MOST_SHARDS} parts, and they count from 1"
                )
        return self

    @model_validator(mode="after")
    def _pins_have_a_hub(self) -> FileRef:
        pins = [key for key in ("revision", "sha256", "size") if getattr(self, key) is not None]
        if pins and not self.repo:
            raise ValueError(f"{pins[0]} needs repo: a path has nothing to pin")
        if self.sha256 and SPLIT.search(self.file):
            raise ValueError("sha256 cannot pin a model split into shards; pin revision instead")
        if self.size and SPLIT.search(self.file):
            raise ValueError("size cannot pin a model split into shards; pin revision instead")
        return self

    def __str__(self) -> str:
        if self.repo is None:
            return self.file
        return f"{self.repo}/{self.file}" + (f"@{self.revision}" if self.revision else "")

    def is_same_file(self, other: FileRef) -> bool:
        return (self.repo, self.file, self.revision) == (other.repo, other.file, other.revision)
