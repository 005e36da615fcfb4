"""HTML pages that need nothing else and ask for nothing: one shell, a template for each page.

Texts of models and people are escaped by the template, or reach the page as JSON in a script
element that is data. The page's Content-Security-Policy allows its own style and script, by the
hashes of these files, and nothing else at all.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eftlocal.terminal_text import printable

PAGES = Path(__file__).with_name("pages")


def render(name: str, **values: Any) -> str:
    """The page of a template `name`.html with `name`.css and, where there is one, `name`.js.

    Args:
        values: of the template, where `visible` is what may be shown of a text and `tojson` puts
            data into a script.
    """
    style = _source("shell.css") + _source(f"{name}.css")
    script = _source(f"{name}.js") if (PAGES / f"{name}.js").is_file() else ""
    policy = {
        "default-src": "'none'",
        "style-src": _digest(style),
        "script-src": _digest(script) if script else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return _environment().get_template(f"{name}.html").render(
        style=Markup(style),
        script=Markup(script),
        policy=Markup("; ".join(f"{key} {value}" for key, value in policy.items())),
        **values,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["visible"] = printable
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": True, "allow_nan": False, "separators": (",", ":"),
    }  # fmt: skip
    return environment


def _source(name: str) -> str:
    return (PAGES / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
