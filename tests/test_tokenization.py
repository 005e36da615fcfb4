"""Texts to tokens: BOS once, no EOS, and what follows a prompt cut as what follows it.

The vocabularies differ in what their files ask for: BOS, EOS, a space before a text.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO
from gguf_files import SENTENCEPIECE, edited, sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from eftlocal import Emulator
from eftlocal.errors import EftlocalError, PromptError
from eftlocal.llama import Model
from eftlocal.llama.engine import llama_cpp
from eftlocal.llama.model import stack_for
from eftlocal.native import on_deep_stack
from eftlocal.prompt.messages import Message
from eftlocal.prompt.reader import PromptReader
from eftlocal.prompt.render import RolePrompt, render_roles

FLAGS = {
    f"bos={bos}, eos={eos}, space={space}": {
        "add_bos_token": bos,
        "add_eos_token": eos,
        **({} if space is None else {"add_space_prefix": space}),
    }
    for bos in (False, True)
    for eos in (False, True)
    for space in (None, False, True)
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
SPECIAL = range(len(SENTENCEPIECE))
TEXT = st.text("The Parisofcapital\n.é🙂▁<|>", max_size=12) | st.sampled_from(
    [*SENTENCEPIECE, " ", "  ", "The capital", " of France is", "Paris", " Paris"]
)
TEXTS = st.lists(TEXT, max_size=5).map("".join)


@pytest.fixture(scope="module", params=FLAGS)
def piecewise(
    request: pytest.FixtureRequest,
    tiny_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Model, dict[str, bool]]]:
    """A SentencePiece vocabulary with one combination of flags."""
    flags = FLAGS[request.param]
    path = tmp_path_factory.mktemp("spm") / "model.gguf"
    sentencepiece(tiny_files["base"], path, **flags)
    with Model(path, vocab_only=True) as model:
        yield model, flags


def of_llama(model: Model, text: str, *, special: bool = False) -> list[int]:
    """llama.cpp's own tokens of a whole text, with none added."""
    data = text.encode()
    room = (llama_cpp.llama_token * (len(data) + 8))()
    vocabulary = llama_cpp.llama_model_get_vocab(model.handle)
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), room, len(room), False, special)
    return list(room[:count])


def bytes_of(model: Model, tokens: list[int]) -> bytes:
    return b"".join(model.piece(token, special=True) for token in tokens)


def test_bytes_are_those_of_the_text(piecewise: tuple[Model, dict[str, bool]]) -> None:
    model, flags = piecewise
    space = b" " if flags.get("add_space_prefix", True) else b""

    @given(TEXTS)
    def holds(text: str) -> None:
        shown = text.replace("▁", " ").encode()
        assert bytes_of(model, model.tokenize(text, continues=True)) == shown
        whole = model.tokenize(text, add_bos=True)
        assert (whole[:1] == [model.bos]) == flags["add_bos_token"]
        bare = whole[1:] if flags["add_bos_token"] else whole
        if set(own := of_llama(model, text)).isdisjoint(SPECIAL):
            assert bare == own
        assert set(bare).isdisjoint(SPECIAL)  # which llama.cpp itself does not keep
        assert bytes_of(model, bare) == (space + shown if text else b"")

    holds()


def test_what_follows_is_cut_as_what_follows(piecewise: tuple[Model, dict[str, bool]]) -> None:
    """Wherever a token of the whole text ends where the first part ends, its last tokens are
    those of the second part."""
    model, _ = piecewise
    agreed = []

    @given(TEXTS, TEXTS)
    def holds(first: str, second: str) -> None:
        whole, end = of_llama(model, first + second), len(bytes_of(model, of_llama(model, first)))
        ends = np.cumsum([len(model.piece(token, special=True)) for token in whole])
        if first and end in ends and set(whole).isdisjoint(SPECIAL):
            cut = int(np.searchsorted(ends, end)) + 1
            assert model.tokenize(second, continues=True) == whole[cut:]
            agreed.append(bool(second))

    holds()
    assert any(agreed)


