"""What llama.cpp would end the process over is refused from the header, in one line that names it.

Each refused file is otherwise sane, so that a check that is left out lets it pass.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz_files import split
from fuzzing.gguf_edit import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U16,
    U32,
    GgufFile,
    numbers,
    read_file,
    read_strings,
    scalar,
    strings,
    text,
)
from fuzzing.tiny_models import ARCHITECTURES, EMBD, TOKENIZERS, write_adapter, write_tiny_model
from gguf.constants import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES, GGMLQuantizationType
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.check import check_adapter, check_tensors, checked_model
from eftlocal.gguf_file.header import Header
from eftlocal.gguf_file.parser import TensorInfo

Edit = Callable[[GgufFile], object]
Type = GGMLQuantizationType
DEMO = Path(__file__).parent.parent / "eftlocal" / "demo" / "reference.gguf"
ADAPTED = {f"blk.{i}.attn_q.weight": (EMBD, EMBD) for i in range(2)}


def refusal(path: Path, file: GgufFile) -> str:
    """The line with which a model is refused, less the name of its file."""
    path.write_bytes(file.to_bytes())
    with pytest.raises(ModelFileError) as caught:
        checked_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def put(key: str, kind: int, value: object) -> Edit:
    return lambda file: file.set(key, kind, scalar(kind, value))


def retype(tensor: str, kind: Type) -> Edit:
    return lambda file: file.tensor(tensor).retype(kind)


def reshape(tensor: str, *shape: int) -> Edit:
    return lambda file: file.tensor(tensor).reshape(list(shape))


def tokens(change: Callable[[list[bytes]], list[bytes]]) -> Edit:
    def edit(file: GgufFile) -> None:
        entry = file.entry("tokenizer.ggml.tokens")
        assert entry
        entry.payload = strings(change(read_strings(entry.payload)))

    return edit


def array(key: str, payload: bytes) -> Edit:
    return lambda file: file.set(key, ARRAY, payload)


def alignment(value: int) -> Edit:
    """Of a file that keeps its word, and whose header ends one byte after a multiple of 32."""

    def edit(file: GgufFile) -> None:
        file.set("general.alignment", U32, scalar(U32, value))
        file.set("general.name", STRING, text(""))
        file.alignment = 1
        header = len(file.to_bytes()) - sum(len(t.data) for t in file.tensors)
        file.set("general.name", STRING, text("x" * ((1 - header) % 32)))
        file.alignment = value

    return edit


def charsmap(base: int, value: int = 0, texts: bytes = b"a\0") -> bytes:
    """A normalizer of 256 nodes, each of which leads to `base` and ends a match."""
    nodes = [base << 10 | 1 << 8 | byte for byte in range(255)] + [1 << 31 | value]
    if not base:
        nodes = [(byte ^ 255) << 10 | 1 << 8 | byte for byte in range(255)] + nodes[-1:]
    return numbers(U8, list(struct.pack("<I256I", 1024, *nodes) + texts))


def both(*edits: Edit) -> Edit:
    return lambda file: [edit(file) for edit in edits]


INTEGERS = (Type.I8, Type.I16, Type.I32, Type.I64, Type.F64)

# On a copy of a demo file: what is done, and what the line says.
ON_THE_DEMO: dict[str, tuple[Edit, str]] = {
    **{
        f"matrix of {kind.name}": (
            retype("blk.0.attn_q.weight", kind),
            f"tensor blk.0.attn_q.weight is of type {kind.name}",
        )
        for kind in (*INTEGERS, Type.Q8_1, Type.Q8_K)
        if kind != Type.Q8_K  # whose blocks are wider than the demo
    },
    **{
        f"embeddings of {kind.name}": (
            retype("token_embd.weight", kind),
            f"tensor token_embd.weight is of type {kind.name}",
        )
        for kind in INTEGERS
    },
    **{
        f"norm of {kind.name}": (
            retype("blk.0.ffn_norm.weight", kind),
            f"tensor blk.0.ffn_norm.weight is of type {kind.name}",
        )
        for kind in (Type.F16, Type.BF16, Type.Q8_0, Type.I32)
    },
    **{
        f"alignment {value}": (
            alignment(value),
            f"no multiple of 32 (general.alignment is {value})",
        )
        for value in (1, 2, 4, 8, 16)
    },
    **{
        f"epsilon {value}": (
            put("llama.attention.layer_norm_rms_epsilon", F32, value),
            f"llama.attention.layer_norm_rms_epsilon is {value}, ",
        )
        for value in (math.nan, -1.0, math.inf)
    },
    "epsilon of type string": (
        put("llama.attention.layer_norm_rms_epsilon", STRING, "1e-5"),
        "is of type string, and llama.cpp reads float32",
    ),
    "experts, none used": (put("llama.expert_count", U32, 4), "uses 0 of 4 experts"),
    "more experts used": (
        both(put("llama.expert_count", U32, 4), put("llama.expert_used_count", U32, 5)),
        "uses 5 of 4 experts",
    ),
    "too many experts": (put("llama.expert_count", U32, 1025), "expert_count is 1025"),
    "as many groups as experts": (
        both(put("llama.expert_count", U32, 4), put("llama.expert_used_count", U32, 2),
             put("llama.expert_group_count", U32, 4)),
        "has 4 groups of 4 experts",
    ),
    "rope scaling": (put("llama.rope.scaling.type", STRING, "su"), "rope.scaling.type is 'su'"),
    "rope base": (put("llama.rope.freq_base", F32, -1.0), "llama.rope.freq_base is -1.0"),
    "odd rope": (put("llama.rope.dimension_count", U32, 7), "llama.rope.dimension_count is 7"),
    "wide rope": (put("llama.rope.dimension_count", U32, 1024), "dimension_count is 1024"),
    "heads": (put("llama.attention.head_count_kv", U32, 3), "and 3 key-value heads"),
    "heads as a string": (
        put("llama.attention.head_count", STRING, "4"), "llama.attention.head_count is of type str"
    ),
    "heads of fewer layers": (
        array("llama.attention.head_count", numbers(U32, [4])), "has 1 values for"
    ),
    "context of 8 bytes": (put("llama.context_length", 10, 512), "is of type uint64"),
    "no context": (lambda f: f.remove("llama.context_length"), "has no llama.context_length"),
    "causal as a number": (put("llama.attention.causal", U32, 1), "causal is of type uint32"),
    "layers ahead": (put("llama.nextn_predict_layers", U32, 99), "nextn_predict_layers is 99"),
    "an encoder": (put("general.architecture", STRING, "bert"), "a bert model does not generate"),
    "a key behind a NUL": (put("llama.rope\0x", U32, 1), "has a NUL in its name"),
    "tokenizer none": (put("tokenizer.ggml.model", STRING, "none"), "has no tokenizer"),
    "no tokenizer": (lambda f: f.remove("tokenizer.ggml.model"), "has no tokenizer"),
    "llama without bytes": (put("tokenizer.ggml.model", STRING, "llama"), "no token for"),
    "rwkv without bytes": (put("tokenizer.ggml.model", STRING, "rwkv"), "no token for"),
    "plamo2 without bytes": (put("tokenizer.ggml.model", STRING, "plamo2"), "no token for"),
    "two tokens": (tokens(lambda t: [*t[:-1], t[9]]), "and 4095 have the same text"),
    "two tokens up to a NUL": (
        tokens(lambda t: [*t[:-1], t[9] + b"\0x"]), "tokens 9 and 4095 have the same text"
    ),
    "an empty token's name": (
        tokens(lambda t: [*t[:8], b"", *t[9:-1], b"[EMPTY_8]"]), "tokens 8 and 4095 have the same"
    ),
    "a token of 5,000 bytes": (
        tokens(lambda t: [*t[:7], b"x" * 5000, *t[8:]]), "token 7 has 5,000 bytes"
    ),
    "no merges": (lambda f: f.remove("tokenizer.ggml.merges"), "has no tokenizer.ggml.merges"),
    "merges of numbers": (
        array("tokenizer.ggml.merges", numbers(U8, [1])), "tokenizer.ggml.merges is of type array"
    ),
    "few scores": (array("tokenizer.ggml.scores", numbers(F32, [0.0])), "scores has 1 values for"),
    "few types": (array("tokenizer.ggml.token_type", numbers(I32, [1] * 9)), "9 values for 4096"),
    "no tokens": (tokens(lambda t: []), "has no vocabulary (tokenizer.ggml.tokens)"),
    "scores that are none": (
        array("tokenizer.ggml.scores", numbers(F32, [math.nan] * 4096)), "scores contains NaN"
    ),
    "types of 8 bits": (array("tokenizer.ggml.token_type", numbers(U8, [1] * 4096)), "is of type"),
    "BOS that is not there": (
        both(put("tokenizer.ggml.bos_token_id", U32, 4096), tokens(lambda t: t[:11]),
             array("tokenizer.ggml.token_type", numbers(I32, [1] * 11)),
             put("tokenizer.ggml.add_bos_token", BOOL, 1), reshape("token_embd.weight", 64, 11)),
        "adds a bos token to every text but has none",
    ),
    "BOS as a string": (put("tokenizer.ggml.bos_token_id", STRING, "0"), "bos_token_id is of type"),
    "a switch as a number": (put("tokenizer.ggml.add_bos_token", U32, 1), "llama.cpp reads bool"),
    "embeddings of fewer tokens": (reshape("token_embd.weight", 64, 4000), "says 64 x 4096"),
    "wide norm": (reshape("output_norm.weight", 65), "output_norm.weight is 65, and"),
    "no embeddings": (
        lambda f: f.tensors.remove(f.tensor("token_embd.weight")), "has no tensor token_embd.weight"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ON_THE_DEMO)
def test_a_demo_file_edited_is_refused(tmp_path: Path, case: str) -> None:
    file = read_file(DEMO)
    edit, said = ON_THE_DEMO[case]
    edit(file)
    assert said in refusal(tmp_path / "model.gguf", file)


# On a tiny model of an architecture and a tokenizer.
ON_OTHERS: dict[str, tuple[str, str, Edit, str]] = {
    "rope_freqs of F16": ("llama", "gpt2", retype("rope_freqs.weight", Type.F16), "must be F32"),
    "rope factors of F64": ("phi3", "gpt2", retype("rope_factors_long.weight", Type.F64), "F64"),
    "bias of F16": ("qwen2", "gpt2", retype("blk.1.attn_k.bias", Type.F16), "must be F32"),
    "head's norm of BF16": ("qwen3", "gpt2", retype("blk.0.attn_q_norm.weight", Type.BF16), "F32"),
    "experts of I8": ("llama-moe", "gpt2", retype("blk.0.ffn_up_exps.weight", Type.I8), "type I8"),
    "router of another width": (
        "qwen3moe", "gpt2", put("qwen3moe.expert_count", U32, 8), "ffn_gate_inp.weight is 64 x 4"
    ),
    "sinks of F16": ("gpt-oss", "gpt2", retype("blk.0.attn_sinks.weight", Type.F16), "F32"),
    "state of F16": ("mamba", "gpt2", retype("blk.0.ssm_a", Type.F16), "ssm_a is of type F16"),
    "convolution of F16": ("lfm2", "gpt2", retype("blk.0.shortconv.conv.weight", Type.F16), "F32"),
    "positions of I16": ("gpt2", "gpt2", retype("position_embd.weight", Type.I16), "type I16"),
    "one byte less": (
        "llama", "llama", tokens(lambda t: [b"xx" if x == b"<0xE2>" else x for x in t]), "0xE2"
    ),
    "rwkv: one byte less": (
        "llama", "rwkv", tokens(lambda t: [b"xx" if x == rb"\x0a" else x for x in t]), "0x0A"
    ),
    "bert: bytes": (
        "llama", "bert", array("tokenizer.ggml.token_type", numbers(I32, [6] * 80)), "byte tokens"
    ),
    "bert: no separator": (
        "llama", "bert", lambda f: f.remove("tokenizer.ggml.seperator_token_id"), "seperator_token"
    ),
    "t5: a map outside itself": (
        "llama", "t5", array("tokenizer.ggml.precompiled_charsmap", charsmap(1 << 20)), "itself"
    ),
    **{
        f"t5: a map of {len(data)} bytes": (
            "llama", "t5", array("tokenizer.ggml.precompiled_charsmap", numbers(U8, data)), said
        )
        for data, said in (([1], "cut short"), ([255] * 4 + [0] * 9, "itself"), ([0] * 4, "itself"))
    },
    "t5: a text outside itself": (
        "llama", "t5", array("tokenizer.ggml.precompiled_charsmap", charsmap(0, value=99)), "itself"
    ),
    "t5: no unknown": (
        "llama", "t5", both(put("tokenizer.ggml.unknown_token_id", U32, 99999),
                            tokens(lambda t: t[:2]), reshape("token_embd.weight", EMBD, 2)),
        "needs tokenizer.ggml.unknown_token_id",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ON_OTHERS)
def test_another_model_edited_is_refused(tmp_path: Path, case: str) -> None:
    arch, tokenizer, edit, said = ON_OTHERS[case]
    path = write_tiny_model(tmp_path / "model.gguf", arch, tokenizer)
    file = read_file(checked_model(path).path)
    edit(file)
    assert said in refusal(path, file)


ADAPTERS: dict[str, tuple[Edit, str]] = {
    "alpha as a string": (put("adapter.lora.alpha", STRING, "8"), "alpha is of type string"),
    "alpha of 8 bytes": (put("adapter.lora.alpha", 12, 8.0), "alpha is of type float64"),
    "alpha infinite": (put("adapter.lora.alpha", F32, math.inf), "adapter.lora.alpha is inf"),
    "another kind": (put("adapter.type", STRING, "dora"), "its adapter.type is 'dora'"),
    "kind as a number": (put("adapter.type", U32, 1), "adapter.type is of type uint32"),
    "no kind": (lambda f: f.remove("adapter.type"), "its adapter.type is None"),
    "activated": (
        array("adapter.alora.invocation_tokens", numbers(U32, [1])), "an activated LoRA (aLoRA)"
    ),
    "another architecture": (put("general.architecture", STRING, "qwen2"), "adapter for qwen2"),
    "of I8": (retype("blk.0.attn_q.weight.lora_a", Type.I8), "lora_a is of type I8"),
    "of F64": (retype("blk.1.attn_q.weight.lora_b", Type.F64), "lora_b is of type F64"),
    "half a pair": (lambda f: f.tensors.pop(), "has no tensor blk.1.attn_q.weight.lora_b"),
    "no part of it": (
        lambda f: setattr(f.tensors[0], "name", b"blk.0.attn_q.weight"), "is no part of a LoRA"
    ),
    "wide": (reshape("blk.0.attn_q.weight.lora_a", 2 * EMBD, 4), "do not fit the tensor"),
    "two ranks": (reshape("blk.0.attn_q.weight.lora_a", EMBD, 8), "do not fit the tensor"),
    "a third dimension": (reshape("blk.0.attn_q.weight.lora_a", EMBD, 4, 2), "do not fit"),
    "of tied embeddings": (
        lambda f: [
            setattr(t, "name", t.name.replace(b"blk.0.attn_q", b"token_embd")) for t in f.tensors
        ],
        "the embeddings and the output are one matrix",
    ),
    "of no tensor": (
        lambda f: [setattr(t, "name", t.name.replace(b"blk.0", b"blk.7")) for t in f.tensors],
        "blk.7.attn_q.weight, which model.gguf does not have",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_edited_is_refused(tmp_path: Path, case: str) -> None:
    model = checked_model(write_tiny_model(tmp_path / "model.gguf"))
    path = write_adapter(tmp_path / "adapter.gguf", "llama", ADAPTED)
    check_adapter(checked_model(path), model)
    file = read_file(path)
    edit, said = ADAPTERS[case]
    edit(file)
    path.write_bytes(file.to_bytes())
    with pytest.raises(ModelFileError) as caught:
        check_adapter(checked_model(path), model)
    assert said in str(caught.value) and "\n" not in str(caught.value)


SPLITS: dict[str, tuple[int, Edit, str]] = {
    "number as a string": (1, put("split.no", STRING, "1"), "split.no is '1' (string)"),
    "number of 32 bits": (1, put("split.no", U32, 1), "split.no is 1 (uint32)"),
    "another number": (2, put("split.no", U16, 1), "split.no is 1 (uint16), and must be 2"),
    "no number": (2, lambda f: f.remove("split.no"), "split.no is 'missing' (no value)"),
    "first is not first": (0, put("split.no", U16, 2), "split.no is 2 (uint16), and must be 0"),
    "count of 32 bits": (0, put("split.count", U32, 3), "split.count is 3 (uint32)"),
    "count of tensors": (0, put("split.tensors.count", I32, 7), "split.tensors.count is 7"),
}


@pytest.mark.parametrize("case", SPLITS)
def test_a_part_edited_is_refused(tmp_path: Path, case: str) -> None:
    parts = split(read_file(write_tiny_model(tmp_path / "whole.gguf")))
    paths = [tmp_path / f"m-0000{n + 1}-of-00003.gguf" for n in range(3)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part.to_bytes())
    assert checked_model(paths[0]).shards == tuple(paths)
    which, edit, said = SPLITS[case]
    edit(parts[which])
    paths[which].write_bytes(parts[which].to_bytes())
    with pytest.raises(ModelFileError) as caught:
        checked_model(paths[0])
    assert str(caught.value).startswith(f"{paths[which]}: ") and said in str(caught.value)


def test_models_check_refuses_what_does_not_load(tmp_path: Path) -> None:
    """With the exit code of a bad model file, and without the word that it fits."""
    file = read_file(DEMO)
    file.tensor("blk.0.attn_q.weight").retype(Type.I8)
    path = tmp_path / "model.gguf"
    path.write_bytes(file.to_bytes())
    result = CliRunner().invoke(app, ["models", "check", "--base", str(path)])
    assert result.exit_code == ModelFileError.exit_code
    assert "fits" not in result.output and "blk.0.attn_q.weight" in result.output


# What must not be refused ---------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_architecture_passes(tmp_path: Path, arch: str) -> None:
    assert checked_model(write_tiny_model(tmp_path / "model.gguf", arch)).n_layers == 2


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_tokenizer_passes(tmp_path: Path, tokenizer: str) -> None:
    path = write_tiny_model(tmp_path / "model.gguf", "llama", tokenizer)
    assert checked_model(path).metadata["tokenizer.ggml.model"] == tokenizer


def test_the_types_of_weights_pass(tmp_path: Path) -> None:
    never = {Type.I8, Type.I16, Type.I32, Type.I64, Type.F64, Type.Q8_1, Type.Q8_K}
    for kind in set(Type) - never:
        header = checked_model(write_tiny_model(tmp_path / "model.gguf", "llama-moe"))
        matrices = tuple(
            TensorInfo(t.name, t.shape, kind, t.nbytes, t.offset) if len(t.shape) > 1 else t
            for t in header.tensors
        )
        object.__setattr__(header, "tensors", matrices)
        check_tensors(header)


def test_no_architecture_has_its_matrices_refused(tmp_path: Path) -> None:
    """Every tensor that the gguf package knows, as llama.cpp's converter stores it."""
    float32 = ("_norm", "ssm_conv1d", "shortconv.conv", "rope_freqs", "rope_factors", "attn_sinks")
    header = checked_model(write_tiny_model(tmp_path / "model.gguf"))
    embeddings = header.tensors[0]
    assert embeddings.name == "token_embd.weight"
    seen = 0
    for arch, members in MODEL_TENSORS.items():
        for member in members:
            name = TENSOR_NAMES[member].format(bid=0, xid=0)
            if name in ("token_embd", "output") or MODEL_ARCH_NAMES[arch] == "mmproj":
                continue
            plain = any(part in name for part in float32) or name.endswith(("ssm_a", "ssm_d"))
            kind = Type.F32 if plain else Type.Q4_K
            tensor = TensorInfo(f"{name}.weight", (256, 2, 3, 4), kind, 0, 0)
            object.__setattr__(header, "tensors", (embeddings, tensor))
            try:
                check_tensors(header)
            except ModelFileError as error:
                assert " x " in str(error)  # these shapes mean nothing here
            seen += 1
    assert seen > 1000


