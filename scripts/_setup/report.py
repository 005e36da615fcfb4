"""How the set-up speaks: plain lines, one error type, why a job failed; never an index's host."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_ADDRESS = re.compile(r"\b(?:https?|ftp|file)://[^\s'\")>,]+")
_HOST = re.compile(r"host='[^']*'(?:, port=\d+)?")


class SetupError(Exception):
    """Something the user must know: what went wrong, what to do next, and where the log lies."""

    def __init__(self, what: str, *, next_step: str = "", log: Path | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.log = log

    def lines(self) -> list[str]:
        lines = [f"setup: {self.what}"]
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        if self.log is not None:
            lines.append(f"  log:  {shown(self.log)}")
        return lines


def say(line: str) -> None:
    print(line, flush=True)


def complain(error: SetupError) -> None:
    for line in error.lines():
        print(line, file=sys.stderr, flush=True)


def shown(path: Path) -> str:
    """The path as a person would type it from where they stand."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # Windows: another drive
        return str(path)
    return str(path) if relative.startswith("..") else relative


def without_hosts(text: str) -> str:
    """Addresses taken out: they may carry credentials, and mirrors are nobody's business."""
    return _HOST.sub("host=(index)", _ADDRESS.sub("(index)", text))


# By a word of os-release's ID and ID_LIKE: how to install, and the packages of each thing.
_PACKAGES = {
    "debian": {
        "": "apt install",
        "compiler": "build-essential",
        "venv": "python3-venv",
        "vulkan": "glslc libvulkan-dev spirv-headers",
        "vulkan driver": "mesa-vulkan-drivers",
    },
    "fedora": {
        "": "dnf install",
        "compiler": "gcc-c++ make",
        "venv": "python3-pip",
        "vulkan": "glslc vulkan-headers vulkan-loader-devel spirv-headers-devel",
        "vulkan driver": "mesa-vulkan-drivers",
    },
    "suse": {
        "": "zypper install",
        "compiler": "gcc-c++ make",
        "venv": "python3-pip",
        "vulkan": "shaderc vulkan-devel spirv-headers",
        "vulkan driver": "Mesa-vulkan-device-select libvulkan_radeon libvulkan_intel",
    },
    "arch": {
        "": "pacman -S",
        "compiler": "base-devel",
        "venv": "python-pip",
        "vulkan": "shaderc vulkan-headers vulkan-icd-loader spirv-headers",
        "vulkan driver": "vulkan-radeon vulkan-intel",
    },
    "alpine": {
        "": "apk add",
        "compiler": "build-base linux-headers",
        "venv": "python3 py3-pip",
        "vulkan": "shaderc vulkan-headers vulkan-loader-dev spirv-headers",
        "vulkan driver": "mesa-vulkan-ati mesa-vulkan-intel",
    },
}
_ELSEWHERE = {
    "compiler": "install a C++ compiler",
    "venv": "install Python's venv and pip",
    "vulkan": "install glslc, Vulkan's headers and loader, and the SPIR-V headers",
    "vulkan driver": "install your GPU's Vulkan driver",
}
_DARWIN = {"compiler": "xcode-select --install", "venv": "brew install python"}
_WINDOWS = {
    "compiler": "install Visual Studio Build Tools with 'Desktop development with C++'",
    "venv": "install Python again, with pip",
    "vulkan": "install LunarG's Vulkan SDK (winget install KhronosGroup.VulkanSDK)",
}


def how_to_install(what: str, release: str | None = None) -> str:
    """The command that installs `compiler`, `venv`, `vulkan`, `vulkan driver` or `cuda` here.

    release: the text of os-release; None reads this system's.
    """
    if what == "cuda":
        return "install NVIDIA's CUDA toolkit (on Debian and Ubuntu: nvidia-cuda-toolkit)"
    if release is None and sys.platform in ("darwin", "win32"):
        return (_DARWIN if sys.platform == "darwin" else _WINDOWS).get(what, _ELSEWHERE[what])
    if release is None:
        try:
            release = Path("/etc/os-release").read_text(errors="replace")
        except OSError:
            release = ""
    family = " ".join(re.findall(r"^id(?:_like)?=(.*)$", release.lower(), re.M))
    for name, packages in _PACKAGES.items():
        if name in family:
            return f"sudo {packages['']} {packages[what]}"
    return _ELSEWHERE[what]


