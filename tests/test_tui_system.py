"""The system prompt: shown where it holds, in the transcript and in exports."""

from __future__ import annotations

import json

from tui_driver import Driver, driving

from eftlocal_tui.history import Settings as Kept
from eftlocal_tui.history import from_json, to_json, to_markdown
from eftlocal_tui.settings import Settings
from eftlocal_tui.widgets.transcript import Gap, SystemView
from eftlocal_tui.widgets.turn_view import TurnView


def shown(d: Driver) -> list[str]:
    """The transcript from its top: turns, gaps, and the system prompts between them."""
    found = []
    for child in d.chat.transcript.children:
        if isinstance(child, SystemView):
            found.append(str(child.render()))
        elif isinstance(child, TurnView):
            found.append(child.text)
        elif isinstance(child, Gap):
            found.append("…")
    return found


@driving("One.", "Two.", "Three.", "Four.", settings=Settings(system="Be [b]kind[/b]."))
async def test_a_system_prompt_is_shown_where_it_holds(d: Driver) -> None:
    kind = "System prompt: Be [b]kind[/b]."
    assert shown(d) == [f"{kind} · /system changes it"]
    assert "Three models" in d.screen_text()
    await d.ask("first")
    assert shown(d) == [f"{kind} · /system changes it", "first", "One."]
    await d.send("/system Be brief.")
    await d.send("/system Be brief, and so on. " + "x" * 5000)
    assert len(shown(d)) == 4 and len(shown(d)[-1]) < 180
    await d.send("/system Be brief.")
    brief = "System prompt: Be brief."
    assert shown(d)[3] == f"{brief} · /system changes it"
    await d.ask("second")
    await d.ask("third")
    await d.send("/system -")
    told = [f"{kind}", "first", "One.", brief, "second", "Two.", "third", "Three."]
    last = "No system prompt from here · /system changes it"
    assert [text.partition(" · ")[0] for text in shown(d)] == [*told, last.partition(" · ")[0]]
    chat = d.chat.turns.conversation.id
    await d.press("ctrl+n")
    assert shown(d) == [f"{kind} · /system changes it"]
    await d.chat.turns.open(chat)
    assert shown(d) == [*told, last]
    await d.ask("fourth")
    assert shown(d)[-3:] == [last, "fourth", "Four."]
    text = to_markdown(d.history, chat)
    places = [
        text.index(part)
        for part in (
            "## System\n\nBe [b]kind[/b].",
            "## User\n\nfirst",
            "One.",
            "## System\n\nBe brief.",
            "## User\n\nsecond",
            "third",
            "*No system prompt from here*",
            "## User\n\nfourth",
        )
    ]
    assert places == sorted(places) and text.count("System") == 2
    saved = to_json(d.history, [chat])
    assert json.loads(saved)["version"] == 2
    (came,) = from_json(d.history, saved, "file")
    told_again = [t.settings.system for t in d.history.turns.path(came.id) if t.settings]
    assert told_again == ["Be [b]kind[/b].", "Be brief.", "Be brief.", ""]


@driving()
async def test_answers_that_say_nothing_of_it_and_long_conversations(d: Driver) -> None:
    chat = d.history.conversations.create(system="Be kind.").id
    with d.history.db.transaction():
        for i in range(40):
            question = d.history.turns.ask(chat, f"question {i}")
            system = None if i < 5 else "Be old." if i < 10 else "Be new."
            with d.history.answer(question.id, Kept(system=system)) as answer:
                answer.append(f"answer {i}")
                answer.finish("stop")
    await d.chat.turns.open(chat)
    old, new = "System prompt: Be old.", "System prompt: Be new."
    assert shown(d)[:3] == [old, "…", "question 25"]
    assert shown(d)[-2:] == ["answer 39", "System prompt: Be kind. · /system changes it"]
    d.chat.query_one(Gap).focus()
    await d.press("enter")
    await d.until(lambda: "question 10" in shown(d))
    assert shown(d)[:4] == [old, "…", new, "question 10"]
    await d.press("enter")
    await d.until(lambda: "question 0" in shown(d))
    assert shown(d)[:2] == [old, "question 0"] and shown(d).count(old) == 1


@driving("One.")
async def test_what_a_dialog_holds_is_in_the_box_when_the_program_is_told_to_end(
    d: Driver,
) -> None:
    await d.send("/system")
    await d.press(*"Be brief")
    d.app._terminal_gone()
    assert d.history.drafts.get(None).text == "Be brief"
