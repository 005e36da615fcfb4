"""Writes docs/fields.md, docs/dials.md and the table in docs/recipes.md, from the code.

Usage: .venv/bin/python scripts/write_fields.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from eftlocal.logits.meaning import MEANINGS, dial_text
from eftlocal.prompt import messages
from eftlocal.request_fields import FIELDS, IGNORED, OURS, REFUSED
from eftlocal.server.bodies import OWN
from eftlocal.settings import BODY, SETTINGS, named

DOCS = Path(__file__).parents[1] / "docs"
_DIALS_HEAD = """\
# Settings

Every setting, what it takes, and where it may be given. A value outside its range is refused by
name everywhere. `off` switches a setting off wherever it may be given, over a preset's value too.
In what order the dials act, [order.md](order.md) says.

- **command line**: `--top-p 0.9` for `top_p`, on every verb that has the option.
- **settings file**: `settings.toml` beside your `models.toml` (Linux `~/.config/eftlocal`, macOS
  `~/Library/Application Support/eftlocal`, Windows `%LOCALAPPDATA%\\eftlocal\\eftlocal`;
  `EFTLOCAL_CONFIG` names another folder), and environment variables: `EFTLOCAL_TOP_P=0.9`.
- **request**: a field of a line of a batch ([fields.md](fields.md)); **preset**: a key in
  `models.toml`; **chat**: `/set top_p 0.9`; **grid**: an axis of `eval`, as in
  `--top-p 0.5,off`.

The command line wins over environment variables, these over the settings file, that over the
preset, and the preset over the program. `eftlocal doctor` shows every setting that is not the
program's default, and where it comes from. `recipe` and its dials go together: `beta` in the file
is left out, with a note, where the command line says `--recipe proxy`. A default never makes a
verb fail for being out of place: it is left out, as `preset` is beside `--base FILE`, YaRN's
settings are under `--rope-scaling none`, and `any_sum` is until there are weights. `stop`
strings add to those of the preset. A wrong value, an unknown key and a setting that has no
default of yours (`trust`) are errors that name it; a blank variable is as good as none. The
Python API reads neither the file nor these variables (but `EFTLOCAL_MODELS`, `EFTLOCAL_CACHE`
and `EFTLOCAL_CONFIG`, which name folders).

```toml
# settings.toml
preset = "qwen2.5-7b"
threads = 8
temperature = 0.3
models = "~/models"       # where downloads go
stop = ["###"]
```

**By role.** Workers and settings of caches and of positions may differ: `--cache-type-k
base=q8_0` is for the base, `--cache-type-k f16,base=q8_0` for the others too; the option may be
repeated. In the settings file the value is the same text, in Python also a mapping, and in a
preset each role has a key of its own. What one level does not say of a role, the level below
does: with `q4_0` in the file and `base=q8_0` on the command line, all but the base have q4_0. A
`rope_scaling` also takes the place of the YaRN settings below it. What cannot go with a model is
an error wherever it stands: YaRN's settings where positions are not scaled by YaRN, or a
quantized cache for heads of 80 numbers.

This page is written by `scripts/write_fields.py` from `eftlocal/settings.py`.
"""
_GROUPS = {
    "recipe": "Recipe",
    "limits": "Limits of the recipe's delta",
    "sampling": "Sampling",
    "length": "Length of the answer",
    "form": "Form of the answer (in a request and in Python: the text itself)",
    "drafts": "Speculation",
    "prompt": "Prompt",
    "raw": "Raw prompts",
    "cache": "Prompts that were read before",
    "engine": "Engine",
    "context": "Context (in a preset: of one role)",
    "log": "Log",
    "models": "Models",
    "folders": "Folders",
}
_HEAD = """\
# Fields of a request

What a line of a batch may say (beside `custom_id`), in OpenAI's form and in the short ones, and
a request to the server, in OpenAI's form. `null` is as good as absent. A field that is not here is
refused by name, with the nearest that there is. This page is written by `scripts/write_fields.py`
from the code that reads requests.