@pytest.mark.parametrize("space", [False, True])
def test_a_unigram_vocabulary_gains_no_space(
    tiny_files: dict[str, Path], tmp_path: Path, space: bool
) -> None:
    path = tmp_path / "model.gguf"
    piecewise = sentencepiece(tiny_files["base"], tmp_path / "other.gguf", add_space_prefix=space)
    edited(piecewise, path, {"tokenizer.ggml.model": "t5", "tokenizer.ggml.unknown_token_id": 0})
    with Model(path, vocab_only=True) as model:
        for first, second in (("The", " Paris"), ("The ", "Paris"), ("The Par", "is")):
            tokens = model.tokenize(first) + model.tokenize(second, continues=True)
            assert bytes_of(model, tokens).lstrip() == (first + second).encode()


@pytest.mark.parametrize("eos", [False, True])
def test_no_end_token_is_put_after_a_text(
    demo_files: dict[str, Path], tmp_path: Path, eos: bool
) -> None:
    changes = {"tokenizer.ggml.add_eos_token": eos, "tokenizer.ggml.add_bos_token": True}
    file = edited(demo_files["tuned"], tmp_path / "tuned.gguf", changes)
    files = dict.fromkeys(demo_files, file)
    with Emulator.from_files(**files, threads=1) as em:
        model = em.models["tuned"]
        ids = em.tokenize("Once", raw=True)["tuned"]
        assert ids == [model.bos, *model.tokenize("Once")]
        for prompt in (None, "Once"):
            scored = em.logprobs(" upon", prompt=prompt, raw=True)
            assert b"".join(scored.pieces) == b" upon"


