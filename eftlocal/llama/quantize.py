"""llama.cpp's quantizer: of a whole file, and of some rows.

It tells nothing while it works and cannot be stopped: a file is quantized in a child process (see
`eftlocal.loading.requantize`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import ModelFileError
from eftlocal.gguf_file.parser import block_of, constants
from eftlocal.llama.engine import ggml, last_words, llama_cpp, raise_pending, recent, start
from eftlocal.native import SignalsLater

_FILES = constants.LlamaFileType
FILE_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "BF16": int(_FILES.MOSTLY_BF16),
        "F16": int(_FILES.MOSTLY_F16),
        "Q8_0": int(_FILES.MOSTLY_Q8_0),
        "Q6_K": int(_FILES.MOSTLY_Q6_K),
        "Q5_K": int(_FILES.MOSTLY_Q5_K_S),
        "Q5_1": int(_FILES.MOSTLY_Q5_1),
        "Q5_0": int(_FILES.MOSTLY_Q5_0),
        "IQ4_NL": int(_FILES.MOSTLY_IQ4_NL),
        "Q4_K": int(_FILES.MOSTLY_Q4_K_S),
        "IQ4_XS": int(_FILES.MOSTLY_IQ4_XS),
        "Q4_1": int(_FILES.MOSTLY_Q4_1),
        "Q4_0": int(_FILES.MOSTLY_Q4_0),
        "MXFP4": int(_FILES.MOSTLY_MXFP4_MOE),
    }
)
"""Types that a file can be written in without an importance matrix, and llama.cpp's number of
each. The earlier loses less, as a rule."""


def quantize_file(
    source: Path, target: Path, type_: str, *, output: str, embedding: str, threads: int
) -> None:
    """Writes a model again with other types of tensors; all parts of a split one into one file.

    Every matrix gets the same type, where llama.cpp's own mixtures give some layers a type that
    may have no fast kernel.

    Args:
        target: what is there is lost; what fails leaves a part of it.
        type_: a key of FILE_TYPES.
        output, embedding: names of the types of the output matrix and of the embeddings.

    Raises:
        ModelFileError: llama.cpp cannot read the one, or write the other.
    """
    start()
    kinds = constants.GGMLQuantizationType
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = FILE_TYPES[type_]
    params.output_tensor_type = int(kinds[output])
    params.token_embedding_type = int(kinds[embedding])
    params.allow_requantize = params.pure = True
    recent.clear()
    with SignalsLater():
        failed = llama_cpp.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(params)
        )
    raise_pending()
    if failed:
        raise ModelFileError(f"{source}: llama.cpp cannot write it as {type_}: {last_words()}")


def quantized(values: NDArray[np.float32], type_: str) -> bytes:
    """Rows of weights, (rows, columns) float32, as llama.cpp stores them in a type of ggml's.

    The columns must be whole blocks of the type.
    """
    values = np.ascontiguousarray(values, np.float32)
    kind, (block, size) = constants.GGMLQuantizationType[type_], block_of(type_)
    found = np.empty(values.size // block * size, np.uint8)
    whole: Any = ctypes.c_int64
    quantize = ggml(
        "ggml_quantize_chunk",
        ctypes.c_size_t,
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, whole, whole, whole, ctypes.c_void_p),
    )
    quantize(int(kind), values.ctypes.data, found.ctypes.data, 0, *values.shape, None)
    return found.tobytes()