A `prompt` is a string, a list of strings, a list of token ids, or a list of such lists; `messages`
are a conversation. Several prompts, or `n`, give several `choices`, prompt by prompt. `echo` puts a
raw prompt before its text and, with `logprobs`, its tokens before those of the answer: the first
has none, and `max_tokens` may be 0. Log-probabilities are of the combination at temperature 1,
before penalties and filters. What each setting does: [dials.md](dials.md).
"""


def _table(title: str, head: tuple[str, str], rows: dict[str, str]) -> str:
    lines = [f"| `{name}` | {text} |" for name, text in rows.items()]
    return "\n".join([f"\n## {title}\n", f"| {head[0]} | {head[1]} |", "|---|---|", *lines]) + "\n"


def dials_page() -> str:
    """The whole of docs/dials.md."""
    lines = [_DIALS_HEAD]
    for group, title in _GROUPS.items():
        lines.append(f"## {title}\n")
        lines.append("| setting | what it does | takes | default | where |\n|---|---|---|---|---|")
        for name, setting in named(group).items():
            where = ", ".join(setting.where)
            does = setting.help.replace("|", "\\|")
            if setting.ends:
                does = f"{does} {setting.ends}."
            lines.append(
                f"| `{name}` | {does} | {setting.kind.rule} | {setting.default_text} | {where} |"
            )
        lines.append("")
    return "\n".join(lines)


def recipes_page() -> str:
    """The whole of docs/recipes.md: between its marks, every recipe at a glance."""
    before, mark, rest = (DOCS / "recipes.md").read_text("utf-8").partition("<!-- recipes -->\n")
    _, end, after = rest.partition("<!-- end -->\n")
    lines = ["| recipe | what it does | its dial |", "|---|---|---|"]
    for name, (does, _formula, dials) in MEANINGS.items():
        told = "<br>".join(f"{dial} {dial_text(name, dial)}" for dial in dials)
        lines.append(f"| `{name}` | {does} | {told} |")
    return f"{before}{mark}\n" + "\n".join(lines) + f"\n\n{end}{after}"


def fields_page() -> str:
    """The whole of docs/fields.md."""
    taken = {name: kind.rule for name, kind in FIELDS.items()}
    theirs = {name: text for name, text in taken.items() if name not in OURS}
    in_both = {name for name, setting in SETTINGS.items() if BODY in setting.where}
    ours = {name: text for name, text in taken.items() if name in OURS - in_both}
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
        + "\nAnd every setting that [dials.md](dials.md) says may be given in a request.\n"
        + _table("Of the server", ("field", "what it does"), dict(OWN))
        + _table("Accepted, and nothing is changed by them", ("field", "because"), dict(IGNORED))
        + _table(
            "Refused, but for what is null, false or empty, and the values named here",
            ("field", "accepted; why not others"),
            refused,
        )
        + "\n# Fields of a message\n\n`role` is system, developer (the same), user, assistant or "
        "tool. `content` is a string, or a list\nof parts of type `text`, which become lines; "
        "beside `tool_calls` it may be null.\n\n"
        "An assistant's `tool_calls` are in OpenAI's form, and a message of the role tool with\n"
        "the call's `tool_call_id` answers each. Templates are given the arguments as an object,\n"
        "and the function's name with what it gave. [server.md](server.md) has more on tools.\n\n"
        "An assistant's `reasoning_content` is its thinking. A template that takes it is given\n"
        "it; one that knows the marks of thinking gets the answer as it was written, and others\n"
        "what came after.\n"
        + _table("Accepted, and nothing is changed by them", ("field", "because"), messages.IGNORED)
        + _table("Refused, but for what is null or empty", ("field", "why"), messages.REFUSED)
    )


def pages() -> dict[str, str]:
    """The pages by the names of their files."""
    return {"fields.md": fields_page(), "dials.md": dials_page(), "recipes.md": recipes_page()}


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    for name, text in pages().items():
        (DOCS / name).write_text(text, "utf-8", newline="\n")
