"""What later prompts hold of an earlier answer's thinking: what the role's template makes of it.

Models are trained on conversations in which it is absent, as a rule; their templates take it apart
by themselves, or take it in a field of its own. So a template that mentions such a field is given
that. One that mentions the marks gets the answer as it was written. To all others, and in plain
text, an earlier answer is what came after its thinking.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from eftlocal.thinking import kinds_in

_FIELD = re.compile(r"\breasoning_content\b")
_OTHER_FIELD = re.compile(r"(?:\.|\[\s*['\"])thinking\b")


def told(
    messages: Sequence[Mapping[str, Any]], template: str, special_texts: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The messages as a template takes them.

    Args:
        messages: an assistant's may have its thinking as `reasoning_content`.
        template: its source; empty for plain text.
        special_texts: texts that no message can hold: marks among them are not written.
    """
    return [_one(dict(message), template, special_texts) for message in messages]


def _one(message: dict[str, Any], template: str, special_texts: Collection[str]) -> dict[str, Any]:
    thinking = message.pop("reasoning_content", None)
    if not thinking:
        return message
    content = message["content"]
    message["content"] = content.lstrip()
    if _FIELD.search(template):
        message["reasoning_content"] = thinking
    elif _OTHER_FIELD.search(template):
        message["thinking"] = thinking
    else:
        for kind in kinds_in(template)[:1]:
            written = kind.opens + thinking + kind.closes + content
            if not any(special in written for special in special_texts if len(special) > 1):
                message["content"] = written
    return message
