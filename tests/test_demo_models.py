"""The shipped demo models: one vocabulary, the trainer's own tokenization, a template, a size."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from gguf import GGUFReader

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "eftlocal" / "demo"
EXPECTED = ROOT / "scripts" / "train_demo" / "tokenization.json"
ROLES = ("base", "reference", "tuned")
FILES = (*ROLES, "plain", "large_tuned")


def metadata(name: str) -> dict[str, Any]:
    """Every field of a file's header, by key."""
    reader = GGUFReader(DEMO / f"{name}.gguf")
    return {key: field.contents() for key, field in reader.fields.items()}


@pytest.fixture(scope="module")
def headers() -> dict[str, dict[str, Any]]:
    return {name: metadata(name) for name in FILES}


@pytest.fixture(scope="module")
def vocabulary() -> Any:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(DEMO / "base.gguf").encode(), params)
    assert model
    yield llama_cpp.llama_model_get_vocab(model)
    llama_cpp.llama_model_free(model)


def tokenize(vocabulary: Any, text: str) -> list[int]:
    """llama.cpp's ids of a text, special tokens parsed, with whatever it adds by itself."""
    data = text.encode()
    room = (ctypes.c_int32 * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), room, len(room), True, True)
    assert count >= 0
    return list(room[:count])


EXAMPLES: list[dict[str, Any]] = json.loads(EXPECTED.read_text("utf-8"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: ascii(e["text"])[:24])
def test_llama_cpp_tokenizes_as_the_trainer_did(example: dict[str, Any], vocabulary: Any) -> None:
    assert tokenize(vocabulary, example["text"]) == example["ids"]


def test_recorded_ids_come_from_the_recorded_tokenizer() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(EXPECTED.with_name("tokenizer.json")))
    for example in EXAMPLES:
        assert tokenizer.encode(example["text"]).ids == example["ids"]


def test_examples_cover_what_tokenizers_differ_on() -> None:
    text = "".join(e["text"] for e in EXAMPLES)
    assert any(c.isdigit() for c in text) and "\n" in text and "é" in text and "🙂" in text


@pytest.mark.parametrize("key", ["tokens", "merges", "pre", "model", "eos_token_id"])
def test_all_files_share_one_vocabulary(key: str, headers: dict[str, dict[str, Any]]) -> None:
    first = headers["base"][f"tokenizer.ggml.{key}"]
    assert all(headers[name][f"tokenizer.ggml.{key}"] == first for name in FILES)


def test_only_the_tuned_files_carry_a_chat_template(headers: dict[str, dict[str, Any]]) -> None:
    having = {name for name in FILES if "tokenizer.chat_template" in headers[name]}
    assert having == {"tuned", "plain", "large_tuned"}


def test_template_writes_plain_markers(headers: dict[str, dict[str, Any]]) -> None:
    jinja = pytest.importorskip("jinja2.sandbox").ImmutableSandboxedEnvironment()
    template = jinja.from_string(headers["tuned"]["tokenizer.chat_template"])
    talk = [
        {"role": "user", "content": "Where is Lyon?"},
        {"role": "assistant", "content": "In France."},
        {"role": "user", "content": "And Oslo?"},
    ]
    text = template.render(messages=talk, eos_token="<|end|>", add_generation_prompt=True)
    assert text == (
        "Question: Where is Lyon?\nAnswer: In France.<|end|>Question: And Oslo?\nAnswer:"
    )


def test_base_is_larger_than_the_small_pair_of_one_shape(
    headers: dict[str, dict[str, Any]],
) -> None:
    def shape(name: str) -> tuple[int, int]:
        header = headers[name]
        return header["llama.block_count"], header["llama.embedding_length"]

    assert shape("reference") == shape("tuned") == shape("plain")
    assert shape("base")[1] > shape("tuned")[1]


def test_questions_of_both_splits_share_no_subject() -> None:
    rows = json.loads((DEMO / "questions.json").read_text("utf-8"))["questions"]
    subjects = {
        split: {row["fields"]["s"] for row in rows if row["split"] == split}
        for split in ("validation", "test")
    }
    assert len(subjects["test"]) >= 1000
    assert not subjects["validation"] & subjects["test"]


def test_files_fit_in_the_wheel() -> None:
    assert sum((DEMO / f"{name}.gguf").stat().st_size for name in FILES) < 16_000_000
