"""Random keys, pastes, clicks and sizes (`scripts/fuzz_chat.py` runs more and longer ones)."""

from __future__ import annotations

import traceback

import pytest
from fuzz_chat import run
from fuzzing.terminal_input import sequence

EVENTS = 40  # of each


@pytest.fixture(autouse=True)
def frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as on a terminal, unlike in the other tests of the chat."""
    monkeypatch.setattr("textual.screen.UPDATE_PERIOD", 1 / 60)


@pytest.mark.parametrize("number", range(8))
def test_nothing_that_a_terminal_sends_ends_the_chat(number: int) -> None:
    seed = f"suite-{number}"
    fault = run(seed, sequence(seed, EVENTS), "scripted")
    assert fault is None, "".join(traceback.format_exception(fault))
