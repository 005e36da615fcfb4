"""What llama.cpp wants of a tokenizer: that it can take any text apart without looping or aborting.

llama.cpp finds most of this out while it tokenizes, where it ends the process or never returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from eftlocal.gguf_file.header import Header, Rule, rules
from eftlocal.gguf_file.parser import StringArray

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


def check_tokenizer(header: Header) -> None:
    """Raises ModelFileError for a tokenizer that is missing, contradicts itself or has holes.

    The header must have been read with its arrays.
    """
    model = header.metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model in ("none", "no_vocab", ""):
        header.refuse(f"has no tokenizer (tokenizer.ggml.model is {model!r:.60})")
    header.check(_KEYS)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray) or not len(tokens):
        header.refuse("has no vocabulary (tokenizer.ggml.tokens)")
    longest = int(np.argmax(np.diff(tokens.ends, prepend=0)))
    if len(tokens.to_bytes()[longest]) > _LONGEST:
        header.refuse(f"token {longest} has {len(tokens.to_bytes()[longest]):,} bytes")
    texts = _as_llama_cpp_reads(tokens)
    _check_doubles(header, texts)
    _check_columns(header, len(texts))
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
