"""The list of presets: what it says of each, at 80 columns too, and what is loaded from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import isolate
from scripted_engine import Script, ScriptedEngine
from textual.widgets import OptionList
from tui_driver import Driver, asynchronous, driven, driving

from eftlocal.presets.reading import load_presets, user_path
from eftlocal_tui.engine import DownloadNeededError, Offer
from eftlocal_tui.screens.dialogs import Confirm, HelpScreen
from eftlocal_tui.screens.models import ModelsScreen, _said

TRIO = ("base", "tuned", "reference")


def lines(d: Driver) -> dict[str, list[str]]:
    """What the list says, by preset."""
    options = d.app.screen.query_one(OptionList).options
    return {str(option.id): str(option.prompt).split("\n") for option in options}


async def opened(d: Driver, *keys: str) -> None:
    await d.press(*keys)
    await d.until(lambda: isinstance(d.app.screen, ModelsScreen))


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        (Offer("x", TRIO), "size unknown · base, tuned, reference"),
        (
            Offer("x", TRIO, 7_000_000, 0, False, 1024, 44_000_000, 10**10, True),
            "here, 7 MB · memory 44 MB, fits · context 1024 · base, tuned, reference",
        ),
        (
            Offer(
                "x", TRIO, 7_630_000_000, 7_630_000_000, False, None, 7_630_000_000, 10**10, True
            ),
            "7.63 GB to download · memory 7.63 GB+, fits · base, tuned, reference",
        ),
        (
            Offer("x", TRIO, 8 * 10**9, 3 * 10**9, True, None, 8 * 10**9, 10**9, False),
            "partly here, 3 GB of 8 GB to download · memory 8 GB+, ✗ does not fit · "
            "base, tuned, reference",
        ),
        (
            Offer("x", TRIO, begun=True),
            "partly here, the rest of unknown size · base, tuned, reference",
        ),
        (
            Offer("x", TRIO, 9, 0, False, 64, 10**9),
            "here, 9 B · memory 1 GB · context 64 · base, tuned, reference",
        ),
        (Offer("x", TRIO, problem="base.gguf: no such file"), "✗ base.gguf: no such file"),
    ],
)
def test_what_is_said_of_a_preset(offer: Offer, said: str) -> None:
    assert _said(offer) == said


@driving(size=(80, 24))
async def test_the_list_at_80_columns(d: Driver) -> None:
    d.engine.offers["demo"] = Offer(
        "demo", TRIO, 7_000_000, 0, False, 1024, 44_000_000, 10**10, True
    )
    await opened(d, "ctrl+l")
    await d.until(lambda: "10 GB of memory free" in d.static("#head"))
    assert list(lines(d)) == list(load_presets())
    assert lines(d)["demo"] == [
        "  demo  Miniature trio that comes with the program: needs no download",
        "  here, 7 MB · memory 44 MB, fits · context 1024 · base, tuned, reference",
    ]
    assert all(len(line) <= 76 for of in lines(d).values() for line in of)
    await d.press("f1")
    assert isinstance(d.app.screen, HelpScreen)
    await d.press("escape", "ctrl+l")
    assert d.app.screen is d.chat


@driving("One.")
async def test_a_preset_is_chosen_and_asks_before_its_download(d: Driver) -> None:
    names = list(load_presets())
    d.engine.missing["olmo2-7b"] = DownloadNeededError("olmo2-7b", 7_630_000_000, 0, 10**11)
    await d.send("/preset demo")
    await d.until(lambda: "demo" in d.static("#head"))
    await d.send("/models")
    await d.until(lambda: isinstance(d.app.screen, ModelsScreen))
    assert lines(d)["demo"][0].startswith("● demo")
    chosen = d.app.screen.query_one(OptionList)
    assert chosen.highlighted == names.index("demo")
    await d.press("enter")  # it is loaded
    await d.until(lambda: "/preset demo loads it again" in d.toasts)
    assert d.engine.loads == [None, "demo"]
    await d.send("/preset")
    await d.until(lambda: isinstance(d.app.screen, ModelsScreen))
    for _ in range(names.index("olmo2-7b") - names.index("demo")):
        await d.press("down")
    await d.press("enter")
    await d.until(lambda: isinstance(d.app.screen, Confirm))
    await d.press("tab", "enter")
    await d.until(lambda: "olmo2-7b" in d.static("#head"))
    await opened(d, "ctrl+l")
    await d.press("escape")
    assert d.engine.loads[-1] == "olmo2-7b"


@driving(Script(["One."], wait_at=0))
async def test_the_list_opens_while_an_answer_is_written(d: Driver) -> None:
    await d.send("Hello")
    await d.until(lambda: d.engine.answering)
    await opened(d, "ctrl+l")
    await d.press("enter")
    await d.until(lambda: "an answer is being generated" in d.toasts)
    assert d.engine.loads == [None]
    d.engine.go()
    await d.idle()


@asynchronous
async def test_a_wrong_presets_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolate(monkeypatch, tmp_path)
    async with driven(ScriptedEngine(), tmp_path) as d:
        user_path().parent.mkdir(parents=True)
        user_path().write_text("[[preset]]\n", encoding="utf-8")
        await d.press("ctrl+l")
        await d.until(lambda: "name: is missing" in d.toasts)