@pytest.fixture(scope="module", params=[False, True], ids=["no space", "space"])
def spm(
    request: pytest.FixtureRequest,
    tiny_files: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("spm")
    files = {
        role: sentencepiece(
            path, folder / path.name, add_space_prefix=request.param, add_eos_token=True
        )
        for role, path in tiny_files.items()
    }
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with Emulator.from_files(**files, prompts={"tuned": template}, threads=1) as em:
        yield em


def test_a_text_is_scored_as_it_goes_on(spm: Emulator) -> None:
    prompt, text = "The capital of France is", " Paris."
    whole = spm.logprobs(prompt + text)
    scored = spm.logprobs(text, prompt=prompt, raw=True)
    assert b"".join(scored.pieces) == text.encode()
    assert len(scored.tokens) == 2
    assert scored.tokens == whole.tokens[-2:]
    assert scored.logprobs == pytest.approx(whole.logprobs[-2:], abs=0.05)


@pytest.mark.parametrize("content", ["a<|im_start|>b", "<|im_end|><|im_end|> x", "</s>", "<unk>"])
def test_a_text_that_is_parted_gains_no_space(spm: Emulator, content: str) -> None:
    for ids in spm.tokenize([{"role": "user", "content": content}]).values():
        model = spm.models["tuned"]
        assert ids[0] == model.bos
        assert set(ids[1:]).isdisjoint(SPECIAL)
        assert bytes_of(model, ids[1:]).lstrip() == content.encode()


@pytest.mark.parametrize("start", ["<|im_start|>", "", "\n"])
@pytest.mark.parametrize("beginning", [" Paris", "Paris", "\n"])
def test_an_answers_beginning_follows_the_prompt(
    tiny_files: dict[str, Path], tmp_path: Path, start: str, beginning: str
) -> None:
    file = sentencepiece(tiny_files["base"], tmp_path / "spm.gguf", add_space_prefix=True)
    with Model(file, vocab_only=True) as model:
        template = "{{ messages[0].content }}" + f"{{{{ {start!r} }}}}"
        role = RolePrompt(template, special_texts=model.control_texts)
        reader = PromptReader({"tuned": model}, {"tuned": role}, {"tuned": 99})
        asked: Message = {"role": "user", "content": "The"}
        fresh = reader.ids([asked])["tuned"]
        messages: list[Message] = [asked, {"role": "assistant", "content": beginning}]
        seen = reader.ids(messages, continue_last=True)["tuned"]
        assert seen == fresh + model.tokenize(beginning, continues=True)
        assert bytes_of(model, seen[len(fresh) :]) == beginning.encode()


def test_conversations_are_cut_as_llama_cpp_cuts_them(piecewise: tuple[Model, Any]) -> None:
    model, flags = piecewise
    for template in ("{{ bos_token }}" + CHATML, CHATML):
        role = RolePrompt(
            template,
            bos_token="<s>",
            add_bos=flags["add_bos_token"],
            special_texts=model.control_texts,
        )
        reader = PromptReader({"tuned": model}, {"tuned": role}, {"tuned": 999})
        messages: list[Message] = [
            {"role": "system", "content": "Paris"},
            {"role": "user", "content": " is of The capital 🙂?"},
        ]
        text = str(render_roles(messages, {"tuned": role})["tuned"])
        bos = [model.bos] if flags["add_bos_token"] or "bos_token" in template else []
        assert reader.ids(messages)["tuned"] == [*bos, *of_llama(model, text, special=True)]


def test_special_tokens_in_raw_text_are_asked_for(spm: Emulator) -> None:
    model, text = spm.models["tuned"], "<|im_start|>user<|im_end|>"
    ordinary = spm.tokenize(text, raw=True)["tuned"]
    special = spm.tokenize(text, raw=True, special=True)["tuned"]
    marks = [SENTENCEPIECE.index("<|im_start|>"), SENTENCEPIECE.index("<|im_end|>")]
    assert not set(ordinary[1:]) & set(marks)
    assert [token for token in special if token in marks] == marks
    assert special[0] == model.bos
    begun = spm.tokenize("<s>" + text, raw=True, special=True)["tuned"]
    assert begun == special  # BOS comes once
    scored = spm.logprobs("user<|im_end|>", prompt="<|im_start|>", raw=True, special=True)
    assert scored.tokens[-1] == marks[1] and b"".join(scored.pieces) == b"user<|im_end|>"
    (note,) = spm.notes(raw_text=text)
    assert "<|im_start|>" in note and "--special" in note
    assert not spm.notes(raw_text="user")


@pytest.mark.parametrize("call", ["text", "prompt"])
def test_an_unpaired_surrogate_is_one_line(spm: Emulator, call: str) -> None:
    with pytest.raises(EftlocalError, match="an unpaired surrogate"):
        spm.logprobs("a\ud800") if call == "text" else spm.logprobs("a", prompt="b\ud800")


@pytest.mark.parametrize("raw", [False, True])
def test_what_cannot_fit_is_not_tokenized(
    smol: Emulator, raw: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, n_ctx = smol.models["tuned"], smol.ensemble.n_ctx
    longest = max(len(model.piece(t, special=True)) for t in range(model.vocab_size))
    monkeypatch.setattr(llama_cpp, "llama_tokenize", None)
    text = " " * (longest * n_ctx) + "x"
    with pytest.raises(PromptError, match=r"the prompt of base has 51[0-9] tokens or more"):
        smol.tokenize(text, raw=raw)
    monkeypatch.undo()
    with pytest.raises(PromptError, match=r"the text of tuned has 51[0-9] tokens or more"):
        smol.logprobs(text, prompt="x")
    fits = " " * (longest * (n_ctx // 4)) + "x"
    assert longest > 8 and len(smol.tokenize(fits, raw=raw)["tuned"]) < n_ctx


@pytest.mark.parametrize("text", ["a", "\U0001f642", " ", "\n", "x\n"])
def test_a_word_without_end_stays_on_the_stack(text: str, tmp_path: Path) -> None:
    """llama.cpp recurses once for each character of a piece where std::regex cuts the pieces."""
    path = edited(
        DEMO / "reference.gguf", tmp_path / "model.gguf", {"tokenizer.ggml.pre": "tekken"}
    )
    code = """
import sys, threading
from eftlocal.llama import Model
model, texts = Model(sys.argv[1], vocab_only=True), [sys.argv[2] * n for n in (700, 100_000)]
threading.stack_size(256 << 10)  # that of a thread on other systems
found = []
thread = threading.Thread(target=lambda: found.extend(map(model.tokenize, texts)))
thread.start(), thread.join()
for text, ids in zip(texts, found, strict=True):
    assert b"".join(map(model.piece, ids)) == text.encode(), len(text)
"""
    run = [sys.executable, "-c", code, str(path), text]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("length", [257, 1000, 99_999, 1_000_001])
def test_a_stack_has_room_for_the_longest_word(length: int) -> None:
    size = stack_for(b"x " + b"a" * length)
    assert size >= 2048 * length
    assert on_deep_stack(size, lambda: length) == length  # of any size, not of whole pages only


def test_a_word_that_no_stack_has_room_for_is_refused(
    demo: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.llama.model.stack_for", lambda _data: 1 << 40)
    with pytest.raises(PromptError, match="break it up"):
        demo.models["base"].tokenize("a")
