"""Why pip or the compiler failed, in one line, from the end of the log."""

from __future__ import annotations

import re

from .machine import how_to_install
from .report import without_hosts

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
