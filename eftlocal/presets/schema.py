"""What a preset may say: the tables of a presets file, each key typed and each range checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
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
from eftlocal.kinds import of_one_role
from eftlocal.logits.recipe import TRIO
from eftlocal.prompt.messages import check_variables
from eftlocal.settings import PRESET, RANGES, SETTINGS, Setting, named, read_table, unknown_key

# llama.cpp's name of one shard of a model.
SPLIT = re.compile(r"-([0-9]{5})-of-([0-9]{5})\.gguf\Z")
NAME = r"^[\w][\w.+-]*$"  # of a preset
MOST_SHARDS = 512  # the largest models have about a hundred
# Names that Windows keeps for devices, whatever follows the first dot.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_OURS = (".part", ".part.json", ".lock")  # what a download keeps beside its file
HUB = "hf:"  # begins the name of a file on the hub, where a path may stand too
_ON_HUB = re.compile(r"hf:([^/@]+/[^/@]+)/([^@]+)(?:@([^@]+))?\Z")

_PACKAGE = r"^[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?$"  # a name on PyPI (PEP 508)
# The hub's rule for owner/name.
_REPO = re.compile(r"(?!.*(?:--|\.\.))(?!.*\.git$)\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)


# Recipes that decode fewer roles than the trio (a recipe written as weights names its own).
_FEWER = {
    "realign": ("tuned", "reference"),
    "contrast": ("base", "reference"),
    "guidance": ("tuned",),
    "persona": ("base", "tuned"),
    "base": ("base",),
    "tuned": ("tuned",),
    "reference": ("reference",),
}


def first_part(name: str) -> str:
    """The name of a split model's first file, of any of its files; any other name as it is."""
    split = SPLIT.search(name)
    return f"{name[: split.start()]}-00001-of-{split[2]}.gguf" if split else name


