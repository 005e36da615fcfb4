"""Prove the build: the project's self-test in a child process, its verdict in plain words.

The self-test's module is loaded by its path: importing the package here would need what it needs.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .child import clean_environment
from .environment import Environment
from .report import SetupError, say


def load_selftest(root: Path) -> ModuleType:
    """eftlocal/selftest.py, whose top level needs the standard library only."""
    path = root / "eftlocal" / "selftest.py"
    spec = importlib.util.spec_from_file_location("eftlocal_selftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def prove(environment: Environment) -> None:
    """SetupError when the build cannot decode a quantized model; one line when it can."""
    selftest = load_selftest(environment.root)
    result = selftest.run_in_child(
        python=environment.python,
        build_file=environment.build_file,
        environment=clean_environment(),
        cwd=environment.root,  # so that no other checkout's package is found first
    )
    if not result.ok:
        raise SetupError(f"the self-test failed: {result.message}", next_step=result.advice)
    say(f"self-test: {result.message}")
