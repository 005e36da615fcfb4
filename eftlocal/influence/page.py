"""An inspection as one HTML page that needs nothing else and asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

from eftlocal.influence.inspection import Inspection
from eftlocal.influence.measures import measures_of
from eftlocal.influence.winner import AGREED, NOBODY, SHARED

_DATA, _POLICY = "{{data}}", "{{policy}}"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_DIGITS = 5  # of a probability: enough to show, and half the size


def page(found: Inspection, measure: str | None = None) -> str:
    """The page; `measure` (by name) is the one it shows first.

    Text of models reaches the page as JSON in a script element that is data, with every
    character escaped that HTML could take for an end, and from there as text nodes only. The
    page's policy allows its own script and style, by their hashes, and nothing else at all.
    """
    template = files("eftlocal.influence").joinpath("page.html").read_text("utf-8")
    # The data comes last: nothing is looked for in it.
    return template.replace(_POLICY, _policy(template)).replace(_DATA, _json(data(found, measure)))


def data(found: Inspection, measure: str | None = None) -> dict[str, Any]:
    """What the page is given; numbers rounded, lists in the order of "distributions"."""
    measures = measures_of(found)
    values = [m.values(found).tolist() for m in measures]
    names = found.distributions
    known = [m.name for m in measures]
    return {
        "prompt": found.prompt,
        "recipe": str(found.recipe),
        "preset": found.preset,
        "seed": found.seed,
        "distributions": list(names),
        "sides": list(found.sides),
        "winners": {"agreed": AGREED, "shared": SHARED, "nobody": NOBODY},
        "measures": [{"name": m.name, "about": m.about, "signed": m.signed} for m in measures],
        "measure": known.index(measure) if measure in known else 0,
        "shifts": {role: found.shifts(role) for role in found.sides},
        "tokens": [
            {
                "text": token.text,
                "label": token.label,
                "id": token.token,
                "control": token.control,
                "won": token.won,
                "p": [_short(token.probabilities[name]) for name in names],
                "rank": [token.ranks[name] for name in names],
                "values": [_short(of[token.index]) for of in values],
                "candidates": [
                    [[c.token, c.label, _short(c.probability)] for c in token.candidates[name]]
                    for name in names
                ],
            }
            for token in found.tokens
        ],
    }


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(template: str) -> str:
    """Content-Security-Policy: the hashes of the template's own script and style."""
    hashes: dict[str, str] = {}
    for name, content in _INLINE.findall(template):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[name] = f"{name}-src 'sha256-{digest}'"
    return "; ".join(
        ["default-src 'none'", *hashes.values(), "base-uri 'none'", "form-action 'none'"]
    )


def _short(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if value == value else None
