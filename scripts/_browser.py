"""A real Chromium for the scripts that look at pages, and what must not happen in it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """--chromium and --out."""
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chrome"))
    parser.add_argument("--out", type=Path)


@contextmanager
def chromium(options: argparse.Namespace) -> Iterator[tuple[Any, Path]]:
    """The browser, and the folder of pictures."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit(f"{Path(sys.argv[0]).stem}: playwright is missing: pip install playwright")
    out = options.out or Path(tempfile.mkdtemp(prefix="page-"))
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # Root, as in containers, has no sandbox; without a program, playwright's own is used.
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox"]
        )
        print(f"Chromium {browser.version}, pictures in {out}", flush=True)
        yield browser, out
        browser.close()


class Look:
    """A page in one colour scheme and size.

    Attributes:
        page: playwright's.
        wrong: what went wrong, in words.
    """

    def __init__(
        self, browser: Any, scheme: str, size: tuple[int, int], own: Callable[[str], bool]
    ) -> None:
        self.wrong: list[str] = []
        self.scheme, self.size = scheme, size
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": size[0], "height": size[1]}
        )
        self.page = self.context.new_page()
        on, wrong = self.page.on, self.wrong
        on("console", lambda message: wrong.append(f"console {message.type}: {message.text}"))
        on("pageerror", lambda error: wrong.append(f"error: {error}"))
        on("request", lambda r: own(r.url) or wrong.append(f"request: {r.url}"))

    def expect(self, what: str, holds: object) -> None:
        if not holds:
            self.wrong.append(f"not so: {what}")

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.id"))

    def picture(self, out: Path, name: str, **options: Any) -> None:
        self.page.screenshot(path=str(out / f"{name}-{self.scheme}-{self.size[0]}.png"), **options)

    def end(self) -> bool:
        """Tells what went wrong; whether anything did."""
        self.context.close()
        told = "; ".join(self.wrong) or "as it should be"
        print(f"{self.scheme} {self.size[0]}x{self.size[1]}: {told}", flush=True)
        return bool(self.wrong)
