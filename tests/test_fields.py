"""Every field that clients of OpenAI's API send has its fate, and docs/fields.md tells it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from eftlocal.prompt import messages
from eftlocal.request_fields import FIELDS, IGNORED, KNOWN, OURS, REFUSED
from eftlocal.settings import SETTINGS

# Of the package openai 3.57: parameters of chat completions and of completions, fields of messages.
PARAMETERS = """
audio best_of echo frequency_penalty function_call functions logit_bias logprobs
max_completion_tokens max_tokens messages metadata modalities model moderation n
parallel_tool_calls prediction presence_penalty prompt prompt_cache_key prompt_cache_options
prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop
store stream stream_options suffix temperature tool_choice tools top_logprobs top_p user verbosity
web_search_options
"""
MESSAGE = "annotations audio content function_call name refusal role tool_call_id tool_calls"
PART = "prompt_cache_breakpoint text type"


def test_every_field_of_openais_has_one_fate() -> None:
    assert set(PARAMETERS.split()) <= KNOWN
    assert len(KNOWN) == len(FIELDS) + len(IGNORED) + len(REFUSED)
    assert KNOWN - set(PARAMETERS.split()) == OURS | {"cache_control", "images"}
    assert set(MESSAGE.split()) - {"role", "content"} <= {*messages.IGNORED, *messages.REFUSED}
    assert not messages.IGNORED.keys() & messages.REFUSED.keys()
    part: dict[str, Any] = {"type": "text", "text": "x"} | dict.fromkeys(PART.split(), "text")
    assert messages.validate_messages([{"role": "user", "content": [part]}])


def test_the_page_is_what_the_code_says() -> None:
    script = Path(__file__).parents[1] / "scripts" / "write_fields.py"
    written = runpy.run_path(str(script))
    pages = written["pages"]()
    for name, page in pages.items():
        assert (written["DOCS"] / name).read_text("utf-8") == page, "run scripts/write_fields.py"
    both = pages["fields.md"] + pages["dials.md"]
    assert all(f"| `{name}` |" in both for name in KNOWN)
    assert all(f"| `{name}` |" in pages["dials.md"] for name in SETTINGS)
