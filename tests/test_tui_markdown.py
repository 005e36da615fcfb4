"""Answers as they are laid out: whole, and while they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rich.color import Color
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.geometry import Offset
from textual.pilot import Pilot
from tui_driver import asynchronous

import eftlocal_tui
from eftlocal_tui.widgets.markdown import Streamed, code_blocks

WORDS = " ".join(["word"] * 30)


class Page(App[None]):
    CSS_PATH = str(Path(eftlocal_tui.__file__).parent / "chat.tcss")

    def compose(self) -> ComposeResult:
        yield VerticalScroll()


class Shown:
    """What a page shows of an answer."""

    def __init__(self, app: Page, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    async def __call__(self, pieces: Sequence[str], *, finish: bool = True) -> str:
        """The picture of an answer that comes in pieces: its rows, blank ones at the end cut."""
        streamed = Streamed(pieces[0])
        await self.app.query_one(VerticalScroll).mount(streamed)
        for piece in pieces[1:]:
            await streamed.append(piece)
        if finish:
            await streamed.finish()
        for _ in range(3):
            await self.pilot.pause()
        strips = self.app.screen._compositor.render_strips()
        picture = "\n".join(strip.text.rstrip() for strip in strips).rstrip()
        await streamed.remove()
        return picture


@asynccontextmanager
async def page(width: int = 40, height: int = 30) -> AsyncIterator[Shown]:
    app = Page()
    async with app.run_test(size=(width, height)) as pilot:
        yield Shown(app, pilot)


LOOKS = {
    "a poem": ("Red,\nblue,\n  sweet.\n\nNext\nverse.", "Red,\nblue,\nsweet.\n\nNext\nverse."),
    "hard breaks": ("one  \ntwo\\\nthree", "one\ntwo\nthree"),
    "a tight list": ("Now:\n- a\n- b\n\nEnd", "Now:\n\n • a\n • b\n\nEnd"),
    "a loose list": ("- a\n\n- b\n\nEnd", " • a\n\n • b\n\nEnd"),
    "lists in lists": (
        "- a\n  - b\n    1. c\n- d\n\n1. x\n   - y\n2. z",
        " • a\n    ▪ b\n       1. c\n • d\n\n 1. x\n     • y\n 2. z",
    ),
    "a list from 3": ("3. c\n4. d", " 3. c\n 4. d"),
    "numbers of two digits": ("9. i\n10. j", "  9. i\n 10. j"),
    "tasks": ("- [ ] open\n- [x] done", " • [ ] open\n • [x] done"),
    "code in lists": (
        "- a:\n  ```sh\n  ls\n  ```\n- b\n\n1. c\n   ```\n   x\n   ```",
        " • a:\n\n    ls\n\n • b\n\n 1. c\n\n     x",
    ),
    "code between text": (
        "Do\n```sh\nls\n```\nand\n\n    cd\n\n# H", "Do\n\n ls\n\nand\n\n cd\n\nH",
    ),
    "a quote": ("> one\n> two\n>\n> - a\n> - b\n\nEnd", "▌ one\n▌ two\n▌\n▌  • a\n▌  • b\n\nEnd"),
    "products": (
        "2*3*4, a*b+c*d, 2**3**4, *i*, **b**x, 強*調*",
        "2*3*4, a*b+c*d, 2**3**4, i, bx, 強調",
    ),
    "links": (
        "[a](http://b.org/c_d), [http://e](http://e),\nhttp://f and a@g.org",
        "a (http://b.org/c_d), http://e,\nhttp://f and a@g.org",
    ),
    "a rule": ("a\n\n---\n\nb", f"a\n\n{'─' * 40}\n\nb"),
    "HTML": ("a<br>b <b>c</b>\n<div>d</div>", "a<br>b <b>c</b>\n<div>d</div>"),
    "notes at the foot": ("See [1].\n\n[1]: x\n[^2]: y", "See [1].\n\n[1]: x\n[^2]: y"),
    "formulas in a sentence": (
        r"With \(a_1*b_2*c\), \[ x_i\,dx \], $a_1*b_2*c$.",
        "With \\(a_1*b_2*c\\), \\[ x_i\\,dx \\],\n$a_1*b_2*c$.",
    ),
    "formulas by themselves": (
        "So\n\\[\n\\frac{a}{b} \\\\\n- x_1 * y_2\n\\]\nand\n$$ x_1 $$\nend",
        "So\n\n \\[\n \\frac{a}{b} \\\\\n - x_1 * y_2\n \\]\n\nand\n\n $$ x_1 $$\n\nend",
    ),
    "a formula in a list": (
        "- a:\n  \\[\n  x\n  \\]\n- b",
        " • a:\n\n    \\[\n    x\n    \\]\n\n • b",
    ),
    "money": ("From $5 *to* $10, or $20.", "From $5 to $10, or $20."),
    "escapes that are no formula": (r"\*not\* 1 \(a b", "*not* 1 (a b"),
    "hanging indents": (
        "- " + "word " * 10 + "\n\n> " + "word " * 10,
        f" • {WORDS[:34]}\n   {WORDS[:14]}\n\n▌ {WORDS[:34]}\n▌ {WORDS[:14]}",
    ),
    "a table": (
        "| l | right | mid |\n|:--|--:|:-:|\n| a | 1 | x |\n| b<br>c | 22 | yyyyy |\n\nEnd",
        "┌───┬───────┬───────┐\n│ l │ right │  mid  │\n├───┼───────┼───────┤\n"
        "│ a │     1 │   x   │\n├───┼───────┼───────┤\n│ b │    22 │ yyyyy │\n"
        "│ c │       │       │\n└───┴───────┴───────┘\n\nEnd",
    ),
    "wide letters": ("日本" * 12, "日本" * 10 + "\n日本日本"),
    "a long word": ("x" * 50, "x" * 40 + "\n" + "x" * 10),
}  # fmt: skip


@asynchronous
async def test_looks() -> None:
    async with page() as shown:
        for name, (text, picture) in LOOKS.items():
            assert await shown([text]) == picture, name


@asynchronous
async def test_an_answer_looks_the_same_while_it_comes() -> None:
    async with page() as shown:
        for name, (text, picture) in LOOKS.items():
            assert await shown(["", *text], finish=False) == picture, name


CUT = {
    "lines": "a\nb\n\nc",
    "a loose list": "- a\n\n- b",
    "code in a list": "- a\n  ```\n  b\n  ```",
    "a formula": "a\n\\[\n- x\n\\]\n",
    "a table": "|a|b|\n|-|-:|\n|1|2|\n",
}


@pytest.mark.parametrize("name", CUT)
@asynchronous
async def test_wherever_it_is_cut(name: str) -> None:
    text = CUT[name]
    async with page() as shown:
        whole = await shown([text])
        for at in range(1, len(text)):
            assert await shown([text[:at], text[at:]], finish=False) == whole, text[:at]


@asynchronous
async def test_a_number_is_shown_when_it_is_known_what_it_is() -> None:
    text = "1. a\n\n2. b\n\n10. c"
    async with page() as shown:
        assert await shown(["", *text], finish=False) == " 1. a\n\n 2. b\n\n 3. c"
        assert await shown(["In", "\n", "20", "01", " or\n", "1", "9"]) == "In\n2001 or\n19"
        assert await shown(["", "\n2"]) == "2"
        assert await shown(["a\r", "\nb\r", "\n"]) == "a\nb"


@asynchronous
async def test_prose_keeps_to_100_columns_and_code_may_be_wider() -> None:
    async with page(200, 40) as shown:
        picture = await shown([f"{WORDS}\n\n- {WORDS}\n\n> {WORDS}\n\n# {WORDS}"])
        assert 90 < max(map(len, picture.split("\n"))) <= 100
        assert len(await shown([f"```\n{WORDS}\n```"])) == 150
        cells = "|".join(["word word word"] * 9)
        assert len((await shown([f"|{cells}|\n{'|-' * 9}|\n"])).split("\n")[1]) > 150
        assert max(map(len, (await shown(["word " * 40_000])).split("\n"))) <= 100  # no Markdown


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "gruvbox", "solarized-light"])
@asynchronous
async def test_the_background_of_code_is_seen(theme: str) -> None:
    async with page() as shown:
        shown.app.theme = theme
        streamed = Streamed("Text\n\n```\ncode\n```\n\n`x`")
        await shown.app.query_one(VerticalScroll).mount(streamed)
        for _ in range(3):
            await shown.pilot.pause()
        lightness = [brightness(shown.app, row) for row in (0, 2)]
        assert 8 < abs(lightness[1] - lightness[0]) < 60


def brightness(app: Page, row: int) -> float:
    """Of a cell's background, from 0 to 255."""
    found = app.screen.get_style_at(*Offset(20, row)).bgcolor
    return sum((found or Color.parse("black")).get_truecolor()) / 3


@asynchronous
async def test_no_width_is_too_narrow() -> None:
    text = "\n\n".join(text for text, _ in LOOKS.values())
    async with page(60, 20) as shown:
        for width in (9, 3, 1):
            await shown.pilot.resize_terminal(width, 5)
            await shown([text])


def test_formulas_are_no_code_to_copy() -> None:
    assert code_blocks("\\[\nx\n\\]\n\n```\ny\n```\n") == ["y\n"]


@asynchronous
async def test_a_list_that_grows_is_not_laid_out_again() -> None:
    async with page(40, 60) as shown:
        streamed = Streamed()
        await shown.app.query_one(VerticalScroll).mount(streamed)
        for number in range(1, 9):
            await streamed.append(f"{number}. item\n")
        first = streamed.query("MarkdownList > Horizontal").first()
        await streamed.append("9. more\n")
        assert first is streamed.query("MarkdownList > Horizontal").first()
        await streamed.append("10. wider")
        assert first is not streamed.query("MarkdownList > Horizontal").first()
        assert len(streamed.query("MarkdownList > Horizontal")) == 10
