"""Models and contexts on real files: rows, sequences, rewinding, and what is refused."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eftlocal import llama
from eftlocal.errors import EngineError, ModelFileError, UsageError
from eftlocal.llama import Context, Model, Span
from eftlocal.llama.engine import llama_cpp
from eftlocal.native import SignalsLater

TEXT = "The cat sat on the mat and looked at the moon, which was full."


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model(smollm2) as opened:
        yield opened


def context(model: Model, **changes: object) -> Context:
    settings = {"n_ctx": 256, "n_batch": 64, "n_threads": 1} | changes
    return Context(model, **settings)  # type: ignore[arg-type]


def test_text_survives_tokenizing(model: Model) -> None:
    for text in (TEXT, "naïve 東京 🙂\n\ttabs", ""):
        ids = model.tokenize(text)
        assert b"".join(model.piece(t) for t in ids).decode() == text


def test_special_tokens_are_parsed_only_when_asked(model: Model) -> None:
    assert model.tokenize("<|im_end|>", parse_special=True) == [2]
    assert len(model.tokenize("<|im_end|>")) > 1
    assert model.piece(2) == b"" and model.piece(2, special=True) == b"<|im_end|>"
    assert 2 in model.end_tokens(model.special_tokens())


def test_rows_are_a_view_of_the_engines_memory(model: Model) -> None:
    ids = model.tokenize(TEXT)
    with context(model) as one:
        rows = one.decode([Span(0, ids, 3)])
        assert rows.shape == (3, model.vocab_size) and rows.dtype == np.float32
        assert not rows.flags.owndata
        own = llama_cpp.llama_get_logits_ith(one.handle, len(ids) - 1)
        assert (
            np.ctypeslib.as_array(own, shape=(model.vocab_size,)).ctypes.data == rows[2].ctypes.data
        )


def test_rewinding_gives_the_same_row_again(model: Model) -> None:
    ids = model.tokenize(TEXT)
    with context(model) as one:
        one.decode([Span(0, ids[:-1], 0)])
        first = one.decode([Span(0, ids[-1:])]).copy()
        one.decode([Span(0, [5, 6, 7])])
        one.rewind(0, len(ids) - 1)
        assert list(one.tokens(0)) == ids[:-1]
        assert np.array_equal(one.decode([Span(0, ids[-1:])]), first)
        with pytest.raises(EngineError, match="it holds fewer"):
            one.rewind(0, 999)


def test_sequences_side_by_side_do_not_mix(model: Model) -> None:
    first, second = model.tokenize(TEXT), model.tokenize("In the year 1066, William")
    with context(model, n_seq_max=2) as both, context(model) as alone:
        both.decode([Span(0, first[:-1], 0), Span(1, second[:-1], 0)])
        rows = both.decode([Span(0, first[-1:]), Span(1, second[-1:])]).copy()
        for row, ids in zip(rows, (first, second), strict=True):
            alone.clear(0)
            alone.decode([Span(0, ids[:-1], 0)])
            own = alone.decode([Span(0, ids[-1:])])[0]
            distance = np.abs(np.exp(row - row.max()) - np.exp(own - own.max())).max()
            assert distance < 0.2 and row.argmax() == own.argmax()


def test_overflow_is_refused_with_the_numbers_and_changes_nothing(model: Model) -> None:
    with context(model) as one:
        one.decode([Span(0, [1, 2, 3])])
        for _ in range(3):
            one.decode([Span(0, list(range(64)), 0)])
        with pytest.raises(EngineError, match="259 tokens do not fit n_ctx = 256"):
            one.decode([Span(0, list(range(64)))])
        assert len(one.tokens(0)) == 195
        with pytest.raises(EngineError, match="a batch holds 1 to 64 tokens, not 65"):
            one.clear(0)
            one.decode([Span(0, [1] * 65)])
        with pytest.raises(EngineError, match="not 0"):
            one.decode([Span(0, [])])


def test_an_interrupted_decode_leaves_the_sequence_as_it_was(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = model.tokenize(TEXT)
    with context(model) as one, context(model) as undisturbed:
        one.decode([Span(0, ids[:5], 0)])
        real = llama_cpp.llama_decode

        def interrupted(*arguments: object) -> int:
            real(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(llama_cpp, "llama_decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.decode([Span(0, [7, 8, 9])])
        monkeypatch.setattr(llama_cpp, "llama_decode", real)
        assert list(one.tokens(0)) == ids[:5]
        undisturbed.decode([Span(0, ids[:5], 0)])
        ours, theirs = (c.decode([Span(0, ids[5:])]) for c in (one, undisturbed))
        assert np.array_equal(ours, theirs)


def test_a_check_ends_the_decode_of_a_prompt_and_nothing_is_lost(model: Model) -> None:
    ids = model.tokenize(TEXT * 20)[:200]
    with context(model, n_batch=256) as one:
        fresh = one.decode([Span(0, ids)]).copy()
        one.clear(0)
        one.decode([Span(0, ids[:4])])
        for allowed in (0, 1, 30):
            asked = iter(range(allowed))
            with pytest.raises(StopIteration):
                one.decode([Span(0, ids[4:])], partial(next, asked))
            assert next(asked, "all used") == "all used"
            assert list(one.tokens(0)) == ids[:4]
        called: list[int] = []
        one.clear(0)
        assert np.array_equal(one.decode([Span(0, ids)], lambda: called.append(1)), fresh)
        assert len(called) > 50
        called.clear()
        one.decode([Span(0, ids[:3])], lambda: called.append(1))
        assert not called  # a step of a few tokens is not watched: that would slow it


def test_ctrl_c_in_the_middle_of_a_prompt(model: Model) -> None:
    """A signal that comes while native code runs is seen by the callback's first bytecode."""
    ids = model.tokenize(TEXT * 20)[:200]
    called: list[int] = []

    def interrupt() -> None:
        while len(called) < 10:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    with context(model, n_batch=256) as one:
        fresh = one.decode([Span(0, ids)]).copy()
        for _ in range(10):
            called.clear()
            sender = threading.Thread(target=interrupt)
            sender.start()
            with pytest.raises(KeyboardInterrupt):
                for _ in range(100):  # until it comes
                    one.clear(0)
                    one.decode([Span(0, ids)], lambda: called.append(1))
            sender.join()
        one.clear(0)
        assert np.array_equal(one.decode([Span(0, ids)]), fresh)