# Why pip or the compiler failed, from the end of the log

AGAIN = "then run this again"
_NETWORK = (
    r"Temporary failure in name resolution|NewConnectionError|Max retries exceeded|"
    r"Failed to establish a new connection|Read timed out|ConnectTimeout|ProxyError|SSLError|"
    r"Network is unreachable|Connection refused|getaddrinfo failed|nodename nor servname"
)
_COMPILER = (
    r"No CMAKE_C(XX)?_COMPILER could be found|CMAKE_C(XX)?_COMPILER not set|"
    r"is not a full path to an existing compiler|is not able to compile a simple test program"
)
_VULKAN = (
    r"Could NOT find Vulkan|SPIRV-HeadersConfig\.cmake|SPIRV-Headers_DIR|"
    r"vulkan/vulkan(?:_core)?\.h(?:pp)?: No such file|LayerSettingEXT|spirv\.hpp: No such file"
)
# Patterns in order of trust: the first that fits names the cause.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (r"No space left on device|Errno 28", "the disk is full", "free some space"),
    (
        r"Killed signal terminated program|c\+\+: fatal error: Killed|out of memory|"
        r"virtual memory exhausted|C1060",
        "the compiler ran out of memory",
        "try again with --jobs 1",
    ),
    (_COMPILER, "there is no working C and C++ compiler", "compiler"),
    (_VULKAN, "what a Vulkan build needs is missing or too old", "vulkan"),
    (
        r"(?m)^\s*CUDA::cublas$",
        "the CUDA toolkit has no cuBLAS here",
        "install cuBLAS's library and headers",
    ),
    (
        r"unsupported GNU version|#error -- unsupported|nvcc fatal|Unsupported gpu architecture|"
        r"CUDA_ARCHITECTURES|CUDA compiler|CUDAToolkit",
        "the CUDA toolkit and the compiler or GPU do not go together",
        "install a matching toolkit or set CUDACXX to its nvcc; --forget --cpu builds without CUDA",
    ),
    (
        r"(?m)^.*:\d+:\d+: (?:fatal )?error: .*$",
        "the compiler stopped: {whole}",
        "see the log, try another compiler (CC=... CXX=...)",
    ),
    (_NETWORK, "the package index cannot be reached", "check the network and proxy settings"),
    (
        r"requires a different Python: ([\d.]+)",
        "the Python in .venv is {0}, which does not fit",
        "remove the folder .venv",
    ),
    (
        r"No matching distribution found for ([^\s(]+)",
        "the package index has nothing that fits {0}",
        "check the network, the index settings of pip, and that this Python is not too new",
    ),
    (r"Permission denied|Errno 13", "a file could not be written", "see the log for its name"),
    (r"(?mi)^\s*error: .*$", "{whole}", "see the log"),
)


def diagnose(log: str) -> tuple[str, str]:
    """(what is wrong, what to do next); ("", "") when the log has no cause known here."""
    for pattern, what, advice in _CAUSES:
        if found := re.search(pattern, log):
            if advice in _ELSEWHERE:
                return what, f"{how_to_install(advice)}, {AGAIN}"
            whole = without_hosts(found.group(0)).strip()[:160]
            return what.format(*found.groups(), whole=whole), f"{advice}, {AGAIN}"
    return "", ""


def last_lines(log: str, count: int = 12) -> list[str]:
    """The end of a log for the screen: no hosts, no empty lines, none too long."""
    lines = [line.rstrip() for line in without_hosts(log).splitlines() if line.strip()]
    return [line if len(line) <= 200 else line[:197] + "..." for line in lines[-count:]]
