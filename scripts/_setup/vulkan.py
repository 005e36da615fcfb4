"""What a Vulkan build needs: a GPU whose driver lists it, the shader compiler, and headers."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .child import ask
from .machine import Compilers

# VK_EXT_layer_settings (September 2023) is the newest thing in them that llama.cpp's code names.
PROBE = """
#include <vulkan/vulkan.hpp>
eftlocal_headers VK_HEADER_VERSION
#ifdef VK_EXT_LAYER_SETTINGS_EXTENSION_NAME
eftlocal_layer_settings
#endif
#if __has_include(<spirv/unified1/spirv.hpp>) || __has_include(<spirv-headers/spirv.hpp>)
eftlocal_spirv
#endif
"""
TOO_OLD = (
    "newer Vulkan headers than this system's (Debian 12's are too old, Debian 13's are not): set "
    "VULKAN_SDK to the folder of LunarG's Vulkan SDK"
)
_MAKERS = {"0x1002": "AMD", "0x8086": "Intel"}


@dataclass(frozen=True)
class Vulkan:
    """What there is of Vulkan.

    gpus: names of those that the drivers list and llama.cpp can use, none in software.
    undriven: makers of GPUs that no Vulkan driver lists. missing: what a build lacks.
    tools: versions of the shader compiler and headers, which shape the build.
    """

    gpus: tuple[str, ...] = ()
    undriven: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    tools: str = ""


def read_vulkan(env: Mapping[str, str], compilers: Compilers) -> Vulkan:
    """Ask the drivers, the shader compiler, and the compiler for the headers."""
    gpus = list_gpus(ask([sys.executable, str(Path(__file__).with_name("vulkan_devices.py"))]).out)
    missing, version = [], ""
    if glslc := find_glslc(env):
        version = ask([glslc, "--version"]).out.partition("\n")[0]
    else:
        missing.append("the shader compiler glslc")
    headers, lacking = read_headers(env, compilers)
    tools = f"{version}, headers {headers}" if version or headers else ""
    return Vulkan(gpus, () if gpus else undriven(), (*missing, *lacking), tools)


def list_gpus(told: str) -> tuple[str, ...]:
    """Names of the GPUs in hardware of what vulkan_devices.py printed; () where it crashed."""
    try:
        devices = json.loads(told.strip().rpartition("\n")[2])
    except ValueError:
        return ()
    real = ("integrated", "discrete")
    return tuple(d["name"] for d in devices if d["kind"] in real and d["usable"])


def undriven(nodes: Path = Path("/sys/class/drm")) -> tuple[str, ...]:
    """Makers of the GPUs that the kernel knows; Linux only."""
    found = set()
    for vendor in nodes.glob("renderD*/device/vendor"):
        found.add(_MAKERS.get(vendor.read_text(errors="replace").strip(), ""))
    return tuple(sorted(found - {""}))


def find_glslc(env: Mapping[str, str]) -> str:
    """Path of glslc on PATH or in the Vulkan SDK; "" if none."""
    folders = [str(Path(path, name)) for path in _sdk(env) for name in ("bin", "Bin")]
    return next(filter(None, map(_glslc_in, [None, *folders])), "")


def _glslc_in(folder: str | None) -> str | None:
    return shutil.which("glslc", path=folder)


def _sdk(env: Mapping[str, str]) -> list[str]:
    """The folder of LunarG's Vulkan SDK, if one is named."""
    return [path for path in [env.get("VULKAN_SDK", "")] if path]


def read_headers(env: Mapping[str, str], compilers: Compilers) -> tuple[str, list[str]]:
    """(version of the Vulkan headers or "", what is missing of the headers)."""
    sdk = [Path(path, name) for path in _sdk(env) for name in ("include", "Include")]
    if not compilers.cxx:  # Visual Studio's is not on PATH: the SDK's folder has to do
        known = any((folder / "vulkan" / "vulkan.hpp").is_file() for folder in sdk)
        return ("of the SDK", []) if known else ("", ["the Vulkan headers"])
    places = [part for folder in sdk for part in ("-I", str(folder))]
    said = ask([*compilers.cxx, *places, "-std=c++17", "-E", "-P", "-x", "c++", "-"], stdin=PROBE)
    if said.code != 0:
        return "", ["the Vulkan headers"]
    version = re.search(r"eftlocal_headers (\S+)", said.out)
    missing = [] if "eftlocal_layer_settings" in said.out else [TOO_OLD]
    missing += [] if "eftlocal_spirv" in said.out else ["the SPIR-V headers"]
    return version.group(1) if version else "", missing
