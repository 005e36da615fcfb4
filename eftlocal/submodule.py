"""A submodule of another's package, without all that the package itself imports.

llama_cpp imports jinja2, diskcache and sqlite3 for a class that is not used here, and gguf imports
yaml: together they took an eighth of the time of a short run.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def submodule(name: str) -> Any:
    """The module of this dotted name.

    Where the package is not imported yet, it stays so: what was imported on the way leaves
    `sys.modules` again, and whoever imports the package later gets all of it, as ever.

    Raises:
        ModuleNotFoundError: there is no such package or module.
    """
    package = name.partition(".")[0]
    if package in sys.modules:
        return import_module(name)
    spec = find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    sys.modules[package] = module_from_spec(spec)  # its code is not run
    try:
        return import_module(name)
    finally:
        for other in [each for each in sys.modules if each.partition(".")[0] == package]:
            del sys.modules[other]
