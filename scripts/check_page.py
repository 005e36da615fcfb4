"""Opens the page of `eftlocal inspect --html` in a real Chromium, light and dark, and uses it.

Usage: python scripts/check_page.py [--page FILE] [--chromium PROGRAM] [--out FOLDER]

Needs `pip install playwright` and a Chromium (on Debian `apt-get install chromium`); neither is a
dependency of the project. Without --page it inspects hostile text with the demo. Checked: no
console error, no request that leaves the file, every token reachable by keyboard, the measure
switched, text that looks like markup shown as text. Pictures are written to --out to be looked at.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def use(browser: Any, file: Path, scheme: str, size: tuple[int, int], out: Path) -> list[str]:
    """What went wrong with the page in one colour scheme."""
    wrong: list[str] = []
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": size[0], "height": size[1]}
    )
    page = context.new_page()
    page.on("console", lambda message: wrong.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    address = file.resolve().as_uri()
    page.on("request", lambda r: r.url == address or wrong.append(f"request: {r.url}"))
    page.goto(address)

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id"))

    def expect(what: str, holds: object) -> None:
        if not holds:
            wrong.append(f"not so: {what}")

    count = page.locator(".token[role=option]").count()
    expect("there are tokens", count > 0)
    expect("one token is in the tab order", page.locator(".token[tabindex='0']").count() == 1)
    page.keyboard.press("Tab")
    expect("Tab reaches the measures first", focused() == "measure")
    page.keyboard.press("Tab")
    expect("Tab reaches the first token", focused() == "t0")
    seen = {focused()}
    for _ in range(count - 1):
        page.keyboard.press("ArrowRight")
        seen.add(focused())
    expect("the arrows reach every token", len(seen) == count)
    page.keyboard.press("Home")
    expect("Home goes to the first token", focused() == "t0")
    page.keyboard.press("ArrowDown")
    lines = page.locator("#text").evaluate("e => e.getClientRects()[0].height") > 80
    expect("the arrow down leaves the line", focused() != "t0" or not lines)
    page.keyboard.press("n")
    details = page.locator("#details").inner_text()
    expect("the details are those of the token", f"Token {focused()[1:]} " in details)
    before = page.locator("#most").inner_text()
    page.locator("#measure").select_option(index=1)
    expect("another measure gives another table", page.locator("#most").inner_text() != before)
    page.locator("#t1").hover()
    expect("pointing shows a token", "Token 1 " in page.locator("#details").inner_text())
    expect("no text became an element", page.locator("#text img, #text script").count() == 0)
    page.locator("#measure").select_option(index=0)
    page.keyboard.press("Tab")
    page.screenshot(path=str(out / f"{file.stem}-{scheme}-{size[0]}.png"), full_page=True)
    context.close()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--page", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chrome"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("check_page: playwright is missing: pip install playwright", file=sys.stderr)
        return 2
    out = options.out or Path(tempfile.mkdtemp(prefix="page-"))
    out.mkdir(parents=True, exist_ok=True)
    file = options.page or example(out)
    failed = False
    with sync_playwright() as playwright:
        # Root, as in containers, has no sandbox; without a program, playwright's own is used.
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox"]
        )
        print(f"Chromium {browser.version}, pictures in {out}")
        for scheme in ("light", "dark"):
            for size in ((1280, 900), (420, 800)):
                wrong = use(browser, file, scheme, size, out)
                failed |= bool(wrong)
                print(f"{scheme} {size[0]}x{size[1]}: {'; '.join(wrong) or 'as it should be'}")
        browser.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
