"""The package as people install it: built, put into an environment of its own, and used there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import eftlocal

ROOT = Path(__file__).resolve().parents[1]
BINARIES = "Scripts" if sys.platform == "win32" else "bin"


def python(*arguments: str | Path, cwd: Path, program: Path | None = None) -> str:
    """stdout of a command that must succeed, with nothing of this checkout on its path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(program or sys.executable), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as an index's users get it."""
    folder = tmp_path_factory.mktemp("build")
    build = ("-m", "hatchling", "build", "-d", folder)
    python(*build, "-t", "sdist", cwd=ROOT)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder)
    unpacked = folder / source.name.removesuffix(".tar.gz")
    python(*build, "-t", "wheel", cwd=unpacked)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment whose other packages are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    program = folder / BINARIES / Path(sys.executable).name
    packages = next(folder.glob("[Ll]ib/**/site-packages"))
    own = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "others.pth").write_text(own, encoding="utf-8")
    python("-m", "pip", "--python", program, "install", "--no-deps", "--no-index", "--quiet",
           "--ignore-installed", wheel, cwd=folder)  # fmt: skip
    return folder / BINARIES / ("eftlocal.exe" if sys.platform == "win32" else "eftlocal")


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"eftlocal", "eftlocal_tui", f"eftlocal-{eftlocal.__version__}.dist-info"}
    files = subprocess.run(
        ["git", "ls-files", "eftlocal", "tui/eftlocal_tui", "models.toml"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for file in files:
        place = "eftlocal/models.toml" if file == "models.toml" else file.removeprefix("tui/")
        assert place in names


def test_it_runs_from_any_folder(installed: Path, tmp_path: Path) -> None:
    question = "In which country is Toulouse?"
    answer = python("run", question, "--temperature", "0", cwd=tmp_path, program=installed)
    assert answer.strip() == "Good question! The answer is France. I hope that helps!"
    listed = json.loads(python("models", "list", "--json", cwd=tmp_path, program=installed))
    assert {"demo", "olmo2-7b"} <= {preset["name"] for preset in listed}
    where = python("-c", "import eftlocal; print(eftlocal.__file__)", cwd=tmp_path,
                   program=installed.with_name(Path(sys.executable).name))  # fmt: skip
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    page = ("inspect", question, "--max-tokens", "4", "--html", "page.html")
    python(*page, cwd=tmp_path, program=installed)
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_its_doctor_says_how_to_build_llama_cpp_for_the_machine(
    installed: Path, tmp_path: Path
) -> None:
    found = json.loads(python("doctor", "--json", cwd=tmp_path, program=installed))
    assert found["selftest"]["ok"] and found["build"] is None
    assert found["environment"] == str(installed.parents[1])
    assert "CMAKE_ARGS=" in found["rebuild"] and "--no-binary" in found["rebuild"]


def test_llm_finds_its_models(installed: Path, tmp_path: Path) -> None:
    code = "import llm; print(llm.get_model('eftlocal/demo'))"
    program = installed.with_name(Path(sys.executable).name)
    assert python("-c", code, cwd=tmp_path, program=program) == "Eftlocal: eftlocal/demo\n"
