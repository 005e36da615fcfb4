"""How fast work goes on, when it will be done, and what is said of it while a person waits."""

from __future__ import annotations

import pytest
from scripted_engine import Script
from tui_driver import Driver, driving

from eftlocal_tui.engine import Reading
from eftlocal_tui.pace import Pace, duration
from eftlocal_tui.screens import waiting
from eftlocal_tui.screens.compare import CompareScreen


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pace_says_what_is_left() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert (pace.times(), pace.share, pace.left) == ("0 s", 0.0, None)
    pace.told(400, 3000)  # these were there before
    assert pace.times() == "0 s"  # nothing is known of its speed
    clock.now += 10
    pace.told(1400, 3000)
    assert (pace.rate, pace.left) == (100.0, 16.0)
    assert pace.times() == "10 s, about 16 s left"
    clock.now += 6
    assert pace.times() == "16 s, about 10 s left"  # and nothing was told meanwhile
    clock.now += 60
    assert pace.times() == "76 s, about 1 s left"
    pace.told(3000, 3000)
    assert pace.times() == "76 s"
    assert pace.share == 1.0


def test_a_pace_is_that_of_the_last_moments() -> None:
    clock = Clock()
    pace = Pace(clock)
    for second in range(100):
        clock.now += 1
        pace.told(second if second < 60 else 60 + 10 * (second - 60), 1000)
    assert pace.rate == pytest.approx(10, rel=0.1)
    clock.now += 300
    pace.told(500, 1000)
    clock.now += 300
    pace.told(530, 1000)
    assert pace.rate == pytest.approx(0.1)
    pace.told(10, 1000)  # it began again
    assert pace.left is None


def test_durations() -> None:
    told = [duration(s) for s in (0.2, 12, 99.4, 100, 3000, 5969, 5970, 40_000)]
    assert told == ["0 s", "12 s", "99 s", "2 min", "50 min", "99 min", "2 h", "11 h"]


@driving(Script(["A", "nswer"], wait_at=0))
async def test_a_prompt_that_is_read_for_long_says_how_far_it_is(
    d: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_MOMENT", 0.0)
    d.engine.readings = [Reading(0, 3000), Reading(1200, 3000)]
    await d.send("Long?")
    await d.until(lambda: "Reading the prompt 1,200 of 3,000 tokens · " in d.static("#status"))
    assert d.static("#status").endswith(" s · Esc stops")
    await d.press("escape")
    await d.until(lambda: not d.chat.answers.busy)
    await d.pause()
    assert d.static("#status") == ""
    d.engine.readings = ()
    await d.ask("Short?")
    assert d.turns[-1] == "Again."


@driving(Script(["A", "nswer"], wait_at=0))
async def test_a_moment_of_reading_passes_without_a_word(d: Driver) -> None:
    d.engine.readings = [Reading(0, 3000)]
    await d.send("Short?")
    await d.until(lambda: d.engine.answering)
    await d.until(lambda: d.static("#status") == "Generating · Esc stops")
    d.engine.go()
    await d.idle()
    assert d.static("#status") == ""


@driving("A.", Script(["A"], wait_at=0), Script(["B"], wait_at=0), Script(["C"], wait_at=0))
async def test_columns_say_how_far_their_prompt_is(
    d: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_MOMENT", 0.0)
    await d.ask("Hello")
    d.engine.readings = [Reading(7, 90)]
    await d.press("f5")
    await d.until(lambda: isinstance(d.app.screen, CompareScreen))

    await d.until(lambda: "Reading the prompt 7 of 90 tokens" in d.static("#about"))
    d.engine.go()
    await d.until(lambda: d.static("#about").startswith("seed "))
