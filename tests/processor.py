"""What the processor has, where that decides what llama.cpp does with weights."""

from __future__ import annotations

from pathlib import Path

import pytest

_CPUINFO = Path("/proc/cpuinfo")
AMX = _CPUINFO.is_file() and "amx_int8" in _CPUINFO.read_text()

# llama.cpp keeps most quantized weights in buffers of their own there, and other kernels read them.
not_with_amx = pytest.mark.skipif(AMX, reason="AMX has other buffers and kernels")
