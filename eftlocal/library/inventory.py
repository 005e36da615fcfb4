"""The models of many places: each file's header read once, and what is no language model counted.

Headers are read as they come, with little checked; whoever runs a model checks the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.check import (
    ENCODERS,
    check_metadata,
    check_tokenizer_keys,
    checked_general,
)
from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.parser import Arrays
from eftlocal.library.places import Found, Place, files
from eftlocal.loading.vocabulary import groups
from eftlocal.loading.weight_types import main_type, name_without_type
from eftlocal.presets.schema import first_part

_EMBEDDING = ("embed", "rerank")
_MERGES = "tokenizer.ggml.merges"


@dataclass(frozen=True)
class Model:
    """What is kept of a language model's header: there may be thousands.

    Attributes:
        path: of its first part, where it is split.
        program: that put it there; empty for a folder that a person named.
        names: of the file, in the header, and in its program.
        finetune: what the header says of its fine-tuning, as in Instruct.
        made_from: the name of the model that it was made from, as far as the header says.
        shape: architecture, layers and widths; a model and its fine-tunes have the same.
        parameters: how many weights.
        type: of most of its weights.
        nbytes: of its weights.
        has_template: it holds a chat template.
        vocabulary: a number; models of one number can be combined.
        tokens: of its vocabulary.
    """

    path: Path
    program: str
    names: tuple[str, ...]
    finetune: str
    made_from: str
    shape: tuple[Any, ...]
    parameters: int
    type: str
    nbytes: int
    has_template: bool
    vocabulary: int
    tokens: int


@dataclass
class Inventory:
    """What places hold.

    Attributes:
        models: language models, each file once.
        left_out: how many files of other kinds, by what they are.
        broken: a line about each file or folder that cannot be read.
    """

    models: list[Model] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def take(
    places: Sequence[Place], begin: Callable[[int], Callable[[], object]] = lambda _: lambda: None
) -> Inventory:
    """Reads the headers of all files in these places.

    Args:
        begin: called with their number, before the first is read; what it returns is called after
            each.
    """
    found = Inventory()

    def refused(error: OSError) -> None:
        found.broken.append(f"{error.filename}: {error.strerror or error}")

    candidates = _each_once(file for place in places for file in files(place, refused))
    step = begin(len(candidates))
    known: Arrays = {}
    vocabularies: dict[tuple[object, ...], tuple[int, Header]] = {}
    for file in candidates:
        try:
            if what := _by_name(file):
                found.left_out[what] += 1
                continue
            if first := _first_part(file.path):
                raise ModelFileError(f"{file.path}: {first.name} is missing: download it")
            header = checked_general(file.path, known)
            if what := _other_kind(header):
                found.left_out[what] += 1
                continue
            check_metadata(header)
            tokens = check_tokenizer_keys(header)
            own = replace(header, metadata=_of_tokenizer(header), tensors=())
            types = header.metadata.get("tokenizer.ggml.token_type")
            key = (
                header.metadata["tokenizer.ggml.model"],
                header.metadata.get("tokenizer.ggml.pre"),
                tokens.raw,
                b"" if types is None else types.tobytes(),
            )
            number, _ = vocabularies.setdefault(key, (len(vocabularies), own))
            found.models.append(_model(file, header, number))
        except ModelFileError as error:
            found.broken.append(str(error))
        finally:
            step()
    group = groups([header for _, header in vocabularies.values()])
    found.models = [replace(model, vocabulary=group[model.vocabulary]) for model in found.models]
    return found


def _each_once(files_: Iterable[Found]) -> list[Found]:
    """The files without further names of one that is there already, and without later parts."""
    found: dict[object, Found] = {}
    for file in files_:
        if (first := _first_part(file.path)) and first.is_file():
            continue
        try:
            at = file.path.stat()
            key: object = (at.st_dev, at.st_ino)
        except OSError:  # reading it will say why
            key = file.path
        if key not in found or (file.name and not found[key].name):
            found[key] = file
    return list(found.values())


def _first_part(path: Path) -> Path | None:
    """The file that a later part of a split model belongs to; None of any other file."""
    first = first_part(path.name)
    return None if first == path.name else path.with_name(first)


def _by_name(file: Found) -> str:
    if file.unfinished:
        return "unfinished download"
    name = file.path.name.lower()
    if "mmproj" in name:
        return "vision projector (mmproj)"
    return "embedding model" if any(word in name for word in _EMBEDDING) else ""


def _other_kind(header: Header) -> str:
    """What a file is that is no language model; empty where it is one."""
    arch, kind = header.architecture, header.metadata.get("general.type")
    pooling = header.metadata.get(f"{arch}.pooling_type")
    if header.is_adapter:
        return "LoRA adapter"
    if arch == "clip" or kind == "mmproj":
        return "vision projector (mmproj)"
    if arch in ENCODERS or (isinstance(pooling, int) and pooling > 0):
        return "embedding model"
    if kind == "imatrix":
        return "importance matrix"
    return "" if header.tensors else "vocabulary without weights"


def _of_tokenizer(header: Header) -> dict[str, Any]:
    items = header.metadata.items()
    return {k: v for k, v in items if k.startswith("tokenizer.") and k != _MERGES}


def _model(file: Found, header: Header, vocabulary: int) -> Model:
    def text(key: str) -> str:
        value = header.metadata.get(f"general.{key}")
        return value if isinstance(value, str) else ""

    own = file.name if file.path.name.startswith("sha256-") else name_without_type(header)
    parts = f"{text('basename')} {text('size_label')}" if text("basename") else ""
    return Model(
        path=file.path.absolute(),
        program=file.program,
        names=tuple(dict.fromkeys(filter(None, (own, text("name"), parts, file.name)))),
        finetune=text("finetune"),
        made_from=text("base_model.0.name"),
        shape=(
            *(header.architecture, header.n_layers, header.n_embd),
            *(header.n_ff, header.n_heads, header.n_heads_kv),
        ),
        parameters=sum(prod(tensor.shape) for tensor in header.tensors),
        type=main_type(header),
        nbytes=header.weight_bytes,
        has_template=header.chat_template is not None,
        vocabulary=vocabulary,
        tokens=header.n_vocab,
    )
