"""Variables of a chat template beside the conversation, such as `enable_thinking`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eftlocal.errors import UsageError

OWN = ("messages", "add_generation_prompt", "bos_token", "eos_token")


def check_variables(variables: Mapping[str, Any]) -> None:
    """Raises UsageError for one that is no JSON value, or not the caller's to set."""
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        raise UsageError(
            "chat_template_kwargs: a mapping is needed, as in {'enable_thinking': False}"
        )
    for name in OWN:
        if name in variables:
            raise UsageError(f"chat_template_kwargs: {name!r} is set by eftlocal; leave it out")
    try:
        json.dumps(dict(variables))
    except RecursionError:
        raise UsageError("chat_template_kwargs: nested too deeply; make it flatter") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"chat_template_kwargs: a value is not a JSON value: {error}") from None
