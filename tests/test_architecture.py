"""The floors of ARCHITECTURE.md: every module is on one, and imports from its own or below."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "eftlocal"


def floors() -> dict[str, int]:
    """The number of its floor, from the top, by a package's or module's name."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = page.partition("## The floors")[2].partition("\n## ")[0]
    found: dict[str, int] = {}
    floor = -2  # the table's head is no floor
    for row in table.splitlines():
        if row.startswith("| "):
            name, modules = row.split("|")[1:3]
            floor += bool(name.strip())  # nothing there: the same floor as above
            for module in re.findall(r"`([\w/.]+)`", modules):
                if not module.startswith("tui/"):
                    found[module.rstrip("/").removesuffix(".py")] = floor
    return found


def imports() -> Iterator[tuple[str, str, str]]:
    """Where an import stands, and the names of the two packages or modules of the top level."""
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.startswith("eftlocal.") and own not in ("__init__", "__main__"):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", own, name.split(".")[1]


def test_every_module_is_on_a_floor() -> None:
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path / "__init__.py").is_file() or path.suffix == ".py"
    }
    assert there - {"__init__", "__main__"} == floors().keys()


def test_dependencies_point_downwards() -> None:
    floor = floors()
    found = list(imports())
    assert len(found) > 500
    upwards = [
        f"{where}: {own} imports {other}"
        for where, own, other in found
        if other in floor and floor[other] < floor[own]
    ]
    assert not upwards


def test_what_the_map_names_is_there() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = ("eftlocal", "tui", "scripts", "tests", "docs")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    code = "".join(p.read_text(encoding="utf-8") for p in paths if p.suffix == ".py")
    named = set(re.findall(r"`([A-Za-z_][\w./]*)`", page))
    assert len(named) > 100
    for name in named - {"kv_unified"}:  # of llama.cpp
        if "/" in name or name.endswith((".py", ".md", ".tcss")):
            end = f"/{name.rstrip('/')}"
            assert any(path.as_posix().endswith(end) for path in paths), name
        else:
            assert re.search(rf"\b{name.rpartition('.')[2]}\b", code), name
