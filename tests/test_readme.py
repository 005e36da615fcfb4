"""Every command and program of the README and of the pages in docs, run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/*.md"))]


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def lines(page: str) -> list[str]:
    return [line for block in blocks("sh", page) for line in block.splitlines()]


COMMANDS = lines(README)
SET_UP = [line for line in COMMANDS if line.startswith("python3 scripts/")]
HERE = sorted({line for page in PAGES for line in lines(page)} - {*SET_UP})
DOWNLOADED = re.compile(r"olmo2-7b|reasoning-14b")  # presets whose files are on the hub


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line as a user would, with this interpreter's programs for those of .venv, in a
    folder of its own for what it writes."""
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command.replace(".venv/bin/", f"{binaries}/"),
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_two_commands_are_first_and_exist() -> None:
    assert SET_UP == ["python3 scripts/demo.py", "python3 scripts/test.py"] == COMMANDS[:2]
    assert "scripts/test.py" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_block_has_a_language() -> None:
    """So that no command stands where this file does not look."""
    for page in PAGES:
        assert "" not in re.findall(r"^```(.*)$", page, flags=re.MULTILINE)[::2]


@pytest.mark.parametrize("command", HERE)
def test_a_command(command: str, tmp_path: Path) -> None:
    result = shell(command, tmp_path)
    if DOWNLOADED.search(command) and " show " not in command:
        # Needs the hub: here it must get as far as saying that it is offline.
        assert result.returncode == 5, result.stderr
        assert "offline" in result.stderr.lower()
    elif command.endswith(" chat"):  # here there is no terminal; tests/test_tui_*.py have one
        assert result.returncode == 2
        assert "needs a terminal" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip()


@pytest.mark.parametrize("program", [code for page in PAGES for code in blocks("python", page)])
def test_a_program(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_picture_is_there() -> None:
    for target in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / target).stat().st_size > 1000
