"""Whether llama.cpp can use a file, told from its header before llama.cpp sees it."""

from __future__ import annotations

from pathlib import Path

from eftlocal.gguf_file.header import Header, read_header
from eftlocal.gguf_file.metadata_rules import check_metadata
from eftlocal.gguf_file.tensor_rules import check_tensors
from eftlocal.gguf_file.tokenizer_rules import check_tokenizer


def checked_model(path: str | Path) -> Header:
    """The header of a file that can play a role.

    A check of the header cannot know everything: what passes may still fail in llama.cpp.

    Raises:
        ModelFileError: a line that names the tensor or the key.
    """
    header = read_header(path)
    if not header.is_adapter:
        check_metadata(header)
        check_tokenizer(header)
        check_tensors(header)
    return header
