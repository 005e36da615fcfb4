"""Drive `eftlocal chat` in a real terminal (tmux), as a person would, and print what was seen.

Usage: .venv/bin/python scripts/check_chat.py [--show]

Start, chat, turn beta in the middle, stop, regenerate, walk branches, compare, influence, export,
stop a long prompt, quit, resume, be killed; and how long a typed letter takes to appear while
models decode, and while another program keeps the history locked. The models are SmolLM2 of the
test dependencies in all three roles, slow enough to be interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from small_models import NO_SMOLLM2, smollm2_file

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 180.0  # seconds that anything may take on a busy machine
QUESTION = "Write a long story about a river. Use many words."
LONG = "Tell the story of the river and of the hills beside it once more. " * 40


class Terminal:
    """A program in a terminal of tmux, on a server of its own."""

    def __init__(self, command: list[str], folder: Path, size: tuple[int, int]) -> None:
        self._tmux = ["tmux", "-S", str(folder / f"tmux-{time.monotonic_ns()}"), "-f", os.devnull]
        width, height = size
        line = shlex.join(command)
        if command[0] != "exec":
            line += f"; echo ended with code $?; sleep {PATIENCE}"
        environment = [f"-e{name}={value}" for name, value in _environment(folder).items()]
        new = ["new-session", "-d", "-s", "chat", "-x", str(width), "-y", str(height)]
        self._run(*new, *environment, "-c", str(folder), line)

    def keys(self, *keys: str) -> None:
        self._run("send-keys", "-t", "chat", *keys)

    def text(self, text: str) -> None:
        self._run("send-keys", "-t", "chat", "-l", text)

    def screen(self) -> str:
        return self._run("capture-pane", "-p", "-t", "chat")

    def until(self, what: str | Callable[[str], object], doing: str) -> str:
        """The screen, as soon as it has a text (or answers a question)."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            screen = self.screen()
            if what in screen if isinstance(what, str) else what(screen):
                print(f"  ok: {doing}")
                return screen
            time.sleep(0.02)
        print(screen)
        raise SystemExit(f"not seen within {PATIENCE:.0f} s: {doing}")

    def kill(self) -> None:
        """SIGKILL to the program in the terminal, which the shell has given way to."""
        os.kill(int(self._run("list-panes", "-t", "chat", "-F", "#{pane_pid}")), signal.SIGKILL)

    def close(self) -> None:
        # The server is gone already where its only program was killed.
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)

    def _run(self, *arguments: str) -> str:
        command = [*self._tmux, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _environment(folder: Path) -> dict[str, str]:
    return {
        "EFTLOCAL_CONFIG": str(folder / "config"),
        "EFTLOCAL_DATA": str(folder / "data"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tui'}",
        "TERM": "xterm-256color",
    }


def chat_command(*more: str) -> list[str]:
    model = str(smollm2_file() or sys.exit(f"check_chat: {NO_SMOLLM2}"))
    program = str(Path(sys.executable).with_name("eftlocal"))
    roles = [part for role in ("base", "tuned", "reference") for part in (f"--{role}", model)]
    engine = ["--threads", "1", "--speculative", "off", "--n-ctx", "1024", "--max-tokens", "250"]
    return [program, "chat", *roles, *engine, "--temperature", "0.7", *more]


def tokens_so_far(screen: str) -> int:
    found = re.search(r"Generating · (\d+) tokens", screen)
    return int(found[1]) if found else 0


def latency(terminal: Terminal) -> list[float]:
    """Milliseconds from sending a letter to seeing it, while models decode."""
    found = []
    for letter in "abcdefghijkl":
        began = time.perf_counter()
        terminal.text(letter)
        while letter not in _box(terminal.screen()):
            if time.perf_counter() - began > PATIENCE:
                raise SystemExit("a typed letter did not appear")
        found.append(1000 * (time.perf_counter() - began))
    for _ in found:
        terminal.keys("BSpace")
    return found


def _box(screen: str) -> str:
    rows = [row for row in screen.split("\n") if row.strip()]
    return rows[-3] if len(rows) > 3 else ""


def report(what: str, milliseconds: list[float]) -> None:
    middle = sorted(milliseconds)[len(milliseconds) // 2]
    longest = max(milliseconds)
    print(f"  a letter appears after {middle:.0f} ms (median), {longest:.0f} ms (longest) {what}")


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Another program writes to the history, and does not end."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def leave_a_long_prompt(terminal: Terminal) -> None:
    terminal.keys("C-n")
    terminal.until("New conversation", "a new conversation")
    terminal.text(LONG)
    terminal.keys("Enter")
    terminal.until("Generating", "a long prompt is read")
    time.sleep(1.0)  # so that the reading is well under way
    began = time.perf_counter()
    terminal.keys("Escape")
    terminal.until("stopped", "Esc ends the reading")
    print(f"  it ended after {1000 * (time.perf_counter() - began):.0f} ms")


def write_while_it_is_locked(terminal: Terminal, folder: Path) -> None:
    with locked(folder / "data" / "chat.db"):
        terminal.text("What is a hill?")
        terminal.keys("Enter")
        terminal.until("history is locked", "a message waits for the history")
        report("while it is locked", latency(terminal))
    terminal.until("Generating", "then it is answered")
    terminal.keys("Escape")
    terminal.until("Enter sends", "and stopped")


def first_visit(folder: Path, show: Callable[[str, str], None]) -> None:
    terminal = Terminal(chat_command(), folder, (80, 24))
    try:
        show("welcome", terminal.until("Three models answer together", "the chat starts"))
        terminal.until("upscale beta 1", "the models are loaded")
        terminal.text(QUESTION)
        terminal.keys("Enter")
        terminal.until(lambda s: tokens_so_far(s) >= 5, "an answer streams")
        report("while models decode", latency(terminal))
        terminal.text("/set beta 0.5")
        terminal.keys("Enter")
        show("turned", terminal.until("from here: beta 1 → 0.5", "beta turns in the middle"))
        terminal.keys("Escape")
        show("stopped", terminal.until("stopped", "Esc stops and keeps what came"))
        terminal.keys("C-r")
        terminal.until("2/2", "another answer is a branch")
        terminal.until(lambda s: " tok/s" in s and "Esc stops" not in s, "it ends")
        terminal.keys("F7")
        terminal.until("stopped", "the first branch is there")
        terminal.keys("F5")
        screen = terminal.until(lambda s: " seed " in s, "three answers side by side")
        show("compare", screen)
        terminal.keys("Escape")
        terminal.until("Enter sends", "back from the comparison")
        terminal.keys("F6")
        show("influence", terminal.until(" together ", "what moved each token"))
        terminal.keys("Escape")
        terminal.until("Enter sends", "back from the influence view")
        terminal.text("/export talk.md")
        terminal.keys("Enter")
        terminal.until("Exported to", "it is exported")
        leave_a_long_prompt(terminal)
        write_while_it_is_locked(terminal, folder)
        terminal.keys("C-q")
        terminal.until("ended with code 0", "it quits")
    finally:
        terminal.close()
    exported = (folder / "talk.md").read_text(encoding="utf-8")
    if QUESTION not in exported:
        raise SystemExit("the export lacks the question")
    print(f"  the export has {len(exported)} characters")


def second_visit(folder: Path, show: Callable[[str, str], None]) -> None:
    terminal = Terminal(chat_command("--continue"), folder, (200, 60))
    try:
        screen = terminal.until("What is a hill?", "it is resumed")
        terminal.until("upscale beta", "the models are loaded")
        show("resumed", screen)
        terminal.keys("C-o")
        show("history", terminal.until("Conversations", "the history lists it"))
        terminal.keys("Escape")
        terminal.until("Enter sends", "back in the chat")
        terminal.keys("C-q")
        terminal.until("ended with code 0", "it quits again")
    finally:
        terminal.close()


def third_visit(folder: Path, show: Callable[[str, str], None]) -> None:
    terminal = Terminal(["exec", *chat_command()], folder, (100, 30))
    try:
        terminal.until("upscale beta 1", "the models are loaded")
        terminal.text(QUESTION)
        terminal.keys("Enter")
        terminal.until(lambda s: tokens_so_far(s) >= 5, "an answer streams")
        terminal.kill()
    finally:
        terminal.close()
    terminal = Terminal(chat_command("--continue"), folder, (100, 30))
    try:
        screen = terminal.until("stopped", "killed in the middle, the answer is there, stopped")
        show("after SIGKILL", screen)
    finally:
        terminal.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--show", action="store_true", help="print the screens too")
    shown = parser.parse_args().show

    def show(name: str, screen: str) -> None:
        if shown:
            print(f"--- {name}\n{screen.rstrip()}\n---")

    with tempfile.TemporaryDirectory(prefix="eftlocal-chat-") as folder:
        print("80x24:")
        first_visit(Path(folder), show)
        print("200x60:")
        second_visit(Path(folder), show)
        print("SIGKILL:")
        third_visit(Path(folder), show)
    print("everything was seen")


if __name__ == "__main__":
    main()