def test_signals_wait_for_native_code_and_none_is_lost() -> None:
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), SignalsLater() as later:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not noted
            later.deliver()
            assert noted == [signal.SIGTERM]
            os.kill(os.getpid(), signal.SIGINT)
            noted.append(0)  # nothing is raised yet
        assert noted == [signal.SIGTERM, 0]
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGTERM, 0, signal.SIGTERM]  # the handlers are back
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_raises_nothing_ends_nothing(model: Model) -> None:
    ids = model.tokenize(TEXT * 20)[:200]
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    called: list[int] = []

    def check() -> None:
        called.append(1)
        if len(called) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with context(model, n_batch=256) as one:
            one.decode([Span(0, ids)], check)
            assert len(one.tokens(0)) == len(ids) and noted == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_failing_decode_says_so_and_restores(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with context(model) as one:
        one.decode([Span(0, [1, 2], 0)])
        monkeypatch.setattr(llama_cpp, "llama_decode", lambda *_: -3)
        with pytest.raises(EngineError, match="llama_decode returned -3"):
            one.decode([Span(0, [3])])
        assert list(one.tokens(0)) == [1, 2]


def test_a_closed_context_and_model_say_so(smollm2: Path) -> None:
    opened = Model(smollm2)
    one = context(opened)
    one.close()
    one.close()
    with pytest.raises(EngineError, match="is closed"):
        one.decode([Span(0, [1])])
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match="is closed"):
        _ = opened.description


def test_what_cannot_be_loaded(tmp_path: Path, model: Model) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        Model(tmp_path / "none.gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF but no more")
    with pytest.raises(ModelFileError, match=r"other\.gguf: llama\.cpp cannot load it"):
        Model(other)
    with pytest.raises(UsageError, match="KV cache type 'q9' is not known; use one of f32"):
        context(model, cache_type_k="q9")
    with pytest.raises(UsageError, match="flash attention 'maybe'"):
        context(model, flash_attention="maybe")


@pytest.mark.parametrize("kind", ["q8_0", "bf16", "f32"])
def test_cache_types(model: Model, kind: str) -> None:
    ids = model.tokenize(TEXT)
    with context(model, cache_type_k=kind, cache_type_v=kind, flash_attention="on") as one:
        assert np.isfinite(one.decode([Span(0, ids)])).all()


def test_the_engines_log_is_silent(smollm2: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Model(smollm2) as opened, context(opened) as one:
        one.decode([Span(0, [1])])
    assert capfd.readouterr() == ("", "")


def test_recurrent_models_are_not_rewound(
    tiny_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp tells which models are recurrent; none is small enough to ship here."""
    monkeypatch.setattr(llama_cpp, "llama_model_is_recurrent", lambda _: True)
    with Model(tiny_files["base"]) as model, context(model) as one:
        one.decode([Span(0, [1, 2, 3])])
        assert not one.can_rewind(0, 2)
        assert one.can_rewind(0, 0)
        with pytest.raises(EngineError, match="recurrent or hybrid: it cannot drop"):
            one.rewind(0, 2)


def test_devices_and_build() -> None:
    cpu = [device for device in llama.devices() if device.kind == "cpu"]
    assert len(cpu) == 1 and cpu[0].memory_total > 0 and cpu[0].backend == "CPU"
    assert "CPU" in llama.backends()
    assert "CPU" in llama.system_info()
    assert llama.default_threads() >= 1


def test_a_device_that_is_not_there_is_named(tiny_files: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match="has no device Vulkan7; `eftlocal doctor`"):
        Model(tiny_files["base"], gpu_layers=-1, devices=["Vulkan7"])


class _Interrupting(logging.Handler):
    """A Ctrl-C that comes once while llama.cpp logs."""

    armed = True

    def emit(self, record: logging.LogRecord) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt


def test_an_interrupt_while_llama_cpp_logs_is_not_lost(tiny_files: dict[str, Path]) -> None:
    log, handler = logging.getLogger("eftlocal.llama"), _Interrupting()
    before = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Model(tiny_files["base"])
        with Model(tiny_files["base"]) as model:
            handler.armed = True
            with pytest.raises(KeyboardInterrupt):
                Context(model, n_ctx=64)
            with Context(model, n_ctx=64) as context:
                assert context.n_ctx >= 64
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
