"""What llama.cpp wants of a file, told from its header before llama.cpp sees it.

llama.cpp ends the process over some of this and computes nonsense with the rest. Keys that only
some architectures read are not here: llama.cpp refuses those in a line of its own. Of tensors only
what holds for every architecture is here: a wrong element type ends the process, because ggml looks
for a kernel and finds none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.header import MAX_LAYERS, Header, Rule, read_header, rules
from eftlocal.gguf_file.parser import Arrays, StringArray, TensorInfo, constants

MAX_EXPERTS = 1024  # llama.cpp's own limit
_INT32 = 2**31 - 1
_TINY = 1e-30  # a frequency that may not be zero
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert"}
    | {"modern-bert", "eurobert", "gemma-embedding", "t5", "t5encoder", "clip"}
)
_DIFFUSION = frozenset({"dream", "llada", "llada-moe", "rnd1"})

_TEXT, _NUMBER, _SWITCH = Rule("string"), Rule("float32"), Rule("bool")
_PER_LAYER = Rule("uint32", 0, 1 << 26, per_layer=True)
_GENERAL = rules(
    "general.",
    {_TEXT: "architecture type name", Rule("uint32"): "file_type"},
)
_ADAPTER = rules("adapter.", {_TEXT: "type", _NUMBER: "lora.alpha"})
_REQUIRED = ("context_length", "embedding_length", "block_count")
_OF_ARCHITECTURE = {
    Rule("uint32", 0, _INT32): """
        context_length vocab_size pooling_type expert_group_count expert_group_used_count
        rope.dimension_count rope.dimension_count_swa rope.scaling.original_context_length""",
    Rule("uint32", 1, 1 << 24): "embedding_length",
    Rule("uint32", 0, 1 << 24): """
        embedding_length_out attention.key_length attention.value_length
        attention.key_length_swa attention.value_length_swa full_attention_interval
        ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count
        shortconv.l_cache wkv.head_size token_shift_count""",
    Rule("uint32", 1, MAX_LAYERS): "block_count",
    Rule("uint32", 0, MAX_LAYERS): "nextn_predict_layers",
    Rule("uint32", 0, MAX_EXPERTS): "expert_count",
    _PER_LAYER: """
        feed_forward_length expert_used_count attention.head_count attention.head_count_kv""",
    _SWITCH: "attention.causal rope.scaling.finetuned",
    _TEXT: "rope.scaling.type",
    Rule("float32", 0): """
        attention.layer_norm_epsilon attention.layer_norm_rms_epsilon attention.group_norm_epsilon
        attention.max_alibi_bias rope.scale_linear rope.scaling.factor""",
    Rule("float32", _TINY): "rope.freq_base rope.freq_base_swa",
    _NUMBER: """
        attention.clamp_kqv attention.scale attn_logit_softcapping final_logit_softcapping
        logit_scale embedding_scale residual_scale rope.scaling.attn_factor rope.scaling.alpha""",
}

# Types that no kernel multiplies by or takes rows of: Q8_1 and Q8_K are for activations only.
Type = constants.GGMLQuantizationType
_NOT_WEIGHTS = frozenset({Type.I8, Type.I16, Type.I32, Type.I64, Type.F64, Type.Q8_1, Type.Q8_K})
# Tables of indices: the only tensors of integers.
_INDICES = frozenset({"ffn_gate_tid2eid", "d2t", "masked_embd_ordering"})
# Beside norms, biases and all that is no ".weight": ggml asserts that these are float32.
_FLOAT32 = frozenset(
    {"rope_freqs", "rope_factors_long", "rope_factors_short", "attn_sinks"}
    | {"ssm_a", "ssm_d", "ssm_conv1d", "shortconv.conv"}
)
_TENSOR = re.compile(r"(?:blk\.\d+\.)?(?P<stem>.*?)(?:\.(?P<suffix>weight|lora_a|lora_b))?")
# Dimensions as in the file, fastest first: E embeddings, V tokens, X experts; None is any.
_SHAPES: dict[str, tuple[str | None, ...]] = {
    name: shape
    for shape, names in {
        ("E", "V"): "token_embd.weight output.weight",
        ("E",): """
            output_norm.weight output_norm.bias attn_norm.weight attn_norm.bias
            post_attention_norm.weight ffn_norm.weight ffn_norm.bias post_ffw_norm.weight
            attn_output.bias ffn_down.bias""",
        (None, "E"): "attn_output.weight ffn_down.weight",
        ("E", None): """
            attn_q.weight attn_k.weight attn_v.weight attn_qkv.weight
            ffn_gate.weight ffn_up.weight""",
        ("E", "X"): "ffn_gate_inp.weight",
    }.items()
    for name in names.split()
}
# Drafting heads, speech and vision models have widths and vocabularies beside these.
_OTHER_SHAPES = ("dflash", "eagle3", "qwen3vl", "pockettts")
_A, _B = ".lora_a", ".lora_b"


def checked_model(path: str | Path) -> Header:
    """The header of a file that can play a role, or of a LoRA adapter.

    A check of the header cannot know everything: what passes may still fail in llama.cpp.

    Raises:
        ModelFileError: a line that names the tensor or the key.
    """
    header = checked_general(path)
    if not header.is_adapter:
        check_metadata(header)
        check_tokenizer(header)
        check_tensors(header)
    return header


def checked_general(path: str | Path, known: Arrays | None = None) -> Header:
    """The header of any GGUF file with an architecture, no more of it checked.

    Args:
        known: as `parse_file` takes it.

    Raises:
        ModelFileError: it is none.
    """
    header = read_header(path, known)
    header.check(_GENERAL)
    if "general.architecture" not in header.types:
        header.refuse("has no general.architecture")
    return header


def check_metadata(header: Header) -> None:
    """Raises ModelFileError for a key that is missing, of another type, or out of its range."""
    arch = header.architecture
    if arch in ENCODERS | _DIFFUSION | {"wavtokenizer-dec"}:
        raise ModelFileError(
            f"{header.path}: a {arch} model does not generate text token by token, so it cannot "
            "play a role: choose another model"
        )
    for key in _REQUIRED:
        if f"{arch}.{key}" not in header.metadata:
            header.refuse(f"has no {arch}.{key}")
    header.check(rules(f"{arch}.", _OF_ARCHITECTURE))
    for key in _OF_ARCHITECTURE[_PER_LAYER].split():
        value = header.metadata.get(f"{arch}.{key}")
        if isinstance(value, np.ndarray) and len(value) != header.n_layers:
            header.refuse(f"{arch}.{key} has {len(value)} values for {header.n_layers} layers")
    ahead = header.metadata.get(f"{arch}.nextn_predict_layers", 0)
    if ahead > header.n_layers:
        header.refuse(f"{arch}.nextn_predict_layers is {ahead}, of {header.n_layers} layers")
    _check_experts(header)
    _check_heads(header)
    scaling = header.metadata.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        known = ", ".join(_ROPE_SCALINGS)
        header.refuse(f"{arch}.rope.scaling.type is {scaling!r:.60}, not one of {known}")


def _check_experts(header: Header) -> None:
    arch = header.architecture
    experts = header.number("expert_count")
    groups = header.metadata.get(f"{arch}.expert_group_count", 0)
    used_groups = header.metadata.get(f"{arch}.expert_group_used_count", 0)
    used = max(np.atleast_1d(header.metadata.get(f"{arch}.expert_used_count", 0)))
    if arch.startswith("hunyuan") and experts <= 1:
        return  # written for dense models too, and then not used
    if used > experts or (experts and not used):
        header.refuse(f"uses {used} of {experts} experts ({arch}.expert_used_count)")
    if groups and groups >= experts:
        header.refuse(f"has {groups} groups of {experts} experts ({arch}.expert_group_count)")
    if groups > 1 and (experts % groups or not 0 < used_groups < groups):
        header.refuse(
            f"uses {used_groups} of {groups} groups of {experts} experts "
            f"({arch}.expert_group_used_count)"
        )


def _check_heads(header: Header) -> None:
    arch, heads = header.architecture, header.n_heads
    for layer, (queries, keys) in enumerate(zip(heads, header.n_heads_kv, strict=True)):
        if keys and queries % keys:
            header.refuse(
                f"layer {layer} has {queries} heads and {keys} key-value heads, and {queries} is "
                f"no multiple of {keys} ({arch}.attention.head_count_kv)"
            )
    latent = f"{arch}.attention.kv_lora_rank" in header.metadata  # heads have other widths there
    rotated = header.metadata.get(f"{arch}.rope.dimension_count", 0)
    if heads[0] and not latent and (rotated % 2 or rotated > header.key_length):
        header.refuse(
            f"{arch}.rope.dimension_count is {rotated}; it must be even and at most the width of "
            f"a head, {header.key_length}"
        )


def check_tensors(header: Header) -> None:
    """Raises ModelFileError for a tensor of a type or shape that llama.cpp cannot use."""
    arch = header.architecture
    experts = header.metadata.get(f"{arch}.expert_count", 0)
    sizes = {"E": header.n_embd, "V": header.n_vocab, "X": experts, None: None}
    if all(tensor.name != "token_embd.weight" for tensor in header.tensors):
        header.refuse("has no tensor token_embd.weight")
    for tensor in header.tensors:
        match = _TENSOR.fullmatch(tensor.name)
        stem, suffix = (match["stem"], match["suffix"]) if match else (tensor.name, None)
        if stem not in _INDICES:
            _check_weights(header, tensor)
            plain = suffix is None or stem in _FLOAT32 or stem.endswith("_norm")
            if plain and tensor.type != Type.F32:
                header.refuse(
                    f"tensor {tensor.name} is of type {tensor.type.name}, and must be F32"
                )
        shape = _SHAPES.get(f"{stem}.{suffix}" if suffix else stem)
        if shape is not None and not arch.startswith(_OTHER_SHAPES):
            _check_shape(header, tensor, [sizes[size] for size in shape])


def _check_weights(header: Header, tensor: TensorInfo) -> None:
    if tensor.type in _NOT_WEIGHTS:
        header.refuse(
            f"tensor {tensor.name} is of type {tensor.type.name}, which weights cannot have"
        )


def _check_shape(header: Header, tensor: TensorInfo, expected: list[int | None]) -> None:
    shape = tensor.shape
    while len(shape) > len(expected) and shape[-1] == 1:
        shape = shape[:-1]
    fits = (wanted in (None, size) for wanted, size in zip(expected, shape, strict=False))
    if len(shape) != len(expected) or not all(fits):
        wanted = " x ".join("any" if size is None else str(size) for size in expected)
        header.refuse(
            f"tensor {tensor.name} is {' x '.join(map(str, tensor.shape))}, and the header says "
            f"{wanted}"
        )


def check_adapter(adapter: Header, model: Header) -> None:
    """Raises ModelFileError for a LoRA adapter that llama.cpp cannot put on this model."""
    adapter.check(_ADAPTER)
    kind = adapter.metadata.get("adapter.type")
    if kind != "lora":
        adapter.refuse(f"its adapter.type is {kind!r:.60}, and only lora can be used")
    if "adapter.alora.invocation_tokens" in adapter.types:
        adapter.refuse("is an activated LoRA (aLoRA), which is not supported")
    if adapter.architecture != model.architecture:
        adapter.refuse(
            f"is an adapter for {adapter.architecture}, and {model.path.name} is of the "
            f"architecture {model.architecture}"
        )
    tensors = {tensor.name: tensor for tensor in adapter.tensors}
    targets = {tensor.name: tensor for tensor in model.tensors}
    for name, tensor in tensors.items():
        _check_weights(adapter, tensor)
        if name.endswith((_A, _B)):
            _check_pair(adapter, name[: -len(_A)], tensors, targets, model)
        elif not name.endswith("_norm.weight"):
            adapter.refuse(f"tensor {name} is no part of a LoRA adapter")


def _check_pair(
    adapter: Header,
    name: str,
    tensors: dict[str, TensorInfo],
    targets: dict[str, TensorInfo],
    model: Header,
) -> None:
    if name not in targets:
        adapter.refuse(f"changes the tensor {name}, which {model.path.name} does not have")
    for suffix in (_A, _B):
        if name + suffix not in tensors:
            adapter.refuse(f"has no tensor {name + suffix}")
    a, b, target = (
        (*t.shape, 1, 1, 1, 1)[:4] for t in (tensors[name + _A], tensors[name + _B], targets[name])
    )
    if name == "token_embd.weight" and model.has_tied_output:  # llama.cpp aborts as it decodes
        raise ModelFileError(
            f"{adapter.path}: changes {name}, and in {model.path.name} the embeddings and the "
            "output are one matrix: llama.cpp cannot change one of the two; train without it"
        )
    # rows of the embeddings are looked up, so there A is stored the other way round
    if name == "token_embd.weight":
        (rank, columns), wanted = a[:2], (target[0], target[1])
    else:
        (columns, rank), wanted = a[:2], (target[1], target[0])
    if (b[1], columns) != wanted or b[0] != rank or not a[2:] == b[2:] == target[2:]:
        adapter.refuse(
            f"its matrices {_shown(a)} and {_shown(b)} do not fit the tensor {name} of "
            f"{model.path.name}, {_shown(target)}: is it an adapter for another model?"
        )


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[:2] if shape[2:] == (1, 1) else shape))


# --- Tokenizers: any text can be taken apart without looping or aborting. llama.cpp finds most of
# this out while it tokenizes, where it ends the process or never returns.

_BYTE = 6  # llama_token_type
_LONGEST = 4096  # bytes; no real token has as many, and grammars recurse once for each character
_BPE = ("gpt2", "gemma4", "hybriddna", "whitespace")
# Bytes that a text in UTF-8 can hold
_IN_TEXT = [byte for byte in range(0xF5) if byte not in (0xC0, 0xC1)]
_KEYS = rules(
    "tokenizer.ggml.",
    {
        Rule("string"): "pre",
        Rule("uint32"): """
            bos_token_id eos_token_id eot_token_id eom_token_id unknown_token_id seperator_token_id
            padding_token_id mask_token_id cls_token_id fim_pre_token_id fim_suf_token_id
            fim_mid_token_id fim_pad_token_id fim_rep_token_id fim_sep_token_id prefix_token_id
            suffix_token_id middle_token_id""",
        Rule("bool"): """
            add_bos_token add_eos_token add_sep_token add_space_prefix remove_extra_whitespaces
            normalizer.lowercase normalizer.strip_accents""",
        Rule("array of int32"): "token_type suppress_tokens",
        Rule("array of float32 or array of int32"): "scores",
    },
) | rules("tokenizer.", {Rule("string"): "chat_template"})
_MERGES = "tokenizer.ggml.merges"
_CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
# What llama.cpp takes where a file names no id
_DEFAULTS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102},
    "t5": {"eos": 1, "unknown": 2},
    "plamo2": {"bos": 1, "eos": 2, "unknown": 0},
    "gpt2": {"bos": 11, "eos": 11},
    "hybriddna": {"bos": 11, "eos": 11},
    "whitespace": {"bos": 11, "eos": 11},
}
# Ids that a tokenizer writes whatever the switches say
_NEEDED = {"bert": ("bos", "seperator", "unknown"), "t5": ("unknown",), "rwkv": ("unknown",)}
_PRE_ADDS_BOS = frozenset(  # pre-tokenizers of byte-pair encodings that start texts with BOS
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
    | {"jina-v5-nano", "tekken", "chameleon", "gemma4", "granite-embed-multi-311m"}
)
_PRE_NO_BOS = ("chatglm-bpe", "glm4", "glm5")  # these have no BOS unless the file names one


def check_tokenizer_keys(header: Header) -> StringArray:
    """The tokens; raises ModelFileError for a tokenizer that is missing, or whose keys are wrong.

    Of the tokens' texts nothing is looked at.
    """
    model = header.metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model in ("none", "no_vocab", ""):
        header.refuse(f"has no tokenizer (tokenizer.ggml.model is {model!r:.60})")
    header.check(_KEYS)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        header.refuse("has no vocabulary (tokenizer.ggml.tokens)")
    _check_columns(header, len(tokens))
    return tokens


def check_tokenizer(header: Header) -> None:
    """Raises ModelFileError for a tokenizer that is missing, contradicts itself or has holes."""
    tokens, model = check_tokenizer_keys(header), header.metadata["tokenizer.ggml.model"]
    longest = int(np.argmax(np.diff(tokens.ends, prepend=0)))
    if len(tokens.to_bytes()[longest]) > _LONGEST:
        header.refuse(f"token {longest} has {len(tokens.to_bytes()[longest]):,} bytes")
    texts = _as_llama_cpp_reads(tokens)
    _check_doubles(header, texts)
    if model in _BPE and header.metadata.get("tokenizer.ggml.pre") != "kimi-k2":
        header.check({_MERGES: Rule("array of string")})
        if _MERGES not in header.types:
            header.refuse(f"has no {_MERGES}")
    if spelled := _SPELLINGS.get(model):
        _check_bytes(header, spelled, set(texts))
    if model == "bert" and (_column(header, "token_type") == _BYTE).any():
        header.refuse("has byte tokens, which a bert tokenizer cannot decode")
    if model == "t5":
        _check_charsmap(header)
    _check_special(header, model, len(texts))


def _as_llama_cpp_reads(tokens: StringArray) -> list[bytes]:
    """The texts as bytes, each up to its first NUL; an empty one has a name made of its id."""
    texts = tokens.to_bytes()
    if tokens.has_nul():
        texts = [text.partition(b"\0")[0] for text in texts]
    return [text or b"[EMPTY_%d]" % i for i, text in enumerate(texts)] if b"" in texts else texts


def _check_doubles(header: Header, texts: list[bytes]) -> None:
    if len(set(texts)) == len(texts):
        return
    seen: dict[bytes, int] = {}
    for i, text in enumerate(texts):
        if text in seen:
            header.refuse(f"tokens {seen[text]} and {i} have the same text")
        seen[text] = i


def _column(header: Header, name: str) -> npt.NDArray[np.generic]:
    value = header.metadata.get(f"tokenizer.ggml.{name}")
    return value if isinstance(value, np.ndarray) else np.empty(0, np.int32)


def _check_columns(header: Header, n_tokens: int) -> None:
    for name in ("scores", "token_type"):
        values = _column(header, name)
        if f"tokenizer.ggml.{name}" in header.types and len(values) < n_tokens:
            header.refuse(f"tokenizer.ggml.{name} has {len(values)} values for {n_tokens} tokens")
    if np.isnan(_column(header, "scores")).any():
        header.refuse("tokenizer.ggml.scores contains NaN")


def _hexadecimal(texts: Collection[bytes]) -> set[int]:
    """Bytes written as <0x0A>."""
    return {byte for byte in range(256) if b"<0x%02X>" % byte in texts}


def _hexadecimal_or_raw(texts: Collection[bytes]) -> set[int]:
    return _hexadecimal(texts) | {byte for byte in range(1, 256) if bytes([byte]) in texts}


def _escaped(texts: Collection[bytes]) -> set[int]:
    """Bytes written as they are, or as in the vocabulary of RWKV: \\n, \\x0a."""
    found = {text[0] for text in texts if len(text) == 1 and text != b"\\"}
    for text in texts:
        if match := re.fullmatch(rb"\\(?:x([0-9a-f]{2})|([^x]))", text, re.DOTALL):
            letter = {b"t": 9, b"n": 10, b"r": 13}
            found.add(int(match[1], 16) if match[1] else letter.get(match[2], match[2][0]))
    return found


_SPELLINGS: dict[str, Callable[[Collection[bytes]], set[int]]] = {
    "llama": _hexadecimal_or_raw,
    "plamo2": _hexadecimal,
    "rwkv": _escaped,
}


def _check_bytes(
    header: Header, spelled: Callable[[Collection[bytes]], set[int]], texts: set[bytes]
) -> None:
    missing = sorted(set(_IN_TEXT) - spelled({text for text in texts if len(text) <= 6}))
    if missing:
        model = header.metadata["tokenizer.ggml.model"]
        header.refuse(
            f"has no token for {len(missing)} single bytes, the first 0x{missing[0]:02X}, which a "
            f"{model} tokenizer needs for texts outside its vocabulary"
        )


def _check_charsmap(header: Header) -> None:
    """SentencePiece's normalizer stays inside its tables, whatever the text.

    An array of nodes and then texts that replace others. From a node, XORed with its base, a byte
    leads on; where a node ends a match, it leads to a value, the offset of a text that a NUL ends.
    """
    header.check({_CHARSMAP: Rule("array of uint8 or array of int8")})
    data = _column(header, "precompiled_charsmap").view(np.uint8)
    if not len(data):
        return
    if len(data) < 4:
        header.refuse(f"{_CHARSMAP} is cut short")
    size = int.from_bytes(data[:4].tobytes(), "little")
    nodes = np.frombuffer(data[4:][: min(size, len(data) - 4) // 4 * 4].tobytes(), "<u4")
    nodes = nodes.astype(np.int64)
    texts = data[4 + size :]
    inner = np.flatnonzero(nodes >> 31 == 0)
    base = (nodes[inner] >> 10) << ((nodes[inner] & 1 << 9) >> 6)
    onward = np.append(inner ^ base, base[:1] if len(inner) and inner[0] == 0 else [])
    ends = (inner ^ base)[nodes[inner] >> 8 & 1 == 1]
    if (
        not len(texts)
        or texts[-1]
        or (onward | 0xFF >= len(nodes)).any()
        or (nodes[ends] & 0x7FFFFFFF >= len(texts)).any()
    ):
        header.refuse(f"{_CHARSMAP} points outside itself")


def _check_special(header: Header, model: str, n_tokens: int) -> None:
    """A token that is put around every text must be there."""
    pre = header.metadata.get("tokenizer.ggml.pre", "")
    defaults = dict(_DEFAULTS.get(model, {}))
    if pre in _PRE_NO_BOS:
        defaults.pop("bos", None)
    adds = {
        "bos": model == "llama" or (model in _BPE and pre in _PRE_ADDS_BOS),
        "eos": model == "t5",
    }

    def is_there(name: str) -> bool:
        stated = header.metadata.get(f"tokenizer.ggml.{name}_token_id", n_tokens)
        return bool(min(stated, defaults.get(name, n_tokens)) < n_tokens)

    for name, by_default in adds.items():
        added = header.metadata.get(f"tokenizer.ggml.add_{name}_token", by_default)
        if added and not is_there(name):
            header.refuse(
                f"adds a {name} token to every text but has none: "
                f"tokenizer.ggml.{name}_token_id is missing or outside its {n_tokens} tokens"
            )
    for name in _NEEDED.get(model, ()):
        if not is_there(name):
            header.refuse(f"a tokenizer {model} needs tokenizer.ggml.{name}_token_id")
