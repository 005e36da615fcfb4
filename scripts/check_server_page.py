"""Uses the web chat of `eftlocal serve` in a real Chromium: at a phone's and a desk's width, light
and dark.

Usage: python scripts/check_server_page.py [--chromium PROGRAM] [--out FOLDER]

Needs `pip install playwright` and a Chromium (on Debian `apt-get install chromium`); neither is a
dependency of the project. A server with a key answers with the demo. Checked: the key asked for,
chat, a dial turned, stop, compare, influence by keyboard, history kept and deleted, errors with
Retry, texts that attack shown as text; no console error but those asked for, no request elsewhere.
Pictures are written to --out to be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _browser import Look, add_options, chromium

KEY = "a key"
QUESTION = "In which country is Toulouse?"
HOSTILE = (
    "</p><script>alert(1)</script><img src=x onerror=alert(2)> "
    "[a](javascript:alert(3)) ![b](https://example.com/x.png) <style>*{display:none}</style> "
    "\u202ereversed\u202c **bold** `code` &lt; {{x}}"
)
BOMBS = {
    "stars": "*" * 20_000,
    "ticks": "`a" * 10_000,
    "quotes": ">" * 20_000,
    "lists": "\n".join(" " * (i % 9) + "- x" for i in range(5_000)),
    "fences": "```\n" * 5_001,
    "marks": "\u202e\u2066" * 2_000 + "a\u0301" * 2_000 + "z" * 20_000,
}


@contextmanager
def server() -> Iterator[str]:
    """The address of a server of the demo, which wants a key."""
    command = [sys.executable, "-m", "eftlocal", "serve", "--preset", "demo", "--threads", "1",
               "--port", "0"]  # fmt: skip
    process = subprocess.Popen(
        command, text=True, env={**os.environ, "EFTLOCAL_API_KEY": KEY},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"(http://\S+)/v1;", line):
                yield found[1]
                break
        else:
            raise SystemExit("check_server_page: the server did not start")
    finally:
        process.terminate()
        process.wait(20)


def use(browser: Any, address: str, scheme: str, size: tuple[int, int], out: Path) -> bool:
    """Whether anything went wrong with the page at one size, in one colour scheme."""
    look = Look(browser, scheme, size, lambda url: url.startswith(address + "/"))
    page, wrong, narrow = look.page, look.wrong, size[0] < 960
    page.on("dialog", lambda d: d.accept() if d.message.startswith("Delete ") else wrong.append(d))
    asked: list[dict[str, Any]] = []
    more: dict[str, Any] = {}  # fields that are added to what the page asks

    def pass_on(route: Any) -> None:
        body = json.loads(route.request.post_data)
        asked.append(body)
        route.continue_(post_data=json.dumps({**body, **more}))

    page.route("**/v1/chat/completions", pass_on)

    def ended(seconds: float = 60) -> None:
        page.wait_for_selector("#stop", state="hidden", timeout=1000 * seconds)

    def until(holds: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it took too long"
            page.wait_for_timeout(30)

    def ask(text: str) -> None:
        page.locator("#question").fill(text)
        page.keyboard.press("Enter")
        until(lambda: not page.locator("#question").input_value())

    def panel(name: str) -> None:
        if narrow:
            page.locator(f"header [aria-controls={name}]").click()

    def whole() -> bool:
        return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    answer = page.locator("article").last.locator(".body")

    # The key: a wrong one, then the right one
    page.goto(address + "/")
    page.locator("#key-text").fill("another")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=That key is not")
    look.picture(out, "1-key")
    page.locator("#key-text").fill(KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#dial-beta", state="attached", timeout=60_000)
    refused = [told for told in wrong if "401" in told]
    look.expect("a missing and a wrong key are refused", len(refused) == 2)
    wrong[:] = [told for told in wrong if told not in refused]
    look.picture(out, "2-empty")

    # The keyboard's order, which begins where one writes and comes round
    page.locator("#question").focus()
    order = []
    for _ in range(24):
        page.keyboard.press("Tab")
        order.append(look.focused())
    dials = ["recipe", "dial-beta", "dial-temperature", "system", "reset"]
    header = ["open-history", "model", "open-dials"] if narrow else ["model", "new"]
    wanted = [
        "compare",
        "influence",
        "send",
        *([] if narrow else dials),
        *header,
        "talk",
        "question",
    ]
    found = [one for one in order if one in wanted]
    look.expect(f"Tab goes in order, and not {order}", found[: len(wanted)] == wanted)

    # Chat, by keyboard; then another beta
    page.locator("#question").focus()
    page.keyboard.type("In which country")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("is Toulouse?")
    look.expect("Shift+Enter is a new line", "\n" in page.locator("#question").input_value())
    page.keyboard.press("Enter")
    ended()
    look.expect("an answer came", "France" in answer.inner_text())
    look.expect("dials that nobody turned are not sent", "beta" not in asked[-1])
    panel("dials")
    page.locator("#dial-beta").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    look.expect("the number follows", page.get_by_label("beta as a number").input_value() == "1.5")
    look.picture(out, "3-dials")
    if narrow:
        page.keyboard.press("Escape")
    ask("And Lyon?")
    ended()
    sent = [message["role"] for message in asked[-1]["messages"]]
    look.expect("the turned beta is sent", asked[-1].get("beta") == 1.5)
    look.expect("the conversation is sent", sent == ["user", "assistant", "user"])

    # Stop, by Esc and by the button; what came stays
    more["regex"] = "(word ){400}"
    for stop in (lambda: page.keyboard.press("Escape"), lambda: page.locator("#stop").click()):
        ask("Go on and on")
        until(lambda: "word" in answer.inner_text())
        stop()
        ended(5)
        look.expect("what came is kept", "word" in answer.inner_text())
        note = page.locator(".note").last.inner_text()
        look.expect("it is marked as stopped", "stopped" in note)
    more.clear()

    # Compare and influence
    page.locator("#compare").check()
    page.locator("#influence").check()
    ask(QUESTION)
    ended()
    look.expect("three models answered", page.locator("article").last.locator("h3").count() == 3)
    models = {body["model"] for body in asked[-3:]}
    look.expect("the three are asked", models == {"demo", "demo:tuned", "demo:base"})
    look.expect("nothing is cut off sideways", whole())
    look.picture(out, "4-compare")
    page.locator("#compare").uncheck()
    ask("What is the capital of Norway?")
    ended()
    tokens = page.locator("article").last.locator(".token[role=option]")
    tokens.first.focus()
    page.keyboard.press("n")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    told = page.locator(".details").last.inner_text()
    look.expect("the focused token is told", label.rpartition("”: ")[2] in told)
    look.expect("it has an outline", page.locator(".token[aria-selected=true]").count() >= 1)
    look.expect("its candidates are there", page.locator(".details").last.locator("li").count() > 9)
    page.locator(".details").last.scroll_into_view_if_needed()
    look.picture(out, "5-influence")
    page.locator("#influence").uncheck()

    # Errors in plain words, and Retry
    more["temperature"] = 1e9
    ask("Hello?")
    ended()
    failure = page.locator(".failed").last
    look.expect("a refusal is told", "temperature" in failure.inner_text())
    look.picture(out, "6-error")
    more.clear()
    failure.get_by_role("button", name="Retry").click()
    ended()
    look.expect("Retry asks again", answer.inner_text().strip())
    wrong[:] = [told for told in wrong if "400" not in told]

    # Texts that attack: of the person, of the model, of what was kept
    more["regex"] = re.escape(HOSTILE)
    ask(HOSTILE)
    ended(120)
    more.clear()
    look.expect(
        "what the model said is text", "<img src=x onerror=alert(2)>" in answer.inner_text()
    )
    look.expect("bidi controls are written out", "⟨U+202E⟩reversed" in answer.inner_text())
    look.expect("no text became an element", attacked(page) == 0)
    look.picture(out, "7-hostile")
    kept = json.loads(page.evaluate("localStorage.getItem('eftlocal.conversations')"))
    turns = [
        {"question": name, "made": text, "answers": [{"model": text, "text": text, "note": text}]}
        for name, text in {**BOMBS, "hostile": HOSTILE}.items()
    ]
    kept.append({"id": "bombs", "title": HOSTILE, "turns": turns})
    kept += [None, 7, {"id": "x"}, {"id": "x", "title": "x", "turns": [{"question": 1}]}]  # no harm
    page.evaluate("all => localStorage.setItem('eftlocal.conversations', all)", json.dumps(kept))
    page.reload()
    page.wait_for_selector("#dial-beta", state="attached")
    panel("history")
    look.expect("the conversations are kept", page.locator("#conversations li").count() == 2)
    look.picture(out, "8-history")
    started = time.monotonic()
    page.locator("#conversations li").last.locator("button").first.click()
    until(lambda: page.locator("article").count() == 7)
    page.evaluate("document.body.offsetHeight")
    look.expect("bombs are drawn at once", time.monotonic() - started < 5)
    look.expect("no kept text became an element", attacked(page) == 0)
    look.expect("nothing is cut off sideways by them", whole())
    look.picture(out, "9-bombs")
    for delete in (lambda: page.get_by_label("Delete “").first.click(),
                   lambda: page.locator("#forget").click()):  # fmt: skip
        panel("history")
        delete()
        if narrow:
            page.keyboard.press("Escape")
    look.expect("all are deleted", page.locator("#conversations li").count() == 0)

    # The server is not there
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask("Hello?")
    ended()
    look.expect("it is told", "cannot be reached" in page.locator(".failed").last.inner_text())
    wrong[:] = [told for told in wrong if "ERR_FAILED" not in told]
    return look.end()


def attacked(page: Any) -> int:
    inside = "main :is(img, script, style, a, iframe), #conversations :is(img, script, style, a)"
    return int(page.locator(inside).count())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    add_options(parser)
    options = parser.parse_args()
    with server() as address, chromium(options) as (browser, out):
        failed = [
            use(browser, address, scheme, size, out)
            for scheme in ("light", "dark")
            for size in ((1280, 800), (390, 844), (360, 640))
        ]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
