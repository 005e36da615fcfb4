"""Text that attacks: nothing crashes, nothing reaches the terminal as it came."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import Script, ScriptedEngine
from textual import events
from textual.widgets import Input, Markdown
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.terminal_text import one_line, printable
from eftlocal_tui.text import pasted
from eftlocal_tui.widgets.markdown import Streamed, code_blocks, is_bomb, open_fence

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b31m\x00\x08 \u202egnp.exe [bold]x[/bold] [/]"
BOMBS = {
    "quotes": "> " * 5_000 + "deep",
    "lists": "- " * 3_000 + "deep",
    "lines": "* item\n" * 5_000,
    "table": "|a" * 5_000 + "|\n" + "|-" * 5_000 + "|\n",
    "brackets": "[" * 20_000,
    "emphasis": "*a_" * 10_000,
    "backticks": "`" * 10_000,
    "html": "<div><script>alert(1)</script>" * 100,
    "long": "word " * 40_000,
}


def no_escapes(d: Driver) -> None:
    shown = d.screen_text()
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown
    assert "\x07" not in shown


@asynchronous
async def test_escape_sequences_of_a_model_and_of_a_paste(tmp_path: Path) -> None:
    pieces = [ESCAPES[:3], ESCAPES[3:9], ESCAPES[9:], "\n\n```\n\x1b[0m\n```\n"]
    engine = ScriptedEngine(Script(pieces), Script(pieces), Script(pieces), Script(pieces))
    async with driven(engine, tmp_path) as d:
        d.chat.prompt.post_message(events.Paste(ESCAPES))
        await d.pause()
        assert d.chat.prompt.text == pasted(ESCAPES)
        await d.press("enter")
        await d.idle()
        no_escapes(d)
        assert "[bold]x[/bold] [/]" in d.screen_text()
        await d.send("/save " + "[red]title")
        await d.send("/set beta [red]0.5")
        no_escapes(d)
        assert "[red]title" in d.static("#head")
        await d.press("ctrl+o")
        no_escapes(d)
        await d.press("escape", "f5")
        await d.until(lambda: "tokens" in d.screen_text())
        no_escapes(d)


@driving(Script(["<b>bold</b>\n\n", "<div>block</div>"]))
async def test_html_of_a_model_is_shown_as_text(d: Driver) -> None:
    await d.ask("html")
    assert "<b>bold</b>" in d.screen_text()
    assert "<div>block</div>" in d.screen_text()


@driving(size=(80, 24))
async def test_markdown_bombs(d: Driver) -> None:
    d.engine.n_ctx = 1_000_000
    for bomb in BOMBS.values():
        size = max(1, len(bomb) // 8)
        pieces = [bomb[i : i + size] for i in range(0, len(bomb), size)]
        d.engine.scripts += [Script(pieces), Script(["Fine."])]
        await d.ask("go")
        assert d.turns[-1] == bomb
        await d.ask("and now?")
        assert d.turns[-1] == "Fine."
        await d.press("ctrl+n")


TEXTS = [
    "\u05e9\u05dc\u05d5\u05dd abc \u0645\u0631\u062d\u0628\u0627",  # right to left
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0 " * 20,  # wide
    "Z\u0351\u036b\u0343a\u0300\u0301\u0302lgo " * 20,  # combining
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea\ufe0f " * 20,  # joined
    "\ufeff\u200b\u00ad\u2028\u2029x",
]


@asynchronous
async def test_scripts_and_widths(tmp_path: Path) -> None:
    scripts = [Script(list(text)) for text in TEXTS]
    async with driven(ScriptedEngine(*scripts), tmp_path, size=(80, 24)) as d:
        for text in TEXTS:
            await d.ask(text)
            assert d.turns[-1] == text
            await d.press("ctrl+o", "escape", "ctrl+up", "up", "escape", "ctrl+n")


@asynchronous
async def test_a_paste_of_100000_characters(tmp_path: Path) -> None:
    text = "".join(f"{i:>9}\n" for i in range(10_000))
    one = "x" * 100_000
    engine = ScriptedEngine("Long.", "Longer.")
    engine.n_ctx = 1_000_000
    async with driven(engine, tmp_path, size=(80, 24)) as d:
        for paste in (text, one):
            d.chat.prompt.post_message(events.Paste(paste))
            await d.pause()
            assert len(d.chat.prompt.text) == len(paste)
            await d.press("a", "backspace", "enter")
            await d.idle()
            assert engine.heard[-1][0][-1]["content"] == paste
        await d.press("ctrl+up", "up", "enter")  # unfolds
        await d.pause()
        no_escapes(d)


@asynchronous
async def test_links_of_a_model_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("textual.app.App.open_url", lambda _self, url, **_: opened.append(url))
    async with driven(ScriptedEngine("[click](file:///etc/passwd)"), tmp_path) as d:
        await d.ask("link")
        markdown = d.chat.transcript.query_one(Markdown)
        markdown.post_message(Markdown.LinkClicked(markdown, "file:///etc/passwd"))
        await d.pause()
        assert opened == []
        assert "file:///etc/passwd" in d.toasts


@driving()
async def test_a_table_that_ends_without_a_blank_line(d: Driver) -> None:
    """The first letters of what follows look like one more row, which is then taken back."""
    for after in ("# Head\n", "---\n", "- item\n", "```\ncode\n```\n", "> q\n"):
        streamed = Streamed()
        await d.chat.transcript.mount(streamed)
        await streamed.append("| a | b |\n|---|---|\n| 1 | 2 |\n")
        for letter in "| 3 | 4 |\n" + after + "\nDone.\n":
            await streamed.append(letter)
            await d.pause()
        assert "Done." in d.screen_text(), after
        await streamed.finish()
        await d.pause()
        assert "Done." in d.screen_text(), after
        await streamed.remove()


# The functions behind it ------------------------------------------------------------------------


@given(st.text(max_size=200))
def test_safe_text_drives_nothing(text: str) -> None:
    shown = printable(text)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert "\x7f" not in shown
    assert "\n" not in one_line(text)


@given(
    st.lists(
        st.sampled_from(["```", "```py", "~~~", "~~~~", "````", "x", " ```", "    ```", ""]),
        max_size=12,
    )
)
def test_open_fence_agrees_with_the_parser(lines: list[str]) -> None:
    """Closing what is called open changes nothing that the parser takes for code."""
    text = "\n".join(lines)
    fence = open_fence(text)
    probe = f"{text}\nprobe\n"
    inside = any("probe" in code.split("\n") for code in code_blocks(probe))
    if not any(line.startswith("    ") for line in lines):
        assert bool(fence) == inside


def test_bombs_are_told_from_texts() -> None:
    assert is_bomb(BOMBS["quotes"])
    assert is_bomb(BOMBS["lists"])
    assert is_bomb(BOMBS["long"])
    for fine in ("- a\n  - b\n", "> quoted\n", "-" * 200, "* * *\n", "=" * 500, "word " * 2_000):
        assert not is_bomb(fine)


@driving("One.", size=(80, 24), notifications=True)
async def test_a_huge_paste_into_a_box_of_one_line_is_cut(d: Driver) -> None:
    await d.ask("Go")
    for keys, selector in (("ctrl+f", "FindInput"), ("ctrl+t", "DialInput"), ("ctrl+p", "Input")):
        await d.press(keys)
        await d.until(lambda: isinstance(d.app.focused, Input))
        box = d.app.focused
        assert isinstance(box, Input) and box in d.app.screen.query(selector)
        d.app.post_message(events.Paste("abc def " * 131_072))
        await d.until(lambda: "Only the first 1,000" in d.toasts)
        assert len(box.value) < 1_100
        d.app.clear_notifications()
        await d.press("escape")
    await d.press("ctrl+o", "slash", "x")
    text = "abc def " * 25
    for keys, room, value in (
        ((), 199, f"x{text}"[:200]),
        ((), 0, f"x{text}"[:200]),
        (("home", "shift+end"), 200, text),
    ):
        await d.press(*keys)
        d.app.post_message(events.Paste("abc def " * 131_072))
        await d.until(lambda room=room: f"Only the first {room} characters" in d.toasts)
        assert d.app.screen.query_one(Input).value == value
        d.app.clear_notifications()
    assert "a search takes" not in d.toasts
    await d.press("escape", "escape")
    for command in ("find", "history"):
        await d.send(f"/{command} {'abc def ' * 131_072}")
        await d.until(lambda: "a search takes at most 200 characters" in d.toasts)
        assert d.app.screen is d.chat
        d.chat.prompt.clear()
        d.app.clear_notifications()
