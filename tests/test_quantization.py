"""Types of weights: what a file would become, what llama.cpp makes of it, what is fastest here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil
import pytest
from random_gguf import write_random_model

from eftlocal import Emulator, Sampling, llama
from eftlocal.child_process import child_command
from eftlocal.disk import cache_folder
from eftlocal.errors import ModelFileError, UsageError
from eftlocal.gguf_file.check import checked_model
from eftlocal.llama.quantize import FILE_TYPES, quantized
from eftlocal.loading import requantize
from eftlocal.loading.requantize import Copy, check_space, write
from eftlocal.loading.weight_types import (
    bits,
    bytes_as,
    main_type,
    precision,
    relatives,
    weights_by_type,
)
from eftlocal.logits.recipe import Recipe
from eftlocal.presets.reading import load_presets
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.study import miniature
from eftlocal.study.divergence import TEXT, distributions, divergence
from eftlocal.study.miniature import Shape, curves, write_miniature
from eftlocal.study.quantization import Part, Rate, as_it_is, best, choices, parts_of

UP = Recipe.upscale()


@pytest.fixture
def tiny_base(tiny_files: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_files["base"], tmp_path / "big-F16.gguf"))


def made(source: Path, type_: str) -> Path:
    copy = Copy.of(checked_model(source), type_)
    write(copy, 1, lambda done: None)
    return copy.path


# What a file becomes ------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_1", "Q4_0", "MXFP4"])
def test_a_file_becomes_what_was_foretold(tiny_base: Path, type_: str) -> None:
    source = checked_model(tiny_base)
    copy = checked_model(made(tiny_base, type_))
    assert main_type(copy) == type_
    assert weights_by_type(copy) == weights_by_type(source, type_)
    assert abs(copy.file_size - bytes_as(source, type_)) < 4096
    output = next(tensor.type.name for tensor in copy.tensors if tensor.name == "token_embd.weight")
    assert output == ("Q8_0" if type_ == "Q8_0" else "Q6_K")  # tied: it is the output matrix too


def test_rows_that_no_block_divides_fall_back_as_llama_cpp_has_them(
    demo_files: dict[str, Path],
) -> None:
    source = demo_files["tuned"]  # 64 and 96 wide, untied
    copy = checked_model(made(source, "Q4_0"))
    assert weights_by_type(copy) == weights_by_type(checked_model(source), "Q4_0")
    with pytest.raises(ModelFileError, match="did not become Q4_K"):
        made(source, "Q4_K")
    assert not [*requantize.folder().glob("*.part")]


def test_the_demo_in_four_bits_answers(demo_files: dict[str, Path]) -> None:
    files = {role: made(path, "Q4_0") for role, path in demo_files.items()}
    with Emulator.from_files(**files, n_ctx=256, threads=1, trust=True) as emulator:
        answer = emulator.generate("In which country is Toulouse?", sampling=Sampling(0.0))
    assert "France" in answer.text


def test_smollm2_in_four_bits_still_knows(smollm2: Path) -> None:
    """From Q4_1, so it loses twice; some of what it knew is there all the same."""
    with llama.Model(made(smollm2, "Q4_0"), mapped=False) as model:
        for text, next_ in (("The opposite of hot is", b" cold"), ("One, two, three,", b" four")):
            tokens = model.tokenize(text)
            with llama.Context(model, n_ctx=64, n_threads=1) as context:
                row = context.decode([llama.Span(0, tokens)])[0]
                assert model.piece(int(row.argmax())) == next_


def test_the_parts_of_a_split_model_become_one_file(tmp_path: Path, tiny_base: Path) -> None:
    reader = gguf.GGUFReader(tiny_base)
    parts = split(reader, tmp_path / "big.gguf")
    source = checked_model(parts[0])
    assert len(source.files) == 2
    copy = checked_model(made(parts[0], "Q4_0"))
    assert len(copy.files) == 1
    assert "split.count" not in copy.metadata
    whole = checked_model(made(tiny_base, "Q4_0"))
    assert {t.name: t.shape for t in copy.tensors} == {t.name: t.shape for t in whole.tensors}
    assert copy.path.name.startswith("big-Q4_0-")


def split(reader: gguf.GGUFReader, path: Path) -> list[Path]:
    """A model in two parts."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=len(reader.tensors) // 2 + 1)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, *inner[-1:])
    for one in reader.tensors:
        writer.add_tensor(one.name, one.data, raw_dtype=one.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob("big-*-of-*.gguf"))


