"""Which accelerator to build for, and the CMake options that say so."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .machine import Gpu, how_to_install
from .report import SetupError


@dataclass(frozen=True)
class Choice:
    """name: cuda, metal or cpu; why: one clause for the user."""

    name: str
    cmake_args: tuple[str, ...]
    why: str


def choose(asked: str | None, gpu: Gpu, *, macos: bool = sys.platform == "darwin") -> Choice:
    """The accelerator that was asked for, or the best that can be used; SetupError if refused."""
    if asked == "cuda":
        return _cuda(gpu, "asked for")
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
    if gpu.nvidia and gpu.nvcc:
        return _cuda(gpu, f"nvcc and {len(gpu.nvidia)} NVIDIA GPU(s) found")
    if gpu.nvidia:
        remedy = f"to use it, {how_to_install('cuda')} and run this with --cuda"
        return Choice("cpu", (), f"there is an NVIDIA GPU but no nvcc: {remedy}")
    if gpu.nvcc:
        return Choice("cpu", (), "nvcc is installed, but nvidia-smi -L lists no usable GPU")
    return Choice("cpu", (), "no GPU that llama.cpp is built for here was found")


def _cuda(gpu: Gpu, why: str) -> Choice:
    if not gpu.nvcc:
        raise SetupError(f"--cuda needs the CUDA compiler nvcc: {how_to_install('cuda')}")
    if gpu.compute:
        architectures = ";".join(version.replace(".", "") for version in gpu.compute)
    else:
        # Without a GPU to ask, "native" (llama.cpp's default) has nothing to look at.
        architectures = "all-major"
        why += "; no GPU to ask for its architecture, so built for all of them, which takes longer"
    return Choice("cuda", ("-DGGML_CUDA=on", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"), why)
