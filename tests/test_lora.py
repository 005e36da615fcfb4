"""LoRA adapters: one context's logits change, the weights are loaded once, nothing else notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import THREADS
from fuzzing.tiny_models import write_adapter as write_tiny_adapter
from numpy.typing import NDArray
from random_gguf import ALPHA, RANK, SHAPES, random_deltas, write_adapter
from typer.testing import CliRunner

import eftlocal
from eftlocal import Emulator, Recipe, Sampling
from eftlocal.cli.app import app
from eftlocal.cli.options import takes
from eftlocal.cli.selection import LoadingProgress, select
from eftlocal.errors import EftlocalError, ModelFileError
from eftlocal.gguf_file.header import read_header
from eftlocal.llama import Context, Model, Span
from eftlocal.presets.reading import user_path
from eftlocal.user_settings import Given

WIDTH, LAYERS = SHAPES["tiny"].n_embd, SHAPES["tiny"].n_layers
TOKENS = list(range(40, 60))


def logits(context: Context) -> NDArray[np.float32]:
    """(tokens, vocab) float32, from an empty cache."""
    context.clear(0)
    return context.decode([Span(0, TOKENS, len(TOKENS))]).copy()


def context(model: Model, *adapters: tuple[Path, float]) -> Context:
    return Context(model, n_ctx=64, n_threads=THREADS, adapters=adapters)


@pytest.fixture
def reference(tiny_files: dict[str, Path]) -> Path:
    return tiny_files["reference"]


@pytest.fixture
def model(reference: Path) -> Iterator[Model]:
    with Model(reference) as loaded:
        yield loaded


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter.gguf", random_deltas("tiny"))


@pytest.fixture
def zero(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "zero.gguf", random_deltas("tiny", size=0.0))


def test_the_file_is_known_as_an_adapter(adapter: Path) -> None:
    header = read_header(adapter)
    assert header.is_adapter and header.weight_bytes == LAYERS * 2 * RANK * WIDTH * 4


def test_a_zero_adapter_changes_no_bit(model: Model, zero: Path) -> None:
    with context(model) as plain, context(model, (zero, 1.0)) as adapted:
        np.testing.assert_array_equal(logits(adapted), logits(plain))


def test_an_adapter_changes_its_own_context_only(model: Model, adapter: Path) -> None:
    with context(model) as plain, context(model, (adapter, 1.0)) as adapted:
        before = logits(plain)
        changed = logits(adapted)
        assert np.isfinite(changed).all() and np.abs(changed - before).max() > 0.1
        np.testing.assert_array_equal(logits(plain), before)
    with context(model) as later:
        np.testing.assert_array_equal(logits(later), before)


def test_equals_the_merged_weights(model: Model, adapter: Path, tmp_path: Path) -> None:
    """W + scale * alpha / rank * B A, added up in a copy of the file."""
    scale = 0.5
    data = bytearray(model.path.read_bytes())
    tensors = {tensor.name: tensor for tensor in read_header(model.path).tensors}
    for i, (a, b) in enumerate(random_deltas("tiny")):
        at = tensors[f"blk.{i}.attn_q.weight"]
        weights = np.frombuffer(data, np.float16, WIDTH * WIDTH, at.offset).reshape(WIDTH, WIDTH)
        merged = weights + scale * ALPHA / RANK * (b @ a)
        data[at.offset : at.offset + at.nbytes] = merged.astype(np.float16).tobytes()
    file = tmp_path / "merged.gguf"
    file.write_bytes(data)
    with (
        Model(file) as other,
        context(other) as merged_context,
        context(model) as plain,
        context(model, (adapter, scale)) as adapted,
    ):
        expected, actual, unadapted = map(logits, (merged_context, adapted, plain))
    assert np.abs(actual - expected).max() < 0.01 * np.abs(unadapted - expected).max()


def test_contexts_share_one_loaded_adapter(model: Model, adapter: Path) -> None:
    with context(model, (adapter, 1.0)) as one, context(model, (adapter, 1.0)) as two:
        assert model.adapter(adapter) is model.adapter(str(adapter))
        np.testing.assert_array_equal(logits(one), logits(two))


def write_preset(files: dict[str, Path], lora: Path) -> None:
    """A user preset whose tuned role is the reference with an adapter."""
    user_path().parent.mkdir(parents=True)
    user_path().write_text(
        f"""
        [[preset]]
        name = "adapted"
        [preset.roles.base]
        file = '{files["base"]}'
        [preset.roles.reference]
        file = '{files["reference"]}'
        [preset.roles.tuned]
        of = "reference"
        lora = {{ file = '{lora}' }}
        """,
        encoding="utf-8",
    )


def test_weights_are_loaded_once(tiny_files: dict[str, Path], adapter: Path, model: Model) -> None:
    write_preset(tiny_files, adapter)
    with eftlocal.load("adapted", n_ctx=64, threads=THREADS) as em:
        assert em.models["tuned"] is em.models["reference"] is not em.models["base"]
        contexts = em.ensemble.contexts
        tuned, reference = logits(contexts["tuned"]), logits(contexts["reference"])
        answer = em.generate("Hello", max_tokens=4, sampling=Sampling(temperature=0.0))
        assert answer.text
    with context(model) as plain, context(model, (adapter, 1.0)) as adapted:
        np.testing.assert_array_equal(reference, logits(plain))
        np.testing.assert_array_equal(tuned, logits(adapted))


def trio(files: dict[str, Path], *adapters: object) -> list[str]:
    """Options of a trio whose tuned model is the reference with an adapter."""
    given = [f"--base={files['base']}", f"--reference={files['reference']}", "--recipe=upscale"]
    return [*given, *(f"--adapter={adapter}" for adapter in adapters)]


def load(*options: str) -> eftlocal.Emulator:
    """What `eftlocal run` loads with these options."""
    found: list[eftlocal.Emulator] = []

    @takes("models", "recipe", "length", "prompt", "engine")
    def verb(*, given: Given) -> None:
        found.append(select(given).load(LoadingProgress()))

    one = typer.Typer()
    one.command()(verb)
    options = ("--n-ctx=64", f"--threads={THREADS}", *options)
    result = CliRunner().invoke(one, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def test_a_role_with_an_adapter_only_is_the_reference_with_it(
    tiny_files: dict[str, Path], adapter: Path, model: Model
) -> None:
    options = trio(tiny_files, f"tuned={adapter}:0.5", f"warm={adapter}", f"base={adapter}:-1")
    with load(*options) as em:
        assert em.roles == ("base", "tuned", "reference", "warm")
        assert em.models["tuned"] is em.models["reference"] is em.models["warm"]
        found = {role: logits(c) for role, c in em.ensemble.contexts.items()}
        prompts = {tuple(ids) for ids in em.tokenize("Hello").values()}
    for role, scale in {"tuned": 0.5, "warm": 1.0, "reference": None}.items():
        with context(model, *([(adapter, scale)] if scale is not None else [])) as one:
            np.testing.assert_array_equal(found[role], logits(one))
    assert len(prompts) == 1
    files = {role: tiny_files[role] for role in ("base", "reference")}
    adapters = {"tuned": (adapter, 0.5), "warm": str(adapter), "base": (adapter, -1)}
    with Emulator.from_files(**files, adapters=adapters, n_ctx=64, threads=THREADS) as em:
        again = {role: logits(c) for role, c in em.ensemble.contexts.items()}
    for role, rows in found.items():
        np.testing.assert_array_equal(again[role], rows)
    with load(*trio(tiny_files, f"tuned={adapter}"), f"--tuned={tiny_files['tuned']}") as em:
        assert em.models["tuned"] is not em.models["reference"]


def test_steering_a_tuned_base_is_warned_of_where_the_reference_is_none(
    tiny_files: dict[str, Path], adapter: Path, tmp_path: Path
) -> None:
    steer = ["--recipe=steer", "--alpha=1"]
    with load(*trio(tiny_files, f"tuned={adapter}"), *steer) as em:
        assert not em.notes()
    bare = tmp_path / "bare.gguf"
    data = tiny_files["reference"].read_bytes()
    bare.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_nothing!"))
    options = trio({**tiny_files, "reference": bare}, f"tuned={adapter}")
    with load(*options, *steer, "--chat-template=chatml") as em:
        assert "may be tuned already" in "".join(em.notes())
        assert not em.notes(Recipe.upscale())


REFUSED = {
    "tuned=nowhere.gguf": "nowhere.gguf: no such file",
    "tuned={zero}:1000": "the scale is 1000; it must be a number from -100 to 100",
    "tuned={zero} tuned={zero}": "--adapter: tuned is given twice; leave one out",
    "tuned": "--adapter tuned: give a role and its value",
    "tuned={model}": "not a LoRA adapter, so it cannot be put on tuned",
    "tuned={peft}": "{peft}: an adapter as PEFT saves it; `eftlocal models adapter {peft} OUT.gguf",
    "tuned={wide}": "do not fit the tensor blk.0.attn_q.weight",
    "tuned={qwen2}": "is an adapter for qwen2, and reference.gguf is of the architecture llama",
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_no_adapter_of_a_role_is_one_line(
    said: str, tiny_files: dict[str, Path], zero: Path, tmp_path: Path
) -> None:
    matrices = {"blk.0.attn_q.weight": (WIDTH, WIDTH)}
    write_tiny_adapter(tmp_path / "qwen2", "qwen2", matrices)
    write_adapter(tmp_path / "wide", random_deltas("tiny", width=2 * WIDTH))
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}", encoding="utf-8")
    places = {name: tmp_path / name for name in ("peft", "wide", "qwen2")}
    places |= {"zero": zero, "model": tiny_files["base"]}
    for verb in ("run", "models check"):
        options = trio(tiny_files, *said.format(**places).split())
        if verb != "run":
            options.remove("--recipe=upscale")
        line = CliRunner().invoke(app, [*verb.split(), *options], input="Hello").output
        assert REFUSED[said].format(**places) in line and line.count("\n") == 1, line


def test_with_a_zero_adapter_upscaling_is_the_base(tiny_files: dict[str, Path], zero: Path) -> None:
    write_preset(tiny_files, zero)
    with eftlocal.load("adapted", n_ctx=64, threads=THREADS) as em:
        combined = em.logprobs("Hello there", recipe=Recipe.upscale())
        np.testing.assert_allclose(combined.logprobs, combined.roles["base"], atol=1e-5)


@pytest.mark.parametrize("case", ["model", "text", "missing", "other width"])
def test_no_adapter_is_refused(
    model: Model, tiny_files: dict[str, Path], tmp_path: Path, case: str
) -> None:
    """By a context, and of a preset."""
    file = tmp_path / f"{case}.gguf"
    if case == "model":
        file = model.path
    elif case == "text":
        file.write_text("not a model")
    elif case == "other width":
        write_adapter(file, random_deltas("tiny", width=2 * WIDTH))
    with context(model) as plain:
        before = logits(plain)
        with pytest.raises(ModelFileError) as caught:
            context(model, (file, 1.0))
        np.testing.assert_array_equal(logits(plain), before)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and "\n" not in message
    assert "it gave no reason" not in message  # llama.cpp always says why
    write_preset(tiny_files, file)
    with pytest.raises(EftlocalError) as refused:
        eftlocal.load("adapted", n_ctx=64, threads=THREADS)
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
