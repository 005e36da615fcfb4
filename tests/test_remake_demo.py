"""scripts/train_demo/remake.py: what it would train, the tables it writes; nothing is trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "scripts" / "train_demo"
OWN = ("measure", "remake", "vocabularies", "figures")


@pytest.fixture
def imported() -> Iterator[None]:
    """The folder's modules import each other by bare names."""
    path, before = sys.path.copy(), {name: sys.modules.pop(name, None) for name in OWN}
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path[:] = path
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.fixture
def measure(imported: None) -> ModuleType:
    return __import__("measure")


def test_every_table_has_its_place_and_is_put_there(measure: ModuleType) -> None:
    for table, page in measure.TABLES.items():
        text = page.read_text("utf-8")
        made = measure.replaced(text, table.__name__, "| new |\n")
        assert f"<!-- measured: {table.__name__} -->\n\n| new |\n\n<!-- end -->" in made
        assert made.count("<!-- end -->") == text.count("<!-- end -->")
    with pytest.raises(ValueError, match="no marks for nothing"):
        measure.replaced("text", "nothing", "")


def test_tables_say_what_an_evaluation_found(measure: ModuleType, tmp_path: Path) -> None:
    run = measure.Measured(tmp_path / "measured")
    small, all_right = {"mean": 0.25, "low": 0.125, "high": 0.5}, {"mean": 1, "low": 1, "high": 1}
    models = {"small tuned": small, "base": all_right, "upscale": all_right}
    (tmp_path / "measured" / "fresh.json").write_text(
        measure.json.dumps({
            "groups": [{"group": "bare", "n": 3, "models": models}],
            "points": [
                {"model": name, "n": 4, "metrics": {"right": value}}
                for name, value in (*models.items(), ("emulation", all_right))
            ],
        })
    )  # fmt: skip
    lines = measure.fresh(run).splitlines()
    assert lines[2:] == [
        "| bare (3) | 0.25 [0.12, 0.50] | 1.00 | 1.00 |",
        "| all (4) | 0.25 [0.12, 0.50] | 1.00 | 1.00 |",
    ]


def test_each_training_is_one_that_run_knows(imported: None, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("torch")
    remake = __import__("remake")
    (tmp_path / "demo").mkdir()
    for name in ("base_first.pt", "reference_first.pt"):
        (tmp_path / "demo" / name).write_bytes(b"weights")
    names = [options[-1] for options in remake.trained(tmp_path, pairs=True)]
    assert names[:2] == [str(tmp_path / "demo"), str(tmp_path / "twice")]
    assert len(set(names)) == len(names) == 1 + len(remake.VOCABULARIES)
    assert (tmp_path / "twice" / "base_first.pt").read_bytes() == b"weights"
    assert [o[-1] for o in remake.trained(tmp_path, pairs=False)] == [
        str(tmp_path / name) for name in ("demo", "twice", remake.CROSS)
    ]
