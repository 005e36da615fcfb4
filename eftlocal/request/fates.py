"""What becomes of fields that clients of OpenAI's API send and that ask for nothing we do.

Those that change nothing are accepted; those whose meaning would be lost are refused by name. A
refused field may be there all the same, with a value that asks for nothing. docs/fields.md is the
table of all fields; a test holds it against this file and `body`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IGNORED: Mapping[str, str] = {
    "user": "nothing is told apart by it",
    "safety_identifier": "nothing is told apart by it",
    "metadata": "nothing is kept of it",
    "store": "nothing is stored",
    "prompt_cache_key": "prompts that begin alike are always read once",
    "prompt_cache_options": "prompts that begin alike are always read once",
    "prompt_cache_retention": "prompts that begin alike are always read once",
    "cache_control": "prompts that begin alike are always read once",
    "service_tier": "there is one tier",
    "parallel_tool_calls": "there are no tools",
    "stream_options": "there is no stream",
}

REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "tools": ((), "tools are not supported"),
    "tool_choice": (("none", "auto"), "tools are not supported"),
    "functions": ((), "tools are not supported"),
    "function_call": (("none", "auto"), "tools are not supported"),
    "modalities": ((["text"],), "only text is supported"),
    "audio": ((), "only text is supported"),
    "images": ((), "only text is supported"),
    "stream": ((), "the answer comes whole"),
    "suffix": ((), "text is only gone on with; write the model's own marks into a raw prompt"),
    "prediction": ((), "say draft_source lookup, which drafts from the prompt"),
    "web_search_options": ((), "nothing is searched"),
    "moderation": ((), "nothing is moderated"),
    "reasoning_effort": (
        ("medium",),
        "put it in chat_template_kwargs where the template has it",
    ),
    "verbosity": (("medium",), "say it in a system message"),
}
"""Name to values that ask for nothing, beside null, false and what is empty; and why not."""

_WHOLE = frozenset(
    (
        *("max_tokens", "max_completion_tokens", "seed", "n", "best_of"),
        *("logprobs", "top_logprobs", "top_k", "first_tokens"),
    )
)
_MEANT = {("seed", -1): None, ("seed", "off"): None, ("top_k", -1): 0}  # written for "none"


def refusal(name: str, value: object) -> str | None:
    """Why a field is refused; None where its value asks for nothing.

    Args:
        name: one of REFUSED.
    """
    harmless, why = REFUSED[name]
    if value is None or value is False or value in ("", [], {}) or value in harmless:
        return None
    return f"{name}: {why}; leave it out"


def as_meant(name: str, value: Any) -> Any:
    """A value in the form that `Body` takes: 10.0 is 10; no seed is -1 or "off", no top_k -1."""
    if name in _WHOLE and isinstance(value, float) and value.is_integer():
        value = int(value)
    meant = isinstance(value, (int, str)) and not isinstance(value, bool)
    return _MEANT.get((name, value), value) if meant else value
