"""A settings file and a preset of the user's, in the folder that a test has for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from eftlocal.presets.reading import find, user_path
from eftlocal.presets.schema import Preset
from eftlocal.user_settings import settings_path


def toml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (str, bool)) else f"{value!r}".replace("'", '"')


def table(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return "{" + ", ".join(f"{n} = {toml(values[n])}" for n in names if n in values) + "}"


def write_settings(text: str) -> None:
    settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings_path().write_text(text, encoding="utf-8")


def own_preset(top: str, base: str = "") -> Preset:
    """A preset of the user's by the name of mine, with these keys, and these of its base."""
    user_path().parent.mkdir(parents=True, exist_ok=True)
    more = {"base": base, "tuned": "", "reference": ""}
    roles = "".join(f'[preset.roles.{r}]\nfile = "{r}.gguf"\n{keys}\n' for r, keys in more.items())
    user_path().write_text(f'[[preset]]\nname = "mine"\n{top}\n{roles}', encoding="utf-8")
    return find("mine")
