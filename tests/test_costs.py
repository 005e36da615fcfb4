"""Costs of decodes: measured on real contexts, kept, corrected, and never trusted blindly."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlocal import Emulator, Sampling, Speculation
from eftlocal.llama import Context, devices
from eftlocal.loading.roles import RoleSource
from eftlocal.speculation.costs import Costs, Curve, Room
from eftlocal.speculation.drafting import Plan
from eftlocal.speculation.measurement import ROWS, measure, plausible, recall, remember


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
    shares = [share for role, share in told if role == "base"]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(shares) > 2 * len(costs.curves["base"].rows)  # within each time round, too


def test_waiting_for_other_programs_is_no_cost(
    tiny: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.ensemble.contexts["base"]
    counts = sys.platform != "win32" and all(device.kind == "cpu" for device in devices())
    assert base.clock is (time.thread_time if counts else time.perf_counter)
    with Context(tiny.models["base"], n_ctx=64, n_threads=2) as two:
        assert two.clock is time.perf_counter  # they wait for each other

    decode, told = base.decode, []

    def held_up(*call: Any) -> NDArray[np.float32]:
        time.sleep(0.02)
        return decode(*call)

    monkeypatch.setattr(base, "decode", held_up)
    monkeypatch.setattr(tiny.ensemble, "observer", lambda *seen: told.append(seen))
    costs = measure({"base": base}, 0, rows=(1, 4))
    tiny.generate("Any text", recipe="base", max_tokens=4, speculation=0, ignore_end=True)
    seconds = [*costs.curves["base"].seconds, *(of for role, _, of in told if role == "base")]
    assert len(seconds) > 4
    assert (max(seconds) < 0.02) == counts


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
        '{"format": 3, "roles": {"base": {"1": 0.5}}}',
        '{"format": 3, "roles": {"base": {"1": -0.5, "2": 1}}}',
        '{"format": 3, "roles": {"tuned": {"1": 0.5, "2": 1}}}',
        '{"format": 3, "roles": {"base": {"1": 0.5, "2": 1}}, "more": 1}',
        '{"format": 2, "roles": {"base": {"1": 0.5, "2": 1}}}',  # had fewer numbers of rows
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


def test_drafts_of_a_given_length_are_padded_too(tiny_files: dict[str, Path]) -> None:
    sources = {role: RoleSource(path, n_ctx=128, threads=1) for role, path in tiny_files.items()}
    with Emulator.from_sources(sources) as emulator:
        options = {"max_tokens": 12, "sampling": Sampling(seed=1)}
        emulator.generate("Hello", speculation=Speculation(length=0), **options)
        assert emulator.rounds.planner.costs is None
        emulator.generate("Hello", speculation=Speculation(length=2), **options)
        assert emulator.ensemble.costs is emulator.rounds.planner.costs is not None


def test_rounds_correct_the_costs(tiny_files: dict[str, Path]) -> None:
    sources = {role: RoleSource(path, n_ctx=128, threads=1) for role, path in tiny_files.items()}
    with Emulator.from_sources(sources) as emulator:
        costs = emulator.measure()
        assert costs is not None
        for curve in costs.curves.values():
            curve.seconds = [100.0] * len(curve.seconds)  # far from the truth
        options = {"max_tokens": 40, "sampling": Sampling(seed=1)}
        for length in (0, 2):  # the same calls in every process
            emulator.generate("Hello", speculation=length, **options)
            assert all(set(curve.seconds) == {100.0} for curve in costs.curves.values())
        emulator.generate("Hello", speculation="auto", **options)
        assert all(curve(1) < 10.0 for curve in costs.curves.values())


def test_no_room_for_drafts_is_no_reason_to_fail(tiny_files: dict[str, Path]) -> None:
    sources = {role: RoleSource(path, n_batch=1, threads=1) for role, path in tiny_files.items()}
    with Emulator.from_sources(sources) as emulator:
        assert emulator.measure() is None
        options = {"max_tokens": 5, "sampling": Sampling(seed=1)}
        found = emulator.generate("Hello", **options)
        fixed = emulator.generate("Hello", speculation=Speculation(length=4), **options)
    assert found.tokens == fixed.tokens and fixed.speculation.drafts == 0


BLOCKS = Curve({n: 1.0 + (n // 4) + 0.7 * (n % 4) for n in range(1, 18)})


def test_a_call_is_planned_with_the_least_cost_of_any_width_that_fits() -> None:
    costs = Costs({"base": BLOCKS})
    widths = [BLOCKS.padded(1, n, Room(tokens=16))[1] for n in range(1, 18)]
    assert widths == [1, 4, 4, 4, 5, 8, 8, 8, 9, 12, 12, 12, 13, 16, 16, 16, 17]
    plan = Plan.of(costs, (), ("base",), 1, Room(tokens=16))
    assert plan.verify == [BLOCKS(n) for n in widths]
    assert list(plan.verify[:16]) == sorted(plan.verify[:16])  # more rows never cost less
    # three sequences, with an idle slot beside them and without
    assert [costs.padded("base", 3, 1, Room(n)) for n in (3, 4)] == [BLOCKS(3), BLOCKS(4)]
    # no room in the context, or in the call
    assert costs.padded("base", 1, 3, Room(tokens=3)) == BLOCKS(3)
    assert costs.padded("base", 1, 3, Room(rows=3)) == BLOCKS(3)


def test_a_role_that_writes_drafts_in_its_own_tokens_is_planned_with_all_of_them() -> None:
    """Two a token: each is a call of its own, and all are decoded again beside the base."""
    curve = Curve({n: float(n) for n in range(1, 40)})
    costs, pieces = Costs({"base": BLOCKS, "tuned": curve}), {"tuned": 2}
    plan = Plan.of(costs, ("tuned",), ("base", "tuned"), 1, pieces=pieces)
    assert plan.draft == 2.0 and plan.bonus == 0.0
    padded = [BLOCKS(BLOCKS.padded(1, n, Room())[1]) for n in range(1, 18)]
    assert plan.verify == plan.together == [each + 2 * n for n, each in enumerate(padded, 1)]
    beside = Plan.of(costs, ("tuned",), ("base", "tuned"), 1, pieces=pieces, side_by_side=True)
    assert beside.draft == 2.0 and beside.verify[4] == max(padded[4], 10.0)


def test_what_rounds_take_decides_the_padding_in_the_end() -> None:
    curve = Curve({n: BLOCKS(n) for n in range(1, 18)})
    assert curve.padded(1, 3, Room()) == (1, 4)
    for _ in range(200):
        curve.observe(4, 4.0)  # on long contexts, say
        curve.observe(3, 3.1)
    assert curve.padded(1, 3, Room()) == (1, 3)


def test_padding_that_a_busy_machine_suggested_is_given_up() -> None:
    """One row was measured while something else ran; it is never decoded alone but for a look."""
    real = {n: BLOCKS(n) for n in range(1, 18)}
    curve, taken = Curve({**real, 1: 9.0}), []
    for _ in range(40):
        rows = curve.padded(1, 1, Room())[1]
        if rows > 1 and curve.look(1):
            rows = 1
        curve.observe(rows, real[rows])
        taken.append(rows)
    assert taken[:7] == [4] * 7 and taken[7:] == [1] * 33
    kept = Curve(real)  # here padding is right, and stays
    assert not any(kept.look(3) for _ in range(640))  # no times are observed
    kept.observe(4, real[4])
    looks = sum(kept.look(3) for _ in range(640))
    for _ in range(looks):
        kept.observe(3, real[3])
    assert looks == 10 and kept.padded(1, 3, Room()) == (1, 4)
    kept.usable = frozenset({1, 4})
    assert not any(kept.look(3) for _ in range(640))


def test_rows_that_are_not_usable_cost_no_less_than_inf() -> None:
    seconds = {n: BLOCKS(n) for n in range(1, 18)}
    curve = Curve(seconds)
    curve.usable = frozenset({1, 2, 7})
    assert [curve.padded(1, n, Room())[1] for n in (1, 2, 3, 4, 7, 8)] == [1, 2, 7, 7, 7, 8]
    plan = Plan.of(Costs({"base": curve}), (), ("base",), 1)
    assert plan.verify[3] == BLOCKS(7) and plan.verify[7] == math.inf
    assert plan.longest(16, 0.999, 0.999)[0] == 6


def test_no_division_costs_less_than_the_least() -> None:
    assert BLOCKS.least(4) == BLOCKS(4)
    assert BLOCKS.least(5) == 5 * BLOCKS(4) / 4 < BLOCKS(4) + BLOCKS(1)


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
