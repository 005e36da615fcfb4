"""A submodule without its package: what it is, and what becomes of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from eftlocal.submodule import submodule

PROGRAM = """
import sys
from eftlocal.submodule import submodule
alone = submodule("gguf.constants")
assert not {"gguf", "gguf.constants", "yaml"} & sys.modules.keys()
import gguf
assert gguf.constants.GGML_QUANT_SIZES == alone.GGML_QUANT_SIZES and gguf.GGUFWriter
assert submodule("gguf.constants") is gguf.constants
"""


def test_the_package_stays_to_be_imported_by_others() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["no_such_package.part", "gguf.no_such_part"])
def test_what_is_not_there_is_an_import_error(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        submodule(name)
