"""eftlocal/selftest.py, read by its path: its top level needs the standard library only."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _read() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "eftlocal" / "selftest.py"
    spec = importlib.util.spec_from_file_location("eftlocal_selftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


selftest = _read()
