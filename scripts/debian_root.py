"""Makes a Debian 13 in a folder, with what a Vulkan build needs, and runs a command in it.

Usage: sudo python3 scripts/debian_root.py [--mirror URL] FOLDER [COMMAND ...]

Debian 12 is too old to build llama.cpp's Vulkan. The root has Mesa's device in software, which
llama.cpp takes for a GPU when GGML_VK_VISIBLE_DEVICES names it. It comes from the mirror that this
machine's apt uses, and pip in it is set up as pip here is. Needs root and the package debootstrap;
a root that is there already is used. `check_devices.py --debian` does all the rest.

Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SUITE = "trixie"
PACKAGES = (
    *("ca-certificates", "git", "gcc", "g++", "cmake", "ninja-build", "make"),
    *("python3", "python3-venv", "python3-dev"),
    *("glslc", "libvulkan-dev", "spirv-headers", "mesa-vulkan-drivers"),
)
MADE = "etc/eftlocal-root"  # written last
# Runs in a mount namespace of its own, so that nothing stays mounted: the root, then the folders
# to show in it, one to an argument up to "--", then the command.
_ENTER = """
set -e
root=$1; shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"; mount --bind "$1" "$root$1"; mount -o remount,bind,ro "$root$1"; shift
done
shift
exec chroot "$root" "$@"
"""


class RootError(Exception):
    """One line for the user."""


def mirror(sources: Path = Path("/etc/apt")) -> str:
    """The Debian mirror of this machine's apt; RootError where there is none."""
    texts = [*sources.glob("sources.list.d/*.sources"), *sources.glob("sources.list.d/*.list")]
    for path in [*sorted(texts), sources / "sources.list"]:
        if path.is_file():
            found = re.findall(r"(?m)^(?:URIs:|deb\b)[^#\n]*?(https?://\S+)", path.read_text())
            for address in found:
                if re.search(r"/debian/?$", address):
                    return str(address)
    raise RootError("apt's sources name no Debian mirror: give one with --mirror")


def make(root: Path, address: str) -> None:
    """The root, unless a whole one is there."""
    if (root / MADE).is_file():
        return
    if os.geteuid() != 0:
        raise RootError("making a root needs the rights of root: run this with sudo")
    if not shutil.which("debootstrap"):
        raise RootError("debootstrap is missing: sudo apt install debootstrap, then run this again")
    if root.exists() and any(root.iterdir()):
        raise RootError(f"{root}: holds something, and no whole root: give another folder")
    root.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    if subprocess.run([*command, SUITE, str(root), address]).returncode:
        raise RootError(f"debootstrap failed: see {root}/debootstrap/debootstrap.log")
    (root / MADE).write_text("")


def pip_files() -> tuple[list[Path], list[Path]]:
    """(files, folders) of this machine that pip needs: its settings and what they name."""
    home = Path.home()
    settings = [Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf"), home / ".pip/pip.conf"]
    settings.append(Path(os.environ.get("XDG_CONFIG_HOME", home / ".config")) / "pip/pip.conf")
    texts = [path.read_text() for path in settings if path.is_file()]
    texts += [value for name, value in os.environ.items() if name.startswith("PIP_")]
    texts += [os.environ.get(name, "") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    told = "\n".join(texts)
    named = {Path(path) for path in re.findall(r"(?:^|[\s=])(/[^\s'\"]+)", told)}
    # An index in a folder refers to files beside it.
    indexes = {Path(path).parent for path in re.findall(r"file://(/[^\s'\"]+)", told)}
    files = {path for path in (*settings, *named) if path.is_file()}
    return sorted(files), sorted(path for path in named | indexes if path.is_dir())


def enter(root: Path, command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Runs a command in the root, with this machine's network and pip; its exit code."""
    files, folders = pip_files()
    for path in [*files, Path("/etc/resolv.conf"), Path("/etc/hosts")]:
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    unshare = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(root), *map(str, folders)]
    paths = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    home = str(Path.home())  # where pip's settings were copied to
    (root / home.lstrip("/")).mkdir(parents=True, exist_ok=True)
    own = {"PATH": paths, "HOME": home, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    whole = {**os.environ, **own, **(env or {})}
    return subprocess.run([*unshare, "--", *command], env=whole).returncode


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    parser.add_argument("--mirror", help="of Debian (default: the one of this machine's apt)")
    options = parser.parse_args(given)
    root = options.folder.absolute()
    try:
        make(root, options.mirror or mirror())
    except RootError as error:
        sys.exit(f"debian_root: {error}")
    return enter(root, options.command) if options.command else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
