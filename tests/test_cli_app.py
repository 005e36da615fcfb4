"""The command itself: its entry, before any verb."""

from __future__ import annotations

import subprocess
import sys

import eftlocal


def test_ctrl_c_while_the_command_is_imported_is_one_line_too() -> None:
    program = (
        "import runpy, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "runpy.run_module('eftlocal', run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "eftlocal: stopped\n")


def test_python_m_eftlocal_is_the_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "eftlocal", "--version"], capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"eftlocal {eftlocal.__version__}\n"