def test_a_mixture_counts_the_experts_that_are_used(tmp_path: Path) -> None:
    path = tmp_path / "moe.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {"block_count": 1, "embedding_length": 64, "expert_count": 8,
                       "expert_used_count": 2}.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((8, 32, 64), np.float16))
    writer.add_tensor("blk.0.ffn_gate_inp.weight", np.zeros((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    from eftlocal.gguf_file.header import read_header

    assert weights_by_type(read_header(path)) == {"F16": 2 * 32 * 64}


# What it is made from -----------------------------------------------------------------------------


def test_the_most_precise_file_of_the_same_model_is_the_source(tmp_path: Path) -> None:
    for name in ("big-Q4_K_M", "big.i1-Q4_0", "big_f16", "bigger-F16", "big-F16-notes"):
        type_ = "F16" if "16" in name else name[-4:].replace("_M", "").replace("4_K", "Q4_K")
        write_random_model(tmp_path / f"{name}.gguf", "tiny", "Q4_0" if "Q4_0" in name else
                           "Q4_K" if "Q4_K" in name else type_)  # fmt: skip
    (tmp_path / "big-Q8_0.gguf").write_bytes(b"no model")
    write_random_model(tmp_path / "big-Q6_K.gguf", "small", "Q8_0")  # of other widths
    found = relatives(checked_model(tmp_path / "big-Q4_K_M.gguf"))
    assert [header.path.name for header in found] == [
        "big_f16.gguf",
        "big-Q4_K_M.gguf",
        "big.i1-Q4_0.gguf",
    ]
    assert precision(found[0]) == 16.0


def test_a_name_without_a_type_has_no_relatives(demo_files: dict[str, Path]) -> None:
    """tuned.gguf and reference.gguf have the same shapes, and are not the same model."""
    header = checked_model(demo_files["tuned"])
    assert relatives(header) == [header]


def test_a_copy_that_is_there_is_not_made_again(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tiny_base, "Q4_0")
    monkeypatch.setattr(requantize, "_quantize", lambda *_: pytest.fail("it was made again"))
    assert made(tiny_base, "Q4_0") == path
    write_random_model(tiny_base, "tiny", "F16", seed=7)  # another model under the same name
    assert Copy.of(checked_model(tiny_base), "Q4_0").path != path


# What goes wrong ----------------------------------------------------------------------------------


def test_too_little_disk_is_refused_before_anything_is_written(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=66 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    copy = Copy.of(checked_model(tiny_base), "Q4_0")
    check_space([copy])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=64 << 20))
    with pytest.raises(UsageError, match=r"to write and only 67.1 MB free; make room, or set"):
        check_space([copy])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_a_disk_that_fills_up_leaves_nothing(tiny_base: Path) -> None:
    import resource

    requantize._child.close()  # the next one inherits the limit
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(ModelFileError, match="cannot write it as Q8_0"):
            made(tiny_base, "Q8_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        requantize._child.close()
    assert not [*requantize.folder().glob("*.gguf*[!k]")]
    assert made(tiny_base, "Q8_0").is_file()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A model that takes a while."""
    return write_random_model(tmp_path / "slow.gguf", "0.1b", "Q8_0")


def growing(part: Callable[[], Path | None]) -> Path:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (found := part()) is not None and found.stat().st_size > 0:
            return found
        time.sleep(0.05)
    pytest.fail("nothing was written")


def only_part() -> Path | None:
    return next(iter(requantize.folder().glob("*.part")), None)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_no_half_file_is_left_under_the_name(slow: Path, how: signal.Signals) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no such signals")
    code = (
        "import sys; from pathlib import Path; from eftlocal.gguf_file.check import checked_model; "
        "from eftlocal.loading.requantize import Copy, write; "
        "write(Copy.of(checked_model(Path(sys.argv[1])), 'IQ4_NL'), 1, print)"
    )
    root = child_command("x", ())[4]
    boot = f"import json, sys; sys.path[:] = json.loads({root!r}); {code}"
    with subprocess.Popen([sys.executable, "-c", boot, str(slow)], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        part = growing(only_part)
        children = psutil.Process(process.pid).children()
        process.send_signal(how)
        process.wait(30)
    psutil.wait_procs(children, 20)
    assert children
    assert not any(child.is_running() for child in children)
    assert part.exists() == (how == signal.SIGKILL)  # nobody was left to remove it
    assert not [*requantize.folder().glob("*.gguf")]


def test_a_child_that_dies_is_one_line_and_the_next_goes_on(slow: Path, tiny_base: Path) -> None:
    def kill() -> None:
        growing(only_part)
        assert requantize._child.pid is not None
        os.kill(requantize._child.pid, signal.SIGTERM)

    requantize._child.close()  # one that was there would be replaced, once
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ModelFileError, match=r"slow.gguf: llama.cpp's quantizer died"):
        made(slow, "IQ4_NL")
    killer.join()
    assert only_part() is None
    assert made(tiny_base, "Q4_0").is_file()


# What is fastest ----------------------------------------------------------------------------------


def test_rows_are_stored_as_gguf_stores_them() -> None:
    values = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    for name in FILE_TYPES:
        kind = gguf.GGMLQuantizationType[name]
        rows = np.frombuffer(quantized(values, name), np.uint8).reshape(4, -1)
        back = gguf.quants.dequantize(rows, kind)
        assert np.abs(back - values).mean() < max(0.002, 0.3 / 2 ** (bits(name) - 4))


def test_a_miniature_has_the_shape_and_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miniature, "_MINIATURE", 1)
    shape = Shape(n_embd=256, n_ff=512, n_heads=4, n_heads_kv=2, head=32, n_layers=5)
    weights = write_miniature(tmp_path / "m.gguf", shape, "IQ4_NL")
    header = checked_model(tmp_path / "m.gguf")
    assert header.n_layers == 1
    assert Shape.of(header) == Shape(256, 512, 4, 2, 32, n_layers=1)
    assert sum(weights_by_type(header).values()) == weights
    assert not shape.allows("Q4_K")  # rows of 128 in the attention's output
    (cache_folder() / "miniature.gguf").write_bytes(b"what a kill left")
    found = curves(shape, ["Q4_0", "Q8_0"], threads=1)
    assert all(second > 0 for curve in found.values() for second in curve.seconds)
    monkeypatch.setattr(miniature, "measure", lambda *_: pytest.fail("it was measured again"))
    assert not [*cache_folder().glob("*.gguf")]
    again = curves(shape, ["Q8_0"], threads=1)
    assert again["Q8_0"].seconds == found["Q8_0"].seconds
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        curves(shape, ["Q8_0"], threads=1, again=True)


# Measured on a 1B, on two cores with AVX-512: ms of one row, and of more rows over that.
ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
MEASURED = {
    "Q4_0": (17.4, 1.82, 2.55, 1.88, 2.66, 3.39, 3.38, 4.64, 4.70),
    "IQ4_NL": (18.0, 1.85, 2.53, 1.69, 2.64, 3.36, 3.25, 4.55, 4.63),
    "MXFP4": (18.3, 1.88, 2.74, 1.84, 2.64, 3.59, 3.28, 4.73, 4.60),
    "Q4_K": (16.1, 1.82, 2.49, 3.07, 3.81, 4.46, 4.99, 7.15, 6.53),
    "Q6_K": (27.3, 2.05, 2.56, 2.53, 3.03, 3.77, 4.67, 4.74, 4.89),
    "Q8_0": (30.2, 2.86, 3.37, 3.77, 5.16, 5.73, 4.12, 5.21, 6.29),
}
AVX512 = {
    name: Curve({1: one / 1000, **{n: one * m / 1000 for n, m in zip(ROWS[1:], more, strict=True)}})
    for name, (one, *more) in MEASURED.items()
}


@pytest.fixture
def presets_types(tmp_path: Path) -> list[Part]:
    """What presets ship: a base in Q4_K, and a pair of another shape in Q8_0."""
    written = {"base": ("small", "Q4_K"), "tuned": ("tiny", "Q8_0"), "reference": ("tiny", "Q8_0")}
    headers = {
        role: checked_model(write_random_model(tmp_path / role, *what))
        for role, what in written.items()
    }
    return parts_of(load_presets()["demo"], headers, headers, {})


def all_shapes(of: list[Part]) -> dict[Shape, dict[str, Curve]]:
    return {Shape.of(header): AVX512 for part in of for header in part.headers.values()}


def test_on_avx512_all_roles_go_to_four_bits_that_are_multiplied_in_blocks(
    presets_types: list[Part],
) -> None:
    found = choices(presets_types, all_shapes(presets_types), UP, 0.8)
    now = as_it_is(presets_types, all_shapes(presets_types), UP, 0.8)
    chosen = best(found)
    assert set(chosen.types.values()) <= {"IQ4_NL", "Q4_0", "MXFP4"}
    assert chosen.rate.best > 1.4 * now.rate.best
    assert now.types == dict.fromkeys(chosen.types)


def test_copies_have_no_more_bits_than_what_they_are_made_from(presets_types: list[Part]) -> None:
    base, pair = presets_types
    assert base.types == [None, "IQ4_NL", "Q4_0", "MXFP4"]
    assert pair.types == [None, "Q6_K", "Q4_K", "IQ4_NL", "Q4_0", "MXFP4"]


def test_where_types_cost_the_same_nothing_is_changed(presets_types: list[Part]) -> None:
    same = dict.fromkeys(MEASURED, AVX512["Q4_0"])
    shapes = dict.fromkeys(all_shapes(presets_types), same)
    assert set(best(choices(presets_types, shapes, UP, 0.8)).types.values()) == {None}


def test_of_those_that_are_as_fast_the_one_that_loses_least_is_taken(
    presets_types: list[Part],
) -> None:
    near = {**AVX512, "IQ4_NL": Curve({n: 1.01 * AVX512["Q4_0"](n) for n in ROWS})}
    shapes = dict.fromkeys(all_shapes(presets_types), near)
    assert set(best(choices(presets_types, shapes, UP, 0.8)).types.values()) == {"IQ4_NL"}
    far = {**AVX512, "IQ4_NL": Curve({n: 1.3 * AVX512["Q4_0"](n) for n in ROWS})}
    shapes = dict.fromkeys(all_shapes(presets_types), far)
    assert best(choices(presets_types, shapes, UP, 0.8)).types["base"] == "Q4_0"


def test_a_rate_is_the_planners() -> None:
    costs = Costs({role: Curve({1: 1.0, 2: 1.0}) for role in ("base", "tuned", "reference")})
    rate = Rate.of(costs, UP, 0.0)
    assert rate.plain == rate.drafted == pytest.approx(1 / 3)
    assert Rate.of(costs, UP, 0.9).drafted > 0.5
    assert Rate.of(costs, Recipe.single("base"), 0.9).drafted == 1.0


def test_roles_that_share_a_file_take_one_type(demo_files: dict[str, Path]) -> None:
    header = checked_model(demo_files["base"])
    headers = dict.fromkeys(("base", "tuned", "reference"), header)
    (part,) = parts_of(load_presets()["demo"], headers, headers, {})
    assert part.name == "base and tuned and reference"


# What it costs ------------------------------------------------------------------------------------


def test_a_trio_does_not_diverge_from_itself(demo: Emulator) -> None:
    first = list(distributions(demo, TEXT, 40))
    assert len(first) == 40
    assert all(abs(np.exp(row, dtype=np.float64).sum() - 1.0) < 1e-4 for row in first)
    same = divergence(first, distributions(demo, TEXT, 40))
    assert (same.tokens, same.kl, same.total_variation, same.agreement) == (40, 0.0, 0.0, 1.0)


def test_divergence_is_what_the_formulas_say() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    with np.errstate(divide="ignore"):
        one, other = np.log(p).astype(np.float32), np.log(q).astype(np.float32)
    found = divergence([one], iter([other]))
    assert found.kl == pytest.approx(np.log(2.0), abs=1e-6)
    assert found.total_variation == pytest.approx(0.5)
    assert found.agreement == 0.0
    assert 20.0 < divergence([other], iter([one])).kl * 2 < 30.0  # finite


def test_types_that_are_multiplied_in_blocks_are_repacked() -> None:
    assert llama.blocked_types() <= llama.repacked_types()


def test_what_is_known_of_types_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def types(info: str) -> tuple[Any, Any]:
        monkeypatch.setattr("eftlocal.llama.engine.system_info", lambda: info)
        return llama.repacked_types(), llama.blocked_types()

    repacked, blocked = types("AVX2 = 1 | REPACK = 1 |")
    assert repacked - blocked == {"Q4_K"}
    assert "Q8_0" not in repacked
    repacked, blocked = types("NEON = 1 | DOTPROD = 1 | REPACK = 1 |")
    assert repacked == blocked > {"Q8_0", "Q4_K", "Q6_K"}
    assert types("AVX2 = 1 |") == (frozenset(), frozenset())
