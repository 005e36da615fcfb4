"""Tokenizers of pairs: llama.cpp cuts every text as the trainer does, and no byte is lost."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.llama import Model

pytest.importorskip("tokenizers")
pytest.importorskip("torch", reason="for training: pip install 'eftlocal[tune]'")

FOLDER = Path(__file__).parents[1] / "scripts" / "train_demo"
SIZE = 480
WORDS = ["</s>", "<|end|>", "Answer:", "The", "answer", "is", "Canada,", "12345", "don't", "(or)!?"]
PIECES = st.sampled_from([*WORDS, *(" " + word for word in WORDS), "\n", "\r\n", "  ", "\t"])
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join)


@pytest.fixture(scope="module")
def trainer() -> Iterator[dict[str, Any]]:
    """The modules of the training by name; they import each other by bare names."""
    sys.path.insert(0, str(FOLDER))
    before = set(sys.modules)
    try:
        yield {name: importlib.import_module(name) for name in ("export", "model", "vocabularies")}
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
                del sys.modules[name]


@pytest.fixture(scope="module", params=["gpt-2", "qwen2", "superbpe", None])
def trained(
    request: pytest.FixtureRequest,
    trainer: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Any, Model, bool]]:
    """A tokenizer trained here, the same as llama.cpp has it, and whether it is bytewise."""
    pre = request.param
    text = (FOLDER / "README.md").read_text("utf-8")
    tokenizer = trainer["vocabularies"].Vocabulary(SIZE, pre).train(text.split("\n\n"))
    tokenizer.encode_special_tokens = True  # "</s>" in a text is text
    sizes = trainer["model"].ModelConfig(layers=1, dim=32, heads=1, ffn=32, vocab=SIZE)
    path = tmp_path_factory.mktemp("pair") / "model.gguf"
    trainer["export"].write(path, trainer["model"].Llama(sizes), tokenizer, pre, "", chat=False)
    with Model(path, vocab_only=True) as model:
        yield tokenizer, model, pre is not None


def test_llama_cpp_cuts_as_the_trainer(trained: tuple[Any, Model, bool]) -> None:
    tokenizer, model, bytewise = trained

    @given(TEXTS)
    def holds(text: str) -> None:
        ids = model.tokenize(text, continues=True)
        assert ids == tokenizer.encode(text).ids
        shown = text if bytewise else text.replace("▁", " ")
        assert b"".join(model.piece(token) for token in ids) == shown.encode()

    holds()


def test_the_vocabulary_is_full_and_ends_by_one_token(trained: tuple[Any, Model, bool]) -> None:
    tokenizer, model, bytewise = trained
    assert tokenizer.get_vocab_size() == model.vocab_size == SIZE
    assert model.end_tokens(range(SIZE)) == {0}
    assert model.control_texts == ({"<|end|>"} if bytewise else {"</s>", "<unk>"})
    assert any(len(model.piece(token)) > 3 for token in range(SIZE))


def test_tokens_reach_over_words_where_nothing_parts_them(trainer: dict[str, Any]) -> None:
    found = {}
    for pre in ("gpt-2", "qwen2", "superbpe", None):
        tokenizer = trainer["vocabularies"].Vocabulary(SIZE, pre).train(["The answer is"] * 9)
        found[pre] = len(tokenizer.encode("The answer is").ids)
    assert found == {"gpt-2": 3, "qwen2": 3, "superbpe": 1, None: 3}
