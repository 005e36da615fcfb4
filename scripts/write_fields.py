"""Writes docs/fields.md, the table of a request's fields, from the code that reads them.

Usage: .venv/bin/python scripts/write_fields.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from eftlocal.prompt import messages
from eftlocal.request_fields import FIELDS, IGNORED, OURS, REFUSED

PAGE = Path(__file__).parents[1] / "docs" / "fields.md"
_HEAD = """\
# Fields of a request

What a line of a batch may say (beside `custom_id`), in OpenAI's form and in the short ones. `null`
is as good as absent. A field that is not here is refused by name, with the nearest that there is.
This page is written by `scripts/write_fields.py` from the code that reads requests.

A `prompt` is a string, a list of strings, a list of token ids, or a list of such lists; `messages`
are a conversation. Several prompts, or `n`, give several `choices`, prompt by prompt. `echo` puts a
raw prompt before its text and, with `logprobs`, its tokens before those of the answer: the first
has none, and `max_tokens` may be 0. Log-probabilities are of the combination at temperature 1,
before penalties and filters. Ranges of numbers, and what "off" is, are in [order.md](order.md).
"""


def _table(title: str, head: tuple[str, str], rows: dict[str, str]) -> str:
    lines = [f"| `{name}` | {text} |" for name, text in rows.items()]
    return "\n".join([f"\n## {title}\n", f"| {head[0]} | {head[1]} |", "|---|---|", *lines]) + "\n"


def page() -> str:
    """The whole of docs/fields.md."""
    taken = {name: kind.rule for name, kind in FIELDS.items()}
    theirs = {name: text for name, text in taken.items() if name not in OURS}
    ours = {name: text for name, text in taken.items() if name in OURS}
    refused = {
        name: "".join(f"`{json.dumps(value)}`; " for value in harmless) + why
        for name, (harmless, why) in REFUSED.items()
    }
    return (
        _HEAD
        + _table("OpenAI's, supported", ("field", "takes"), theirs)
        + "\nWhole numbers may be written as 10.0. "
        + '`seed: -1` or `"off"` is no seed, `top_k: -1` no top_k.\n'
        + _table("Of this program", ("field", "takes"), ours)
        + _table("Accepted, and nothing is changed by them", ("field", "because"), dict(IGNORED))
        + _table(
            "Refused, but for what is null, false or empty, and the values named here",
            ("field", "accepted; why not others"),
            refused,
        )
        + "\n# Fields of a message\n\n`role` is system, developer (the same), user or assistant. "
        "`content` is a string, or a list of parts\nof type `text`, which become lines.\n"
        + _table("Accepted, and nothing is changed by them", ("field", "because"), messages.IGNORED)
        + _table("Refused, but for what is null or empty", ("field", "why"), messages.REFUSED)
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    PAGE.write_text(page(), "utf-8", newline="\n")
