"""Random blocks of quantized weights: valid ones, of mean 0 and a given standard deviation.

Scales and bits are written directly, so no weights are ever quantized. A mean other than 0 would
add up over layers: where a type's values have one, the scale's sign or the range of bits cures it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

Blocks = npt.NDArray[np.uint8]
"""(blocks, bytes of a block) uint8."""

_IQ4_NL_RMS = 67.4  # of its sixteen values
_MXFP4_RMS = 2.93  # of 0, 0.5, 1, 1.5, 2, 3, 4 and 6, of either sign


def random_blocks(
    kind: GGMLQuantizationType, std: float, nbytes: int, rng: np.random.Generator
) -> Blocks:
    """As many blocks as fit into nbytes; `kind` is one of TYPES."""
    block_bytes = GGML_QUANT_SIZES[kind][1]
    n = nbytes // block_bytes
    if kind.name in _FLOATS:
        values = rng.standard_normal(n, np.float32) * np.float32(std)
        return _FLOATS[kind.name](values).view(np.uint8).reshape(n, 2)
    blocks = rng.integers(0, 256, (n, block_bytes), np.uint8)
    _SCALES[kind.name](blocks, std, rng)
    return blocks


def _half(value: float) -> npt.NDArray[Any]:
    return np.array([value], "<f2").view(np.uint8)


def _q4_0(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """d * (q - 8), q of 1 to 15."""
    low, high = rng.integers(1, 16, (2, len(blocks), 16), np.uint8)
    blocks[:, 0:2] = _half(std / 4.32)
    blocks[:, 2:] = low | high << 4


def _q4_1(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """d * q + m."""
    blocks[:, 0:2] = _half(std / 4.61)
    blocks[:, 2:4] = _half(-7.5 * std / 4.61)


def _q5_0(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """d * (q - 16), q of 0 to 31."""
    _either_sign(blocks[:, 0:2], std / 9.25, rng)


def _q8_0(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """d * q."""
    blocks[:, 0:2] = _half(std / 73.9)


def _q4_k(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """d * scale * q - dmin * m, with 6-bit scale and m and 4-bit q all uniform."""
    blocks[:, 0:2] = _half(std / 258.3)
    blocks[:, 2:4] = _half(7.5 * std / 258.3)


def _q5_k(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """The same with 5-bit q."""
    blocks[:, 0:2] = _half(std / 526.9)
    blocks[:, 2:4] = _half(15.5 * std / 526.9)


def _q6_k(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """d * scale * (q - 32), q of 0 to 63; scales of -8 to 7, so that d is no subnormal number."""
    blocks[:, 192:208] = rng.integers(-8, 8, (len(blocks), 16), np.int8).view(np.uint8)
    _either_sign(blocks[:, 208:210], std / 86.0, rng)


def _iq4_nl(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """d * one of sixteen values."""
    _either_sign(blocks[:, 0:2], std / _IQ4_NL_RMS, rng)


def _mxfp4(blocks: Blocks, std: float, rng: np.random.Generator) -> None:
    """2**(e - 127) * one of sixteen values; two exponents, mixed, give any deviation."""
    scale = std / _MXFP4_RMS
    low = int(np.floor(np.log2(scale)))
    share = ((scale / 2.0**low) ** 2 - 1.0) / 3.0  # of blocks with the next exponent
    blocks[:, 0] = 127 + low + (rng.random(len(blocks)) < share)


def _either_sign(out: Blocks, scale: float, rng: np.random.Generator) -> None:
    """Half-precision scales, half of them negative: (blocks, 2)."""
    out[:] = _half(scale)
    out[:, 1] |= rng.integers(0, 2, len(out), np.uint8) << 7


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype("<u2")


_SCALES: dict[str, Callable[[Blocks, float, np.random.Generator], None]] = {
    "Q4_0": _q4_0,
    "IQ4_NL": _iq4_nl,
    "MXFP4": _mxfp4,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q8_0": _q8_0,
    "Q5_0": _q5_0,
    "Q4_1": _q4_1,
}
_FLOATS: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]] = {
    "F16": lambda values: values.astype("<f2"),
    "BF16": _bfloat16,
}
TYPES = (*_SCALES, *_FLOATS)
