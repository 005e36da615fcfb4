"""Copying, and what is said of it: only what is true."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tui_driver import Driver, driving

from eftlocal_tui.terminal import clipboard

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs of a shell")


def program(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which a test's own programs come first, and nothing that says where we are."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("SSH_CONNECTION", "WSL_DISTRO_NAME", "WAYLAND_DISPLAY", "DISPLAY", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_first_program_that_takes_it(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clipboard.put("text") is None
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    program(tools, "wl-copy", "exit 1")  # no compositor answers
    program(tools, "xclip", f"cat > {tools}/taken")
    program(tools, "xsel", f"cat > {tools}/wrong")
    assert clipboard.put("Äöü\n日本") == "xclip"
    assert (tools / "taken").read_text(encoding="utf-8") == "Äöü\n日本"
    assert not (tools / "wrong").exists()


def test_a_program_that_hangs_is_left(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setattr(clipboard, "_PATIENCE", 0.05)
    program(tools, "wl-copy", "exec sleep 100")
    assert clipboard.put("text") is None


def test_programs_of_another_machine_are_not_asked() -> None:
    far = {"SSH_CONNECTION": "1 2 3 4", "WSL_DISTRO_NAME": "x"}
    assert all(command[0] not in ("clip.exe", "pbcopy") for command in clipboard.commands(far))


def test_what_is_said() -> None:
    assert clipboard.outcome("the message", "xclip") == "Copied the message"
    assert "tmux's buffer" in clipboard.outcome("the message", "tmux")
    assert clipboard.outcome("the message", None).startswith("Sent the message to the terminal")


@driving("One.")
async def test_nothing_claims_to_be_copied_where_only_the_terminal_was_asked(d: Driver) -> None:
    await d.ask("Go")
    await d.press("f9")
    await d.until(lambda: "Sent the message (4 characters) to the terminal" in d.toasts)
    assert d.app.clipboard == "One."
