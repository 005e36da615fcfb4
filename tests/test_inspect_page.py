"""The HTML page of an inspection: whole, harmless, readable. Nothing of it is run here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from eftlocal import Emulator, Recipe
from eftlocal.errors import UsageError
from eftlocal.study.influence import inspect
from eftlocal.study.inspection import Inspection
from eftlocal.study.report import plain
from eftlocal.study.view import as_data, page

PROMPT = 'What is <b>"bold"</b>?\n</script><!-- {{data}}'
HOSTILE = (
    " </script><script>alert(1)</script><img src=x onerror=alert(2)> \"a\" & 'b' <!--<script>"
    "]]> \u202ereversed\u202c \u2066x\u2069 \x00\x07\x1b[31m \x85 \u2028\u2029 \ufeff\n\t"
    " {{policy}} {{data}} &lt; \\u003c https://example.com/x javascript:alert(3) 日本語 😀\n"
)


class Parsed(HTMLParser):
    """Elements with their attributes, and the text inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = (tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside.append((*self._open, data))
        else:
            self.text += data

    def only(self, tag: str, **attributes: str) -> str:
        """The text of the one element of this kind."""
        (found,) = [
            text
            for name, attrs, text in self.inside
            if name == tag and all(attrs.get(k) == v for k, v in attributes.items())
        ]
        return found


@pytest.fixture(scope="module")
def hostile(demo: Emulator) -> Inspection:
    return inspect(demo, PROMPT, HOSTILE, recipe=Recipe.upscale())


@pytest.fixture(scope="module")
def parsed(hostile: Inspection) -> Parsed:
    return Parsed(page(hostile))


def data_of(parsed: Parsed) -> Any:
    return json.loads(parsed.only("script", type="application/json", id="data"))


def test_the_data_come_back_as_they_went_in(hostile: Inspection, parsed: Parsed) -> None:
    found = data_of(parsed)
    assert "".join(token["text"] for token in found["tokens"]) == found["answer"] == HOSTILE
    assert found["prompt"] == PROMPT and found["first"] == next(iter(found["measures"]))
    whole = plain(as_data(hostile))
    assert found.keys() == {*whole, "first", "signed"}
    for short, token in zip(found["tokens"], whole["tokens"], strict=True):
        for key in ("probability", "logprob", "measures"):
            assert short.pop(key) == pytest.approx(token.pop(key), rel=1e-4, abs=1e-12)
        for name, of in token.pop("candidates").items():
            for one, other in zip(short["candidates"][name], of, strict=True):
                assert (one["token"], one["label"]) == (other["token"], other["label"])
                assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)
        assert short.pop("candidates") and short == token


def test_hostile_text_changes_nothing_but_the_data(hostile: Inspection, demo: Emulator) -> None:
    plain = Parsed(page(inspect(demo, "Hello", " there", recipe=Recipe.upscale())))
    parsed = Parsed(page(hostile))
    assert parsed.elements == plain.elements
    assert parsed.text == plain.text
    scripts = [entry for entry in parsed.inside if entry[1].get("id") != "data"]
    assert scripts == [entry for entry in plain.inside if entry[1].get("id") != "data"]


def test_the_data_hold_no_character_that_html_reads(hostile: Inspection) -> None:
    text = page(hostile)
    start = text.index('id="data">') + len('id="data">')
    island = text[start : text.index("</script>", start)]
    assert not set(island) & set("<>&\u2028\u2029")
    assert island.isascii() and island.isprintable()


def test_nothing_is_asked_for_from_outside(parsed: Parsed) -> None:
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "a")
        for name, value in attributes.items():
            assert name not in ("src", "href", "style", "action", "srcdoc"), (tag, name)
            assert not name.startswith("on"), (tag, name)
            assert "://" not in (value or "")
    style, script = parsed.only("style"), parsed.inside[-1][2]
    assert "url(" not in style and "@import" not in style
    for way in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "innerHTML", "eval(", "://"):
        assert way not in script


def test_the_policy_allows_the_pages_own_script_and_style_only(parsed: Parsed) -> None:
    (policy,) = [
        attributes["content"]
        for tag, attributes in parsed.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for name, content in (("style", parsed.only("style")), ("script", parsed.inside[-1][2])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert len(rules) == 5


def test_the_measure_shown_first(hostile: Inspection) -> None:
    assert data_of(Parsed(page(hostile, "gain-tuned")))["first"] == "gain-tuned"
    with pytest.raises(UsageError, match="did you mean gain-tuned"):
        page(hostile, "gain-tund")


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """WCAG 2: 4.5 is enough for text, 3 for what is not."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_in_light_and_dark(parsed: Parsed) -> None:
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", parsed.only("style"), re.DOTALL)
    ]
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys()
    for colours in schemes:
        for paper in ("paper", "panel", "hot", "cold"):
            assert contrast(colours["ink"], colours[paper]) >= 4.5, paper
        for paper in ("paper", "panel"):
            assert contrast(colours["quiet"], colours[paper]) >= 4.5, paper
            assert contrast(colours["focus"], colours[paper]) >= 3, paper
            assert contrast(colours["bar"], colours[paper]) >= 3, paper
