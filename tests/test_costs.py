"""Costs of decodes: measured on real contexts, kept, corrected, and never trusted blindly."""

from __future__ import annotations

from pathlib import Path

import pytest

from eftlocal import Emulator, Sampling, Speculation
from eftlocal.loading.roles import RoleSource
from eftlocal.speculation.costs import ROWS, Costs, Curve, measure, plausible, recall, remember


def test_every_role_is_measured_and_its_cache_left_empty(tiny: Emulator) -> None:
    told: list[tuple[str, float]] = []
    costs = measure(
        tiny.ensemble.contexts, 0, progress=lambda role, share: told.append((role, share))
    )
    assert set(costs.curves) == set(tiny.roles)
    for curve in costs.curves.values():
        assert curve.rows == [n for n in ROWS if n <= 32]
        assert all(seconds > 0 for seconds in curve.seconds)
    assert all(len(context.tokens(0)) == 0 for context in tiny.ensemble.contexts.values())
    assert [share for role, share in told if role == "base"][-1] == 1.0


def test_costs_are_kept_for_the_next_start(
    tiny_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path))
    sources = {role: RoleSource(path, n_ctx=128, threads=1) for role, path in tiny_files.items()}
    with Emulator.from_sources(sources) as first:
        measured = first.measure()
    (kept,) = (tmp_path / "costs").iterdir()
    with Emulator.from_sources(sources) as second:
        before = {r: c.decoded for r, c in second.ensemble.contexts.items()}
        known = second.measure()
        assert before == {r: c.decoded for r, c in second.ensemble.contexts.items()}
    assert measured is not None and known is not None
    for role, curve in measured.curves.items():
        assert known.curves[role].seconds == pytest.approx(curve.seconds)

    other = {**sources, "base": RoleSource(tiny_files["base"], n_ctx=128, threads=2)}
    with Emulator.from_sources(other) as third:
        third.measure()
    assert len(list((tmp_path / "costs").iterdir())) == 2

    kept.write_text("{", encoding="utf-8")
    with Emulator.from_sources(sources) as fourth:
        assert fourth.measure() is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 3, "roles": {}}',
        '{"format": 2, "roles": {"base": {"1": 0.5}}}',
        '{"format": 2, "roles": {"base": {"1": -0.5, "2": 1}}}',
        '{"format": 2, "roles": {"tuned": {"1": 0.5, "2": 1}}}',
        '{"format": 2, "roles": {"base": {"1": 0.5, "2": 1}}, "more": 1}',
    ],
)
def test_a_file_that_does_not_fit_is_not_used(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path))
    remember(Costs({"base": Curve({1: 0.5, 2: 1.0})}), "key")
    assert recall("key", ["base"]) is not None
    assert recall("key", ["base", "tuned"]) is None
    (tmp_path / "costs" / "key.json").write_text(text, encoding="utf-8")
    assert recall("key", ["base"]) is None


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path))
    (tmp_path / "costs").write_text("not a folder", encoding="utf-8")
    remember(Costs({"base": Curve({1: 0.5, 2: 1.0})}), "key")
    assert recall("key", ["base"]) is None


def test_nothing_is_measured_while_a_sequence_runs(tiny_files: dict[str, Path]) -> None:
    sources = {
        role: RoleSource(path, n_ctx=64, n_batch=40, threads=1) for role, path in tiny_files.items()
    }
    with Emulator.from_sources(sources, n_seq_max=2) as emulator:
        with emulator.stream("Hello", speculation=Speculation(length=0)):
            assert emulator.measure() is None
        assert emulator.measure() is not None


def test_rounds_correct_the_costs(tiny_files: dict[str, Path]) -> None:
    sources = {role: RoleSource(path, n_ctx=128, threads=1) for role, path in tiny_files.items()}
    with Emulator.from_sources(sources) as emulator:
        costs = emulator.measure()
        assert costs is not None
        for curve in costs.curves.values():
            curve.seconds = [100.0] * len(curve.seconds)  # far from the truth
        once = Speculation(length=0)
        emulator.generate("Hello", max_tokens=40, sampling=Sampling(seed=1), speculation=once)
        assert all(curve(1) < 10.0 for curve in costs.curves.values())


def test_no_room_for_drafts_is_no_reason_to_fail(tiny_files: dict[str, Path]) -> None:
    sources = {role: RoleSource(path, n_batch=1, threads=1) for role, path in tiny_files.items()}
    with Emulator.from_sources(sources) as emulator:
        assert emulator.measure() is None
        options = {"max_tokens": 5, "sampling": Sampling(seed=1)}
        found = emulator.generate("Hello", **options)
        fixed = emulator.generate("Hello", speculation=Speculation(length=4), **options)
    assert found.tokens == fixed.tokens and fixed.speculation.drafts == 0


def test_times_that_more_rows_refute_are_brought_down() -> None:
    real = {1: 19.0, 2: 34.0, 3: 35.0, 4: 31.0, 8: 55.0}
    assert plausible(real) == real  # a step of kernels: four rows take less than three
    assert plausible({1: 147.0, 2: 424.0, 4: 31.0, 8: 1237.0, 16: 83.0}) == {
        1: 1.25 * 31.0,
        2: 1.25 * 31.0,
        4: 31.0,
        8: 1.25 * 83.0,
        16: 83.0,
    }