class StrictTable(BaseModel):
    """A TOML table that refuses keys it does not know, naming the nearest one it does.

    Its keys are fields of its own, and settings of the program's table: those that it gives are
    in `given`, checked, by their keys; a word such as off stays.
    """

    model_config = ConfigDict(
        extra="allow", frozen=True, populate_by_name=True, strict=True, allow_inf_nan=False
    )
    TABLE: ClassVar[Mapping[str, Setting]] = {}

    @property
    def given(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        fields = {field.alias or name for name, field in cls.model_fields.items()}
        for key in data:
            if key not in {*fields, *cls.model_fields, *cls.TABLE}:
                known = dict.fromkeys((*fields, *cls.TABLE))
                raise ValueError(unknown_key(key, known))
        settings = {key: value for key, value in data.items() if key in cls.TABLE}
        return {**data, **read_table(settings, cls.TABLE)}


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
        file: path on this machine (relative to the presets file), or inside the repository; or
            both in one, hf:owner/name/file.gguf, with @revision or without. A file named
            ...-00001-of-0000N.gguf stands for all N shards.
        revision: commit, tag or branch; None is the main branch.
        sha256: 64 hexadecimal digits the file must have, whatever the hub says.
        size: bytes the file must have, whatever the hub says.
        python_package: that has the same file, by its name on PyPI: where it is installed, nothing
            is downloaded. Needs repo and sha256.
    """

    repo: str | None = None
    file: str = Field(min_length=1)
    revision: str | None = Field(default=None, min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    size: int | None = Field(default=None, gt=0)
    python_package: str | None = Field(default=None, pattern=_PACKAGE)

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> FileRef:
        """A path, or a file of the hub: hf:owner/name/file.gguf, with @revision or without.

        Raises:
            UsageError: it begins with hf: and names no file that there could be.
        """
        text = os.fspath(path)
        if text.startswith(HUB):
            text = text.replace("\\", "/")  # as Windows writes a path
        try:
            return cls(file=text)
        except ValidationError as refused:
            what = refused.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"{text}: {what}") from None

    @model_validator(mode="before")
    @classmethod
    def _of_the_hub(cls, data: Any) -> Any:
        file = data.get("file") if isinstance(data, Mapping) else None
        if not isinstance(file, str) or not file.startswith(HUB):
            return data
        found = _ON_HUB.match(file)
        if found is None:
            raise ValueError(f"{file!a} is not hf:owner/name/file.gguf, with @revision or without")
        if twice := [key for key in ("repo", "revision") if data.get(key) is not None]:
            raise ValueError(f"{file} says it all; leave {twice[0]} out")
        parts = dict(zip(("repo", "file", "revision"), found.groups(), strict=True))
        return {**data, **{key: part for key, part in parts.items() if part is not None}}

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
        if self.python_package and not self.sha256:
            raise ValueError("python_package needs sha256, which its file is compared with")
        return self

    def __str__(self) -> str:
        if self.repo is None:
            return self.file
        return f"{self.repo}/{self.file}" + (f"@{self.revision}" if self.revision else "")

    def is_same_file(self, other: FileRef) -> bool:
        return (self.repo, self.file, self.revision) == (other.repo, other.file, other.revision)


class PromptTemplate(StrictTable):
    """A role's own chat template, in the place of the one in its file."""

    template: str = Field(min_length=1)

    @field_validator("template")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        if "{{" not in value and "{%" not in value:
            from eftlocal.prompt.render import check_format  # with llama_cpp: not for `models list`

            check_format(value)
        return value


def _prompt_kind(value: Any) -> str:
    return "table" if isinstance(value, (dict, PromptTemplate)) else "name"


def _known_prompt(name: str) -> str:
    if name not in ("chat", "same", "plain"):
        from eftlocal.llama import chat_formats  # with llama_cpp: not for `models list`

        if name not in chat_formats():
            raise ValueError(
                f'"{name}" is no prompt: use "chat", "same", "plain", the name of a chat format '
                'that llama.cpp knows ("chatml"), or {template = "..."}'
            )
    return name


Prompt = Annotated[
    Annotated[str, AfterValidator(_known_prompt), Tag("name")]
    | Annotated[PromptTemplate, Tag("table")],
    Discriminator(_prompt_kind),
]


_Mark = Annotated[str, Field(min_length=1)]


class AdapterFile(FileRef):
    """A LoRA adapter's GGUF file.

    Attributes:
        scale: times the adapter.
    """

    scale: float = 1.0

    @field_validator("scale")
    @classmethod
    def _in_range(cls, value: float) -> float:
        return float(RANGES["adapter"].checked("scale", value))


class RoleFile(FileRef):
    """What plays a role: a file, or another role's weights, with or without an adapter.

    Attributes:
        of: take the weights of this other role (loaded once) instead of a file of its own.
        lora: a GGUF LoRA adapter put on the weights, in this role only.
        kind: what a role of another name is; the roles base, tuned and reference are themselves.
        prompt: "chat" is the chat template of the role's own file, "same" the text that the tuned
            role sees, "plain" the conversation as plain text, another name a chat format of
            llama.cpp's ("chatml"); or a table with a template.
        without_system: leave out system messages for this role.
        thinking: the texts before and after its thinking, as in ["<think>", "</think>"], where its
            marks are none of those that are known (`eftlocal.thinking`).
        evidence: how we know that the file exists and is what it says.
        approx_size: bytes, to tell what a download costs; never checked, unlike size.
    """

    TABLE = {
        name: replace(setting, kind=of_one_role(setting.kind))
        for name, setting in named("prompt", "engine", "context", where=PRESET).items()
    }

    file: str = ""
    of: str | None = None
    lora: AdapterFile | None = None
    kind: Literal["base", "tuned", "reference"] | None = None
    prompt: Prompt | None = None
    without_system: bool | None = None
    thinking: tuple[_Mark, _Mark] | None = None
    evidence: str = ""
    approx_size: int | None = Field(default=None, gt=0)

    @field_validator("thinking", mode="before")
    @classmethod
    def _pair(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_source(self) -> RoleFile:
        if bool(self.file) == bool(self.of):
            raise ValueError(
                "needs either file (with repo, when it is on the hub) or of = another role"
            )
        check_variables(self.given.get("chat_template_kwargs", {}))
        return self


class RecipeSettings(StrictTable):
    """The preset's recipe, as numbers; what they mean is recipe.py's business.

    Attributes:
        name: of a recipe; None with weights, or where the dials say which is meant.
        references: the reference of a tuned role where it is not "reference".
        weights: one for each role.
    """

    TABLE = {k: s for k, s in named("recipe", "limits", where=PRESET).items() if k != "recipe"}

    name: str | None = None
    references: dict[str, str] | None = None
    weights: dict[str, float] | None = Field(default=None, min_length=1)

    @field_validator("weights")
    @classmethod
    def _each_in_range(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for role, number in (value or {}).items():
            RANGES["weight"].checked(f"that of {role}", number)
        return value


class SamplingSettings(StrictTable):
    """The preset's sampling, and where its answers end."""

    TABLE = named("sampling", "length", where=PRESET)


class SpeculationSettings(StrictTable):
    """How the preset drafts."""

    TABLE = {
        "length": SETTINGS["speculative"],
        "rule": SETTINGS["draft_rule"],
        "source": SETTINGS["draft_source"],
    }


class Preset(StrictTable):
    """A named set of roles and the defaults that go with it. Immutable.

    Attributes:
        roles: what plays each role. base, tuned and reference, unless the recipe needs fewer;
            further roles ("warm", a second tuned model) say their kind.
        recipe: the default recipe; None is the program's own.
        sampling: the default sampling settings.
        speculation: the default drafts.
        stop: texts that end an answer, beside the models' end tokens.
        vocabulary_exceptions: token ids whose text may differ between the roles.
        gated: the hub asks for an accepted licence and a login before it serves a file.
        notes: what a person should know of it.
        questions: that show what it is for; the chat offers them.
    """

    name: str = Field(pattern=NAME)
    title: str = ""
    license: str = ""
    gated: bool = False
    evidence: str = ""
    notes: str = ""
    questions: tuple[str, ...] = ()
    roles: dict[str, RoleFile]
    recipe: RecipeSettings | None = None
    sampling: SamplingSettings = SamplingSettings()
    speculation: SpeculationSettings = SpeculationSettings()
    stop: tuple[str, ...] = ()
    vocabulary_exceptions: tuple[Annotated[int, Field(ge=0)], ...] = ()

    @field_validator("stop", "questions", "vocabulary_exceptions", mode="before")
    @classmethod
    def _array(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _roles_fit_together(self) -> Preset:
        for role, source in self.roles.items():
            if not role.isidentifier():
                raise ValueError(f"role {role!r} is no name: take letters, digits and _")
            if role in TRIO:
                if source.kind not in (None, role):
                    raise ValueError(f'role "{role}" cannot be of kind "{source.kind}"')
            elif source.kind is None:
                near = get_close_matches(role, TRIO, 1)
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
        if self.recipe is None:
            return TRIO
        if self.recipe.weights is not None:
            return tuple(role for role, weight in self.recipe.weights.items() if weight)
        if isinstance(tuned := self.recipe.given.get("lambda"), dict):
            references = self.recipe.references or {}
            return ("base", *tuned, *(references.get(role, "reference") for role in tuned))
        return _FEWER.get(self.recipe.name or "", TRIO)

    def settings(self) -> dict[str, Any]:
        """What it says of the program's settings, by their names; of a role's, as n_ctx of base."""
        recipe = self.recipe or RecipeSettings()
        named_ = {"recipe": recipe.name} if recipe.name else {}
        drafts = {SpeculationSettings.TABLE[k].name: v for k, v in self.speculation.given.items()}
        roles = {
            f"{key} of {role}": value
            for role, source in self.roles.items()
            for key, value in source.given.items()
        }
        stop = {"stop": self.stop} if self.stop else {}
        return {**named_, **recipe.given, **self.sampling.given, **drafts, **stop, **roles}

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
            if source.file and not any(seen.is_same_file(source) for seen in found.values()):
                found[role] = source
            if source.lora is not None and not any(
                f.is_same_file(source.lora) for f in found.values()
            ):
                found[f"{role} lora"] = source.lora
        return found
