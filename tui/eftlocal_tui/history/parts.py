"""What the models are given of a branch: from where on, once it no longer fits them whole, and
under which system prompt.

What is left out stays in the history. Two things begin a part: a turn that says where what follows
it begins (`begins_at`), and a summary, which stands for all that is above it.
"""

from __future__ import annotations

from collections.abc import Sequence

from eftlocal_tui.history.records import Turn


def sent_from(path: Sequence[Turn]) -> int:
    """How many of the first turns of a path are not sent with what follows its last turn."""
    places = {turn.id: place for place, turn in enumerate(path)}
    begin = 0
    for place, turn in enumerate(path):
        asks_last = not turn.summary or turn is path[-1]  # it says what the summary is to cover
        if turn.begins_at is not None and asks_last:
            begin = places.get(turn.begins_at, 0)
        if place and path[place - 1].summary and is_summary(turn):
            begin = place - 1
    while 0 < begin < len(path) and path[begin].role == "assistant":
        begin += 1  # chat templates want a question first
    return begin


def left_out(path: Sequence[Turn], begin: int) -> str:
    """What is said before the first turn that is still sent."""
    summed = begin < len(path) and path[begin].summary
    above = "the message above is" if begin == 1 else f"the {begin} messages above are"
    if path[0].parent is not None:  # the first ones were not read
        above = "the messages above are"
    return f"{above} no longer sent{', the summary below is' if summed else ''}"


def is_summary(answer: Turn) -> bool:
    """Whether an answer to a question for a summary can stand for what is above."""
    return answer.role == "assistant" and answer.state in ("done", "stopped") and bool(answer.text)


def systems(path: Sequence[Turn], now: str) -> dict[int | None, str]:
    """The system prompts of a branch, each by the id of the first turn that it holds for; None
    stands for what follows the last one. An answer keeps the prompt that it was given under.

    Answers of older versions say nothing of it; before the first that does, its prompt held.

    Args:
        now: what holds for the next answer.
    """
    said = [turn.settings.system for turn in path if turn.settings]
    held = next((system for system in said if system is not None), now)
    found: dict[int | None, str] = {path[0].id if path else None: held} if held else {}
    begin: int | None = None  # the question of the answer that is looked at
    for turn in path:
        if turn.role == "user":
            begin = turn.id
        elif turn.settings and turn.settings.system not in (None, held):
            held = found[begin] = turn.settings.system or ""
    if now != held:
        found[None] = now
    return found
