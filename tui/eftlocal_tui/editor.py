"""A person's own editor, for a long prompt or the settings file."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from eftlocal.errors import UsageError


def editor_command(setting: str) -> list[str]:
    """The editor to call: the setting, $VISUAL, $EDITOR, or what the system has.

    Raises:
        UsageError: a quotation mark is left open in it.
    """
    found = setting or os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if found and found.strip():
        try:
            return shlex.split(found, posix=sys.platform != "win32")
        except ValueError as error:
            raise UsageError(f"editor {found!r}: {error}; set `editor` or $EDITOR") from None
    return ["notepad" if sys.platform == "win32" else "vi"]


def edit_file(path: Path, setting: str) -> None:
    """Opens a file in the editor and waits.

    Raises:
        UsageError: there is no such program, or it failed.
    """
    command = editor_command(setting)
    try:
        code = subprocess.run([*command, str(path)], check=False).returncode
    except OSError as error:
        raise UsageError(
            f"editor {command[0]}: {error.strerror}; set `editor` or $EDITOR"
        ) from None
    if code:
        raise UsageError(f"editor {command[0]} exited with code {code}; its text was not used")


def edit_text(text: str, setting: str) -> str:
    """The text as the person leaves it.

    Raises:
        UsageError: as for `edit_file`, or what was left is not UTF-8, or nothing.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="eftlocal-") as folder:
            path = Path(folder) / "message.md"
            path.write_text(text, encoding="utf-8")
            edit_file(path, setting)
            return path.read_text(encoding="utf-8").rstrip("\n")
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except OSError as error:
        why = error.strerror or str(error)
    raise UsageError(f"the editor's file: {why}; its text was not used")
