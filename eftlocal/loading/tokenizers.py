"""Models without their weights, which is all that it takes to tokenize."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eftlocal.llama import Model
from eftlocal.loading.roles import RoleSource


@contextmanager
def tokenizers(sources: Mapping[str, RoleSource]) -> Iterator[dict[str, Model]]:
    """The vocabularies of these roles' files, by role; roles of one file share a model.

    Args:
        sources: as `prepare` gives them, their headers checked.

    Raises:
        ModelFileError: llama.cpp refuses a file.
    """
    with ExitStack() as resources:
        loaded: dict[Path, Model] = {}
        for source in sources.values():
            file = source.path.resolve()
            if file not in loaded:
                loaded[file] = resources.enter_context(Model(file, vocab_only=True))
        yield {role: loaded[source.path.resolve()] for role, source in sources.items()}
