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


def how_to_install(what: str) -> str:
    """The command that installs `compiler` or `venv` on this system."""
    if what == "cuda":
        return "install NVIDIA's CUDA toolkit (on Debian and Ubuntu: nvidia-cuda-toolkit)"
    if sys.platform == "darwin":
        return "xcode-select --install" if what == "compiler" else "brew install python"
    if sys.platform == "win32":
        tools = "install Visual Studio Build Tools with 'Desktop development with C++'"
        return tools if what == "compiler" else "install Python again, with pip"
    try:
        release = Path("/etc/os-release").read_text(errors="replace").lower()
    except OSError:
        release = ""
    family = " ".join(re.findall(r"^id(?:_like)?=(.*)$", release, re.M))
    commands = {
        "debian": ("apt install build-essential", "apt install python3-venv"),
        "fedora": ("dnf install gcc-c++ make", "dnf install python3-pip"),
        "suse": ("zypper install gcc-c++ make", "zypper install python3-pip"),
        "arch": ("pacman -S base-devel", "pacman -S python-pip"),
        "alpine": ("apk add build-base linux-headers", "apk add python3 py3-pip"),
    }
    for name, (compiler, venv) in commands.items():
        if name in family:
            return f"sudo {compiler if what == 'compiler' else venv}"
    return "install a C++ compiler" if what == "compiler" else "install Python's venv and pip"


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
# Patterns in order of trust: the first that fits names the cause.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (r"No space left on device|Errno 28", "the disk is full", "free some space"),
    (
        r"Killed signal terminated program|c\+\+: fatal error: Killed|out of memory|"
        r"virtual memory exhausted|C1060",
        "the compiler ran out of memory",
        "try again with --jobs 1",
    ),
    (_COMPILER, "there is no working C and C++ compiler", ""),
    (
        r"unsupported GNU version|#error -- unsupported|nvcc fatal|Unsupported gpu architecture|"
        r"CUDA_ARCHITECTURES|CUDA compiler|CUDAToolkit",
        "the CUDA toolkit and the compiler or GPU do not go together",
        "install a matching toolkit or set CUDACXX to its nvcc; --cpu builds without CUDA",
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
            if pattern is _COMPILER:
                return what, f"{how_to_install('compiler')}, {AGAIN}"
            whole = without_hosts(found.group(0)).strip()[:160]
            return what.format(*found.groups(), whole=whole), f"{advice}, {AGAIN}"
    return "", ""


def last_lines(log: str, count: int = 12) -> list[str]:
    """The end of a log for the screen: no hosts, no empty lines, none too long."""
    lines = [line.rstrip() for line in without_hosts(log).splitlines() if line.strip()]
    return [line if len(line) <= 200 else line[:197] + "..." for line in lines[-count:]]
