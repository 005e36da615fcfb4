"""What to build: the choices made, turned into compiler settings and the key of the wheel.

pip keeps wheels by name and version alone, so a wheel made without CUDA or without the AMX cure
would be used again for a build that asks for them. The key here names all that shapes the wheel.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .accelerator import (
    Choice,
    accelerators_of,
    architectures,
    choose,
    switched,
    uses_cuda,
)
from .amx import Cure, decide
from .machine import Compilers, Cpu, find_compilers, read_cpu, read_gpu
from .report import SetupError, how_to_install
from .vulkan import Vulkan, read_vulkan

LLAMA_CPP_PYTHON = "0.3.36"
# Raise it when the recipe below builds something else from the same settings.
RECIPE = 1
# Settings of the caller's shell that reach CMake; they are part of the build and remembered.
BUILD_VARIABLES = ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "CC", "CXX", "CUDACXX")


@dataclass(frozen=True)
class Choices:
    """What the user asked for; later set-ups of the same checkout keep to it."""

    accelerator: str | None = None
    rpc: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {
            "accelerator": self.accelerator,
            "no_rpc": not self.rpc,  # older set-ups wrote "rpc": false where nobody had asked
            "environment": dict(self.environment),
        }

    def in_words(self) -> str:
        words = [f"--{self.accelerator}"] if self.accelerator else []
        words += [] if self.rpc else ["--no-rpc"]
        words += [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join(words)


@dataclass(frozen=True)
class Plan:
    """One build of llama-cpp-python, fully described."""

    version: str
    accelerator: Choice
    rpc: bool
    cure: Cure
    compilers: Compilers
    cpu: Cpu
    cmake_args: tuple[str, ...]
    cflags: tuple[str, ...]
    cxxflags: tuple[str, ...]
    cuda_compiler: str = ""
    cuda_compiler_version: str = ""
    vulkan_tools: str = ""

    @property
    def key(self) -> str:
        """Changes with everything that shapes the wheel; equal for equal builds."""
        shape = {
            "recipe": RECIPE,
            "version": self.version,
            "cmake_args": self.cmake_args,
            "cflags": self.cflags,
            "cxxflags": self.cxxflags,
            "compiler": [self.compilers.cc, self.compilers.cxx, self.compilers.version],
            "cuda_compiler": self.cuda_compiler_version,
            **({"vulkan": self.vulkan_tools} if self.vulkan_tools else {}),
            "cpu": [self.cpu.model, self.cpu.instruction_sets],
            "platform": [sysconfig.get_platform(), *platform.libc_ver()],
        }
        digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.version}-{self.accelerator.name}-{digest}"

    def build_environment(self, jobs: int) -> dict[str, str]:
        """What the compiler run needs on top of the caller's environment."""
        env = {
            "CMAKE_ARGS": shlex.join(self.cmake_args),
            "CFLAGS": shlex.join(self.cflags),
            "CXXFLAGS": shlex.join(self.cxxflags),
            "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
        }
        if self.compilers.cc:
            env["CC"] = shlex.join(self.compilers.cc)
            env["CXX"] = shlex.join(self.compilers.cxx)
        if self.cuda_compiler:
            env["CUDACXX"] = self.cuda_compiler
        return env

    def facts(self) -> dict[str, object]:
        """What `eftlocal doctor` tells about the build later."""
        return {
            "llama_cpp_python": self.version,
            "key": self.key,
            "asked_for": self.accelerator.name,
            "accelerator_why": self.accelerator.why,
            "rpc": self.rpc,
            "cmake_args": list(self.cmake_args),
            "cflags": list(self.cflags),
            "cxxflags": list(self.cxxflags),
            "amx_cure": {"applied": self.cure.needed, "why": self.cure.why},
            "compiler": self.compilers.version,
            "cuda_compiler": self.cuda_compiler_version,
            "vulkan_tools": self.vulkan_tools,
            "cpu": self.cpu.model,
            "cpu_has_amx": self.cpu.has_amx,
        }


def environment_choices(env: Mapping[str, str], earlier: Mapping[str, str]) -> dict[str, str]:
    """What is set now, and what was earlier; one that is set to nothing is dropped."""
    both = {**earlier, **env}
    return {name: both[name] for name in BUILD_VARIABLES if both.get(name)}


def _words(env: Mapping[str, str], name: str) -> list[str]:
    """A variable's value, parted as a shell does."""
    try:
        return shlex.split(env.get(name, ""))
    except ValueError:
        raise SetupError(f"{name}={env[name]}: the closing quotation mark is missing") from None


def make_plan(choices: Choices) -> Plan:
    """Look at the machine and decide; SetupError where a choice cannot be met."""
    env = {k: v for k, v in os.environ.items() if k not in BUILD_VARIABLES}
    env.update(choices.environment)
    own, cflags, cxxflags = (_words(env, name) for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS"))
    for name in ("CC", "CXX"):
        _words(env, name)
    compilers = find_compilers(env)
    if compilers is None:
        named = [f"{k}={env[k]}" for k in ("CC", "CXX") if k in env]
        if named:
            raise SetupError(
                f"{' '.join(named)}: no such pair of compilers works here",
                next_step="correct or unset CC and CXX (--forget drops remembered ones)",
            )
        raise SetupError(
            "no C and C++ compiler found",
            next_step=f"{how_to_install('compiler')}, then run this again",
        )
    cpu = read_cpu()
    gpu = read_gpu(env)
    switches = switched(own)
    asked, refused = choices.accelerator, [name for name, on in switches.items() if not on]
    vulkan = Vulkan()
    if "vulkan" in (asked, *switches) or not (asked or uses_cuda(gpu, refused)):
        vulkan = read_vulkan(env, compilers)
    on = accelerators_of(own)
    if asked in refused or (asked == "cpu" and on != "cpu"):
        raise SetupError(
            f"--{asked} and CMAKE_ARGS={shlex.quote(env['CMAKE_ARGS'])} contradict each other",
            next_step="leave one out (--forget drops what earlier set-ups were given)",
        )
    if asked is None and on != "cpu":  # the user's own options say it
        accelerator = Choice("", (architectures(gpu),) if "cuda" in on else (), "")
    else:
        accelerator = choose(asked, gpu, vulkan, refused=refused)
    cure = decide(cpu, compilers)
    # Nothing here looks at pictures: leaving llava out spares a quarter of the compiling.
    cmake_args = ["-DLLAVA_BUILD=OFF", *accelerator.cmake_args]
    cmake_args += ["-DGGML_RPC=on"] if choices.rpc else []
    # The user's own come last: CMake and compilers take the last word.
    cmake_args += own
    if (name := accelerators_of(cmake_args)) != accelerator.name:
        accelerator = replace(accelerator, name=name, why="by CMAKE_ARGS")
    cuda = "cuda" in name
    return Plan(
        version=LLAMA_CPP_PYTHON,
        accelerator=accelerator,
        rpc=switched(cmake_args, ("rpc",)).get("rpc", False),
        cure=cure,
        compilers=compilers,
        cpu=cpu,
        cmake_args=tuple(cmake_args),
        cflags=(*cure.flags, *cflags),
        cxxflags=(*cure.flags, *cxxflags),
        cuda_compiler=gpu.nvcc if cuda else "",
        cuda_compiler_version=gpu.nvcc_version if cuda else "",
        vulkan_tools=vulkan.tools if "vulkan" in name else "",
    )