FEED_FORWARD = ("llama.feed_forward_length", ARRAY, numbers(I32, [96, 48]))
# What is done to a demo file or, by the name of its tokenizer, to a tiny model.
HARMLESS: dict[str, tuple[str, Edit, Callable[[Header], object]]] = {
    "a map of characters": (
        "t5", array("tokenizer.ggml.precompiled_charsmap", charsmap(0)), lambda header: header
    ),
    "numbers of each layer": (
        "gpt2",
        both(lambda f: f.set(*FEED_FORWARD),
             array("llama.attention.head_count_kv", numbers(I32, [2, 2]))),
        lambda header: header.n_ff == (96, 48),
    ),
    "a small alignment where data lies at multiples of 32": (
        "", put("general.alignment", U32, 16), lambda header: header
    ),
    "text after a NUL is not read": (
        "", lambda f: f.set("general.name", STRING, text("short\0 and hidden")),
        lambda header: header.metadata["general.name"] == "short",
    ),
    "a text with a NUL is no fault by itself": (
        "", tokens(lambda t: [*t[:-1], b"unheard of\0x"]), lambda header: header
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_harmless_passes(tmp_path: Path, case: str) -> None:
    tokenizer, edit, holds = HARMLESS[case]
    path = tmp_path / "model.gguf"
    file = read_file(write_tiny_model(path, "llama", tokenizer) if tokenizer else DEMO)
    edit(file)
    path.write_bytes(file.to_bytes())
    assert holds(checked_model(path))


def test_the_real_files_pass(smollm2: Path, demo_files: dict[str, Path]) -> None:
    for path in (smollm2, *demo_files.values()):
        assert checked_model(path).n_layers
