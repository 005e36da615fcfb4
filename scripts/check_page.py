"""Opens the page of `eftlocal inspect --html` in a real Chromium, light and dark, and uses it.

Usage: python scripts/check_page.py [--page FILE] [--chromium PROGRAM] [--out FOLDER]

Needs `pip install playwright` and a Chromium (on Debian `apt-get install chromium`); neither is a
dependency of the project. Without --page it inspects hostile text with the demo. Checked: no
console error, no request that leaves the file, every token reachable by keyboard, the measure
switched, text that looks like markup shown as text. Pictures are written to --out to be looked at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from _browser import Look, add_options, chromium

HOSTILE = (
    " </script><script>alert(1)</script><img src=x onerror=alert(2)> \"quoted\" & 'so' <!-- "
    "\u202ereversed\u202c \x1b[31mred\x1b[0m \u2028 {{policy}} {{data}} 日本語 😀 مرحبا\n\n"
    "1. because 12 + 30 = 42\n"
)


def example(folder: Path) -> Path:
    """The page of a hostile answer of the demo."""
    import eftlocal
    from eftlocal.study.influence import inspect
    from eftlocal.study.view import page

    with eftlocal.load("demo", threads=1) as emulator:
        found = inspect(emulator, "What is <b>bold</b>?\n</script>", HOSTILE)
    file = folder / "hostile.html"
    file.write_text(page(found), "utf-8", newline="\n")
    return file


def use(browser: Any, file: Path, scheme: str, size: tuple[int, int], out: Path) -> bool:
    """Whether anything went wrong with the page in one colour scheme."""
    address = file.resolve().as_uri()
    look = Look(browser, scheme, size, lambda url: url == address)
    page = look.page
    page.on("dialog", lambda d: (look.wrong.append(f"dialog: {d.message}"), d.dismiss()))
    page.goto(address)
    count = page.locator(".token[role=option]").count()
    look.expect("there are tokens", count > 0)
    look.expect("one token is in the tab order", page.locator(".token[tabindex='0']").count() == 1)
    page.keyboard.press("Tab")
    look.expect("Tab reaches the measures first", look.focused() == "measure")
    page.keyboard.press("Tab")
    look.expect("Tab reaches the first token", look.focused() == "t0")
    seen = {look.focused()}
    for _ in range(count - 1):
        page.keyboard.press("ArrowRight")
        seen.add(look.focused())
    look.expect("the arrows reach every token", len(seen) == count)
    page.keyboard.press("Home")
    look.expect("Home goes to the first token", look.focused() == "t0")
    page.keyboard.press("ArrowDown")
    lines = page.locator("#text").evaluate("e => e.getClientRects()[0].height") > 80
    look.expect("the arrow down leaves the line", look.focused() != "t0" or not lines)
    page.keyboard.press("n")
    details = page.locator("#details").inner_text()
    look.expect("the details are those of the token", f"Token {look.focused()[1:]} " in details)
    before = page.locator("#most").inner_text()
    page.locator("#measure").select_option(index=1)
    look.expect("another measure gives another table", page.locator("#most").inner_text() != before)
    page.locator("#t1").hover()
    look.expect("pointing shows a token", "Token 1 " in page.locator("#details").inner_text())
    look.expect("no text became an element", page.locator("#text img, #text script").count() == 0)
    page.locator("#measure").select_option(index=0)
    page.keyboard.press("Tab")
    look.picture(out, file.stem, full_page=True)
    return look.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--page", type=Path)
    add_options(parser)
    options = parser.parse_args()
    with chromium(options) as (browser, out):
        file = options.page or example(out)
        failed = [
            use(browser, file, scheme, size, out)
            for scheme in ("light", "dark")
            for size in ((1280, 900), (420, 800))
        ]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
