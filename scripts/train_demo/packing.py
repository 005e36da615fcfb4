"""Texts to rows of token ids."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer
from vocabularies import END


def pack(
    items: Iterable[tuple[list[int], list[float]]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill rows of length + 1 with whole texts: ids (rows, length + 1) uint16, and the loss weights
    (rows, length) float32 of ids[:, 1:]. Every row begins at the beginning of a text.
    """
    rows: list[tuple[list[int], list[float]]] = []
    open_rows: list[tuple[list[int], list[float]]] = []
    for ids, weights in items:
        ids, weights = ids[: length + 1], weights[: length + 1]
        for row in open_rows:
            if len(row[0]) + len(ids) <= length + 1:
                row[0].extend(ids)
                row[1].extend(weights)
                break
        else:
            open_rows.append((list(ids), list(weights)))
        if len(open_rows) > 16:
            open_rows.sort(key=lambda row: len(row[0]))
            rows.append(open_rows.pop())
    rows += open_rows
    out = np.zeros((len(rows), length + 1), np.uint16)
    mask = np.zeros((len(rows), length), np.float32)
    for i, (ids, weights) in enumerate(rows):
        out[i, : len(ids)] = ids
        mask[i, : len(ids) - 1] = weights[1:]
    return out, mask


def pack_texts(
    texts: list[str], tokenizer: Tokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of plain texts, each closed by the end token; every token is learned."""
    encoded = ([*e.ids, END] for e in tokenizer.encode_batch(texts))
    return pack(((ids, [1.0] * len(ids)) for ids in encoded), length)


def pack_pairs(
    pairs: list[tuple[str, str]], tokenizer: Tokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of prompts and answers; only the answers and their end tokens are learned."""
    items = []
    for prompt, answer in pairs:
        head, tail = tokenizer.encode(prompt).ids, [*tokenizer.encode(answer).ids, END]
        items.append((head + tail, [0.0] * len(head) + [1.0] * len(tail)))
    return pack(items, length)
