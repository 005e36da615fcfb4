"""The clipboard: by a program that takes the text, where there is one, and by the terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

_PATIENCE = 2.0  # seconds that a program may take
_TMUX = "tmux"


def commands(environment: Mapping[str, str] = os.environ) -> list[list[str]]:
    """The programs that would reach the clipboard of who sits at this terminal."""
    here = "SSH_CONNECTION" not in environment  # or these would be another machine's
    found: list[list[str]] = []
    if sys.platform == "darwin" and here:
        found.append(["pbcopy"])
    if here and (sys.platform == "win32" or "WSL_DISTRO_NAME" in environment):
        found.append(["clip.exe"])
    if environment.get("WAYLAND_DISPLAY"):
        found.append(["wl-copy"])
    if environment.get("DISPLAY"):
        found += [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    if environment.get("TMUX"):  # which passes on what programs send by themselves only if told to
        found.append([_TMUX, "load-buffer", "-w", "-"])
    return [command for command in found if shutil.which(command[0])]


def put(text: str) -> str | None:
    """The first program that took the text; None where none did. It may take a moment."""
    for command in commands():
        data = text.encode("utf-16" if command[0] == "clip.exe" else "utf-8", "replace")
        try:
            done = subprocess.run(
                command,
                input=data,
                stdout=subprocess.DEVNULL,  # some stay to serve the clipboard
                stderr=subprocess.DEVNULL,
                timeout=_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return command[0]
    return None


def outcome(what: str, taken_by: str | None) -> str:
    """What is true of it, in a line."""
    if taken_by == _TMUX:
        return f"Copied {what} to tmux's buffer, and sent it to the terminal's clipboard"
    if taken_by is not None:
        return f"Copied {what}"
    hint = "xclip or wl-copy" if sys.platform.startswith("linux") else "your terminal's settings"
    return f"Sent {what} to the terminal's clipboard (OSC 52). If nothing arrives, try {hint}"
