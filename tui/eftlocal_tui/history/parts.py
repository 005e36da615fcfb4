"""From where on a conversation is sent to the models, once it no longer fits them whole.

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
