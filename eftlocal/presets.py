"""Presets: which model files play which role. Reads models.toml, the built-in one and the user's.

A presets file is TOML: one `[[preset]]` table per preset with a `[preset.roles.<role>]` table per
role. An unknown key, a role that is missing and a value out of range are refused in one line that
names the file, the table and the key. Nothing is downloaded or opened here.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from eftlocal.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")  # llama.cpp's name of one shard of a model
# The hub's rule for owner/name.
_REPO = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
# Recipes that decode fewer roles than the trio (a recipe written as weights names its own).
_FEWER = {
    "realign": ("tuned", "reference"),
    "contrast": ("base", "reference"),
    "base": ("base",),
    "tuned": ("tuned",),
    "reference": ("reference",),
}


class _Table(BaseModel):
    """A TOML table that refuses keys it does not know, naming the nearest one it does."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, strict=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            names = known | set(cls.model_fields)
            for key in data:
                if key not in names:
                    raise ValueError(f'unknown key "{key}"; {_nearest(str(key), known)}')
        return data


class FileRef(_Table):
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
        if repo is not None and not _REPO.fullmatch(repo):
            raise ValueError(f'"{repo}" is not of the form owner/name')
        return repo

    @field_validator("file", "revision")
    @classmethod
    def _stays_inside(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A hub file's path becomes a path in the store: it may not point out of it."""
        if value and info.data.get("repo"):
            parts = PurePosixPath(value).parts
            if value.startswith("/") or ".." in parts or re.search(r'[\\:*?"<>|\x00-\x1f]', value):
                raise ValueError(f'"{value}" is not a path inside a repository')
        elif value and info.field_name == "file" and info.context:
            return str(Path(info.context["root"]) / Path(value).expanduser())
        return value

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


class PromptTemplate(_Table):
    """A role's own chat template, in the place of the one in its file."""

    template: str = Field(min_length=1)


def _prompt_kind(value: Any) -> str:
    return "table" if isinstance(value, (dict, PromptTemplate)) else "name"


Prompt = Annotated[
    Annotated[Literal["chat", "same", "plain"], Tag("name")]
    | Annotated[PromptTemplate, Tag("table")],
    Discriminator(_prompt_kind),
]


class RoleFile(FileRef):
    """What plays a role: a file, or another role's weights, with or without an adapter.

    Attributes:
        of: take the weights of this other role (loaded once) instead of a file of its own.
        lora: a GGUF LoRA adapter put on the weights, in this role only.
        kind: what a role of another name is; the roles base, tuned and reference are themselves.
        prompt: "chat" is the chat template of the role's own file, "same" the text that the tuned
            role sees, "plain" the conversation as plain text; or a table with a template.
        evidence: how we know that the file exists and is what it says.
        approx_size: bytes, to tell what a download costs; never checked, unlike size.
        gpu_layers: "auto" as many as fit, -1 all.

    The rest are settings of llama.cpp for this role; None leaves one to the program.
    """

    file: str = ""
    of: str | None = None
    lora: FileRef | None = None
    kind: Literal["base", "tuned", "reference"] | None = None
    prompt: Prompt | None = None
    evidence: str = ""
    approx_size: int | None = Field(default=None, gt=0)
    n_ctx: int | None = Field(default=None, ge=1)
    n_batch: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: Annotated[int, Field(ge=-1)] | Literal["auto"] | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    flash_attention: bool | None = None
    swa_full: bool | None = None

    @field_validator("cache_type_k", "cache_type_v")
    @classmethod
    def _is_a_cache_type(cls, value: str | None) -> str | None:
        if value is not None:
            from eftlocal.cache_size import CACHE_TYPES  # with gguf: not for `models list`

            if value not in CACHE_TYPES:
                raise ValueError(f'"{value}" is no KV-cache type; one of {", ".join(CACHE_TYPES)}')
        return value

    @model_validator(mode="after")
    def _one_source(self) -> RoleFile:
        if bool(self.file) == bool(self.of):
            raise ValueError(
                "needs either file (with repo, when it is on the hub) or of = another role"
            )
        return self


class RecipeSettings(_Table):
    """The preset's recipe, as numbers; what they mean is recipe.py's business.

    Attributes: name, a recipe's name, or None with weights; alpha, beta, lambda and strength, its
    dials; weights, one per role; delta_top_p, plausibility and delta_clip, its stabilisers.
    """

    name: str | None = None
    alpha: float | None = None
    beta: float | None = None
    lambda_: float | None = Field(default=None, alias="lambda")
    strength: float | None = None
    weights: dict[str, float] | None = Field(default=None, min_length=1)
    delta_top_p: float | None = Field(default=None, gt=0, le=1)
    plausibility: float | None = Field(default=None, ge=0, lt=1)
    delta_clip: float | None = Field(default=None, ge=0)


class SamplingSettings(_Table):
    """The preset's sampling defaults; None leaves a setting to the program."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, lt=1)
    repeat_penalty: float | None = Field(default=None, gt=0)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)


class Preset(_Table):
    """A named set of roles and the defaults that go with it. Immutable.

    Attributes:
        roles: what plays each role. base, tuned and reference, unless the recipe needs fewer;
            further roles ("warm", a second tuned model) say their kind.
        recipe: the default recipe; None is the program's own.
        sampling: the default sampling settings.
        stop: texts that end an answer, beside the models' end tokens.
        vocabulary_exceptions: token ids whose text may differ between the roles.
        gated: the hub asks for an accepted licence and a login before it serves a file.
    """

    name: str = Field(pattern=r"^[\w][\w.+-]*$")
    title: str = ""
    license: str = ""
    gated: bool = False
    evidence: str = ""
    notes: str = ""
    roles: dict[str, RoleFile]
    recipe: RecipeSettings | None = None
    sampling: SamplingSettings = SamplingSettings()
    stop: tuple[str, ...] = ()
    vocabulary_exceptions: tuple[Annotated[int, Field(ge=0)], ...] = ()

    @field_validator("stop", "vocabulary_exceptions", mode="before")
    @classmethod
    def _array(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _roles_fit_together(self) -> Preset:
        for role, source in self.roles.items():
            if role in ("base", "tuned", "reference"):
                if source.kind not in (None, role):
                    raise ValueError(f'role "{role}" cannot be of kind "{source.kind}"')
            elif source.kind is None:
                near = get_close_matches(role, ("base", "tuned", "reference"), 1)
                meant = f'; did you mean the role "{near[0]}"?' if near else ""
                raise ValueError(f'role "{role}" needs a kind: base, tuned or reference{meant}')
            if source.of is not None:
                other = self.roles.get(source.of)
                if other is None or other.of is not None:
                    raise ValueError(
                        f'role "{role}" takes its weights from "{source.of}", '
                        "which is not a role with a file of its own"
                    )
        for role in self._needed():
            if role not in self.roles:
                raise ValueError(f'role "{role}" is missing')
        return self

    def _needed(self) -> tuple[str, ...]:
        trio = ("base", "tuned", "reference")
        if self.recipe is None:
            return trio
        if self.recipe.weights is not None:
            return tuple(role for role, weight in self.recipe.weights.items() if weight)
        return _FEWER.get(self.recipe.name or "", trio)

    def kind(self, role: str) -> str:
        """base, tuned or reference: what `role` is in the formula."""
        return self.roles[role].kind or role

    def weights(self, role: str) -> FileRef:
        """The file of a role's weights, of the other role where it has `of`."""
        source = self.roles[role]
        return self.roles[source.of] if source.of is not None else source

    def files(self) -> dict[str, FileRef]:
        """Every distinct file of the preset, labelled by role ("tuned lora" for an adapter)."""
        found: dict[str, FileRef] = {}
        for role, source in self.roles.items():
            if source.file and not any(_same(source, seen) for seen in found.values()):
                found[role] = source
            if source.lora is not None and not any(_same(source.lora, f) for f in found.values()):
                found[f"{role} lora"] = source.lora
        return found


def builtin_path() -> Path:
    """The presets that come with the program: beside this file when installed, else above it."""
    here = Path(__file__).parent
    installed = here / "models.toml"
    return installed if installed.is_file() else here.parent / "models.toml"


def user_path() -> Path:
    """The user's own presets, which may not exist. EFTLOCAL_CONFIG overrides the folder."""
    folder = os.environ.get("EFTLOCAL_CONFIG")
    return (Path(folder) if folder else platformdirs.user_config_path("eftlocal")) / "models.toml"


def load_presets(*files: str | Path) -> dict[str, Preset]:
    """Presets by name, in order; a later file's preset replaces an earlier one of that name.

    Without arguments: the built-in file and then the user's, if there is one.

    Raises:
        UsageError: a file is missing, not TOML, or holds something that is refused.
    """
    if not files:
        files = tuple(path for path in (builtin_path(), user_path()) if path.is_file())
    presets: dict[str, Preset] = {}
    for file in files:
        presets.update(_load(Path(file)))
    return presets


def find(name: str) -> Preset:
    """The preset of that name, the user's before the built-in one.

    Raises:
        UsageError: there is none; the line names the nearest and how to list them.
    """
    presets = load_presets()
    if name not in presets:
        near = get_close_matches(name, presets, 1, 0.5)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise UsageError(f'no preset "{name}"; {hint}`eftlocal models list` shows them all')
    return presets[name]


def _load(path: Path) -> dict[str, Preset]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:  # its message ends with the line and column
        raise UsageError(f"{path}: {error}") from error
    tables = document.pop("preset", [])
    if document:
        key = next(iter(document))
        raise UsageError(f'{path}: unknown key "{key}"; every preset is a [[preset]] table')
    if not isinstance(tables, list):
        raise UsageError(f"{path}: [preset] must be [[preset]], one such table per preset")
    # Paths of the built-in file are relative to the package, wherever the file itself lies.
    root = Path(__file__).parent if path == builtin_path() else path.absolute().parent
    presets: dict[str, Preset] = {}
    for number, table in enumerate(tables, 1):
        preset = _validate(path, number, table, root)
        if preset.name in presets:
            raise UsageError(f'{path}: two presets are named "{preset.name}"')
        presets[preset.name] = preset
    return presets


def _validate(path: Path, number: int, table: Any, root: Path) -> Preset:
    try:
        return Preset.model_validate(table, context={"root": root})
    except ValidationError as refused:
        error = refused.errors()[0]
        name = table.get("name") if isinstance(table, dict) else None
        label = f'preset "{name}"' if isinstance(name, str) else f"preset number {number}"
        where = ".".join(str(part) for part in _toml_path(error["loc"]))
        what = error["msg"].removeprefix("Value error, ")
        what = f"{what[:1].lower()}{what[1:]}"
        if error["type"] == "missing":
            what = "is missing"
        elif error["type"] != "value_error" and not isinstance(error["input"], dict):
            what = f"{what}, not {json.dumps(error['input'], default=str)}"
        raise UsageError(f"{path}: {label}: {where + ': ' if where else ''}{what}") from refused


def _toml_path(loc: tuple[int | str, ...]) -> Iterator[int | str]:
    """An error's place as it is written in the file: without the names of union branches."""
    for i, part in enumerate(loc):
        if i > 0 and loc[i - 1] == "prompt" and part in ("name", "table"):
            continue
        if i > 0 and loc[i - 1] == "gpu_layers":
            continue
        yield part


def _nearest(key: str, known: set[str]) -> str:
    near = get_close_matches(key, known, 1, 0.5)
    if near:
        return f'did you mean "{near[0]}"?'
    return "known: " + ", ".join(sorted(known))


def _same(a: FileRef, b: FileRef) -> bool:
    return (a.repo, a.file, a.revision) == (b.repo, b.file, b.revision)
