"""What this machine is: its CPU, its compilers, its CUDA toolkit and GPUs. Questions only."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .child import ask

# The CPU flags that change what GGML_NATIVE compiles. Others come and go with kernel updates and
# would cost a rebuild for nothing.
_INSTRUCTION_SETS = re.compile(
    r"^(s?sse|ssse|avx|fma|f16c|bmi|amx|sha|vaes|gfni|vpclmul|popcnt|movbe|asimd|neon|sve|sme|"
    r"i8mm|bf16|fp|dotprod|sb|rv)"
)


@dataclass(frozen=True)
class Cpu:
    model: str
    flags: frozenset[str]

    @property
    def has_amx(self) -> bool:
        return "amx_tile" in self.flags

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        return tuple(sorted(flag for flag in self.flags if _INSTRUCTION_SETS.match(flag)))


@dataclass(frozen=True)
class Compilers:
    """The C and C++ compiler that CMake will be told to use; empty commands mean CMake chooses."""

    cc: tuple[str, ...]
    cxx: tuple[str, ...]
    version: str  # the first line of --version, such as "c++ (Debian 12.2.0-14) 12.2.0"

    @property
    def gcc_major(self) -> int | None:
        """GCC's major version; None for every other compiler."""
        found = re.search(r"\) (\d+)\.\d+", self.version)
        return int(found.group(1)) if found and "clang" not in self.version.lower() else None


@dataclass(frozen=True)
class Gpu:
    """What there is of CUDA and Metal."""

    nvidia: tuple[str, ...]  # names of the GPUs that the driver lists
    compute: tuple[str, ...]  # their compute capabilities, such as 9.0
    nvcc: str  # path of the CUDA compiler, or ""
    nvcc_version: str
    metal: bool


def read_cpu() -> Cpu:
    """The CPU's model and flags, as far as the system tells."""
    if sys.platform.startswith("linux"):
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
    if sys.platform == "darwin":
        model = ask(["sysctl", "-n", "machdep.cpu.brand_string"]).out.strip()
        features = ask(["sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"]).out
        return Cpu(model or platform.machine(), frozenset(features.lower().split()))
    return Cpu(platform.processor() or platform.machine(), frozenset())


def parse_cpuinfo(text: str) -> Cpu:
    """Linux's /proc/cpuinfo, x86 or Arm."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    arm = " ".join(fields.get(name, "") for name in ("CPU implementer", "CPU part")).strip()
    model = fields.get("model name") or arm or platform.machine()
    return Cpu(model, frozenset((fields.get("flags") or fields.get("Features") or "").split()))


def find_compilers(env: Mapping[str, str]) -> Compilers | None:
    """CC and CXX, or the system's pair; None when there is none. Windows: CMake finds its own."""
    if sys.platform == "win32" and "CC" not in env:
        return Compilers((), (), _visual_studio()) if _visual_studio() else None
    pairs: tuple[tuple[str, str], ...] = (("cc", "c++"), ("gcc", "g++"), ("clang", "clang++"))
    if "CC" in env or "CXX" in env:
        pairs = ((env.get("CC", "cc"), env.get("CXX", "c++")),)
    for c_name, cxx_name in pairs:
        cc, cxx = shlex.split(c_name), shlex.split(cxx_name)
        if cc and cxx and shutil.which(cc[0]) and shutil.which(cxx[0]):
            answer = ask([*cxx, "--version"])
            if answer.code == 0 and answer.out.strip():
                return Compilers(tuple(cc), tuple(cxx), answer.out.strip().splitlines()[0])
    return None


def _visual_studio() -> str:
    """Version of the newest Visual Studio that has the C++ tools, or ""."""
    if shutil.which("cl"):
        return "cl on PATH " + ask(["cl"]).out.partition("\n")[0].strip()
    programs = os.environ.get("PROGRAMFILES(X86)", r"C:\Program Files (x86)")
    locator = Path(programs) / "Microsoft Visual Studio" / "Installer" / "vswhere.exe"
    needs = "Microsoft.VisualStudio.Component.VC.Tools.x86.x64"
    query = ["-latest", "-products", "*", "-requires", needs, "-property", "installationVersion"]
    return ask([str(locator), *query]).out.strip()


def read_gpu(env: Mapping[str, str]) -> Gpu:
    """Ask the NVIDIA driver and look for nvcc; Metal is every Mac with Apple silicon."""
    listed = ask(["nvidia-smi", "-L"])
    names = [line for line in listed.out.splitlines() if line.startswith("GPU ")]
    nvidia = tuple(names) if listed.code == 0 else ()
    compute: tuple[str, ...] = ()
    if nvidia:
        answer = ask(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
        if answer.code == 0:
            compute = tuple(sorted(set(re.findall(r"^\s*(\d+\.\d+)\s*$", answer.out, re.M))))
    nvcc = find_nvcc(env)
    version = ask([nvcc, "--version"]).out.strip().rpartition("\n")[2] if nvcc else ""
    metal = sys.platform == "darwin" and platform.machine() == "arm64"
    return Gpu(nvidia, compute, nvcc, version, metal)


def find_nvcc(env: Mapping[str, str]) -> str:
    """Path of nvcc from CUDACXX, PATH, CUDA_HOME, CUDA_PATH or the usual folder; "" if none."""
    for candidate in (env.get("CUDACXX", ""), "nvcc"):
        if candidate and (found := shutil.which(candidate)):
            return found
    folders = [env.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    for folder in filter(None, folders):
        if found := shutil.which("nvcc", path=str(Path(folder) / "bin")):
            return found
    return ""


def default_jobs(accelerator: str = "cpu") -> int:
    """One compile job a core, but no more than memory bears.

    A file of llama.cpp takes up to 1.5 GB, of Vulkan's shaders up to 3.2 (GCC 14).
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    if sys.platform == "win32":
        return cores
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, int(memory / (3.2e9 if "vulkan" in accelerator else 1.5e9))))
