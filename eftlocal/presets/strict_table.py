"""A TOML table as a class: keys it does not know are refused, with the nearest one it does."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class StrictTable(BaseModel):
    """A TOML table that refuses keys it does not know, naming the nearest one it does."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, strict=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            names = known | set(cls.model_fields)
            for key in data:
                if key not in names:
                    raise ValueError(f'unknown key "{key}"; {_nearest(str(key), known)}')
        return data


def _nearest(key: str, known: set[str]) -> str:
    near = get_close_matches(key, known, 1, 0.5)
    if near:
        return f'did you mean "{near[0]}"?'
    return "known: " + ", ".join(sorted(known))
