"""Which accelerator to build for: what was asked for, what CMAKE_ARGS says, or what is here."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .machine import Gpu
from .report import SetupError, how_to_install
from .vulkan import TOO_OLD, Vulkan

# llama.cpp's options for accelerators, GGML_... in CMake, ggml-... in the names of libraries.
ACCELERATORS = (
    *("cuda", "hip", "musa", "metal", "vulkan", "sycl", "opencl", "cann"),
    *("webgpu", "openvino", "virtgpu", "hexagon", "zdnn"),
)
_SWITCH = re.compile(r"-D\s*GGML_(\w+?)(?::\w+)?=(.*)")
_OFF = ("", "0", "off", "no", "false", "n", "ignore", "notfound")


@dataclass(frozen=True)
class Choice:
    """name: of ACCELERATORS, several joined by +, or cpu; why: one clause for the user."""

    name: str
    cmake_args: tuple[str, ...]
    why: str


def switched(cmake_args: Sequence[str], names: Collection[str] = ACCELERATORS) -> dict[str, bool]:
    """Which parts of llama.cpp these options of CMake turn on and off; the last word counts."""
    found: dict[str, bool] = {}
    for switch in _SWITCH.finditer("\n".join(cmake_args)):
        if (name := switch.group(1).lower()) in names:
            found[name] = switch.group(2).strip().lower() not in _OFF
    return found


def accelerators_of(cmake_args: Sequence[str]) -> str:
    """What a build with these options is for, as `Choice.name`."""
    found = switched(cmake_args)
    return "+".join(name for name in ACCELERATORS if found.get(name)) or "cpu"


def choose(
    asked: str | None,
    gpu: Gpu,
    vulkan: Vulkan,
    *,
    refused: Collection[str] = (),
    macos: bool = sys.platform == "darwin",
) -> Choice:
    """The accelerator that was asked for, or the best that can be used; SetupError if refused.

    refused: those that CMAKE_ARGS turns off.
    """
    if asked == "cuda":
        return _cuda(gpu, "asked for")
    if asked == "vulkan":
        return _vulkan(vulkan, macos)
    if asked == "metal":
        if not gpu.metal:
            raise SetupError("--metal needs a Mac with Apple silicon: leave the option out here")
        return Choice("metal", ("-DGGML_METAL=on",), "asked for")
    if asked == "cpu":
        if macos:
            raise SetupError(
                "--cpu cannot be built on macOS, where llama-cpp-python always builds Metal in: "
                "set up without it, and keep layers off the GPU when you run"
            )
        return Choice("cpu", (), "asked for")
    if gpu.metal:
        return Choice("metal", ("-DGGML_METAL=on",), "a Mac with Apple silicon")
    if uses_cuda(gpu, refused):
        return _cuda(gpu, f"nvcc and {len(gpu.nvidia)} NVIDIA GPU(s) found")
    if vulkan.gpus and not vulkan.missing and "vulkan" not in refused:
        return Choice("vulkan", ("-DGGML_VULKAN=on",), f"Vulkan lists {', '.join(vulkan.gpus)}")
    return Choice("cpu", (), _why_none(gpu, vulkan, refused))


def uses_cuda(gpu: Gpu, refused: Collection[str]) -> bool:
    return bool(gpu.nvidia and gpu.nvcc) and "cuda" not in refused


def _why_none(gpu: Gpu, vulkan: Vulkan, refused: Collection[str]) -> str:
    if gpu.nvidia and not gpu.nvcc and "cuda" not in refused:
        remedy = f"to use it, {how_to_install('cuda')} and run this with --cuda"
        return f"there is an NVIDIA GPU but no nvcc: {remedy}"
    if vulkan.gpus and vulkan.missing and "vulkan" not in refused:
        return (
            f"Vulkan lists {', '.join(vulkan.gpus)}, but a build for it needs "
            f"{_needed(vulkan)}, then run this again"
        )
    if vulkan.undriven and "vulkan" not in refused:
        return (
            f"no Vulkan driver lists the GPU of {' and '.join(vulkan.undriven)}: to use it, "
            f"{how_to_install('vulkan driver')} and {how_to_install('vulkan')}, then run this again"
        )
    if gpu.nvcc and not gpu.nvidia and "cuda" not in refused:
        return "nvcc is installed, but nvidia-smi -L lists no usable GPU"
    return "no GPU that llama.cpp is built for here was found"


def _needed(vulkan: Vulkan) -> str:
    """What is missing, and where it comes from."""
    if TOO_OLD in vulkan.missing:
        return TOO_OLD
    return f"{' and '.join(vulkan.missing)}: {how_to_install('vulkan')}"


def _cuda(gpu: Gpu, why: str) -> Choice:
    if not gpu.nvcc:
        raise SetupError(f"--cuda needs the CUDA compiler nvcc: {how_to_install('cuda')}")
    if not gpu.compute:
        why += "; no GPU to ask for its architecture, so built for all of them, which takes longer"
    return Choice("cuda", ("-DGGML_CUDA=on", architectures(gpu)), why)


def architectures(gpu: Gpu) -> str:
    """CMake's option for the GPUs here; llama.cpp's own default fails where there is none."""
    found = ";".join(version.replace(".", "") for version in gpu.compute)
    return f"-DCMAKE_CUDA_ARCHITECTURES={found or 'all-major'}"


def _vulkan(vulkan: Vulkan, macos: bool) -> Choice:
    if macos:
        raise SetupError("--vulkan is not for macOS, where llama.cpp uses Metal: leave it out")
    if vulkan.missing:
        raise SetupError(f"--vulkan needs {_needed(vulkan)}, then run this again")
    return Choice("vulkan", ("-DGGML_VULKAN=on",), "asked for")
