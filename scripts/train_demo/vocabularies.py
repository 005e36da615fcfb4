"""The vocabularies: the demo's own, and those of the pairs that steer a base of another one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

END = 0
"""The end token's id, in every vocabulary."""
SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = 100
"""The characters that a SentencePiece-style vocabulary has of its own; others fall to bytes."""

SUPERWORDS = 15
"""One token in so many goes over words, with "superbpe"."""

# How a text is parted before merging, by llama.cpp's name (tokenizer.ggml.pre); None is GPT-2's.
PRE_TOKENIZERS: dict[str, tuple[str, ...] | None] = {
    "gpt-2": None,
    # digits one by one, a sign before a word joined to it, and line ends to the signs before them
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    # digits in threes from the right, and nothing else: tokens reach over words
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
}


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer is trained to be.

    Attributes:
        size: its tokens, special ones included.
        pre: byte-level BPE with one of PRE_TOKENIZERS; None is BPE in the style of SentencePiece:
            characters, blanks as `▁`, bytes for what is in no token.
    """

    size: int
    pre: str | None = "gpt-2"

    def train(self, texts: list[str]) -> Tokenizer:
        """A tokenizer of at most `size` tokens, whose ids are those that llama.cpp gives."""
        if self.pre is None:
            return _piecewise(texts, self.size)
        if self.pre == "superbpe":
            return _over_words(texts, self.size)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = _parted(self.pre)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.size,
            special_tokens=["<|end|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer


VOCABULARIES = {
    "demo": Vocabulary(4096),
    "bpe-500": Vocabulary(500),
    "bpe-1500": Vocabulary(1500),
    "bpe-16000": Vocabulary(16000),
    "qwen2-1500": Vocabulary(1500, "qwen2"),
    "superbpe-1500": Vocabulary(1500, "superbpe"),
    "spm-2000": Vocabulary(2000, None),
}


def _parted(pre: str) -> pre_tokenizers.PreTokenizer:
    parts = PRE_TOKENIZERS[pre]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=parts is None)
    splits = [pre_tokenizers.Split(Regex(part), "isolated") for part in parts or ()]
    return pre_tokenizers.Sequence([*splits, level]) if splits else level


def _over_words(texts: list[str], size: int) -> Tokenizer:
    """SuperBPE (Liu et al. 2025, arXiv 2503.13423): words are merged first, then neighbours."""
    words = Vocabulary(size - size // SUPERWORDS).train(texts)
    tokens = sorted(words.get_vocab(), key=words.get_vocab().__getitem__)
    # each token a letter of its own, so that the same trainer merges tokens
    letters = [chr(0x4E00 + i) for i in range(len(tokens))]
    spelled = (
        "".join(letters[i] for i in coded.ids)
        for coded in words.encode_batch([text for text in texts if not re.search(r"\d", text)])
    )
    joined = Tokenizer(models.BPE())
    joined.train_from_iterator(
        spelled,
        trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=False),
    )

    def text(word: str) -> str:
        return "".join(tokens[ord(letter) - 0x4E00] for letter in word)

    merges = [tuple(pair) for pair in json.loads(words.to_str())["model"]["merges"]]
    over = json.loads(joined.to_str())["model"]["merges"]
    merges += [(text(one), text(other)) for one, other in over]
    tokens = list(dict.fromkeys([*tokens, *(text(one + other) for one, other in over)]))
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.add_special_tokens([tokens[END]])
    tokenizer.pre_tokenizer = _parted("superbpe")
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _piecewise(texts: list[str], size: int) -> Tokenizer:
    """No token goes over a blank or from one script into another, as in SentencePiece."""
    special = ["</s>", "<unk>", *BYTES]
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.UnicodeScripts(),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=True),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        limit_alphabet=ALPHABET,
        initial_alphabet=[SPACE],
        show_progress=False,
    )
    found.train_from_iterator(texts, trainer)
    vocab = found.get_vocab()
    pieces = sorted(set(vocab) - set(special), key=vocab.__getitem__)
    # llama.cpp merges any two neighbours that make a token, the first tokens before others
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer
