"""The tools of a request: what a template is shown, what is read of an answer, and what forces a
call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eftlocal.constraint import Constraint, schema_text
from eftlocal.errors import UsageError
from eftlocal.json_schema import closed_schema
from eftlocal.prompt.tool_messages import has_tools
from eftlocal.request_fields import Body, only, shown
from eftlocal.thinking import Marks
from eftlocal.tool_calls import CallFormat, CallReader

MAX_TOOLS = 128
MAX_SIZE = 1 << 16  # characters of their JSON
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

FormatOf = Callable[[], CallFormat]
"""How the model writes calls; a UsageError where it does not."""


def no_tools() -> CallFormat:
    """Where nothing reads calls."""
    raise UsageError("tools are not supported here; leave them out")


@dataclass(frozen=True)
class Tools:
    """What an answer may call.

    Attributes:
        format: how the model writes calls.
        functions: in OpenAI's form, as a template is shown them.
        called: names of the functions of which one must be called; empty where none must.
        parallel: whether one answer may have several calls.
    """

    format: CallFormat
    functions: tuple[Mapping[str, Any], ...]
    called: tuple[str, ...] = ()
    parallel: bool = True

    def reader(self, marks: Marks | None) -> CallReader:
        """Reads an answer.

        Args:
            marks: of its thinking, where they are known. A call that is forced comes without.
        """
        names = frozenset(function["name"] for function in self.functions)
        most = None if self.parallel else 1
        return CallReader(self.format, names, marks=marks, thinks=not self.called, most=most)

    def shown(self) -> list[dict[str, Any]]:
        """What a chat template takes as `tools`."""
        return [{"type": "function", "function": dict(one)} for one in self.functions]

    def constraint(self) -> Constraint | None:
        """What an answer must match that is a call as the template would write it; None where
        none is forced.

        Raises:
            UsageError: the parameters of a function are no schema that can be kept.
        """
        if not self.called:
            return None
        how, rules = self.format, []
        for i, one in enumerate(f for f in self.functions if f["name"] in self.called):
            head = json.dumps(f'{{"name": "{one["name"]}", "{how.key}": ')
            rules.append(f'call_{i}: {head} arguments_{i} "}}"')
            rules.append(f"arguments_{i}: %json {_closed(one)}")
        calls = " | ".join(f"call_{i}" for i in range(len(self.called)))
        block, again = "call", ""
        if how.listed:
            block = '"[" call (", " call)* "]"' if self.parallel else '"[" call "]"'
        elif self.parallel and not how.bare:
            again = ' ("\\n" block)*'
        if not how.bare:
            before, after = _text(how.before), _text(how.after)
            block = f"{self._mark(how.opens)} {before} {block} {after} {self._mark(how.closes)}"
        rules = [f"start: block{again}", f"block: {block}", f"call: {calls}", *rules]
        return Constraint("lark", "\n".join(rules))

    def _mark(self, mark: str) -> str:
        control = dict(self.format.control)
        return f"<[{control[mark]}]>" if mark in control else _text(mark)


def _text(text: str) -> str:
    return json.dumps(text) if text else ""


def _closed(function: Mapping[str, Any]) -> str:
    """The schema of its arguments, as llguidance takes it."""
    schema = schema_text({"type": "object", **function["parameters"]})
    try:
        Constraint("json_schema", schema).check()
        return closed_schema(schema, one_line=True)
    except UsageError as error:
        raise UsageError(f"tools: parameters of {function['name']}: {error}") from None


def read_tools(given: Body, format_of: FormatOf, *, raw: bool) -> Tools | None:
    """The tools of a request; None where nothing may be called.

    Raises:
        UsageError: one line that names what is wrong.
    """
    listed, choice = given["tools"] or [], given["tool_choice"]
    named = _named(choice)
    if not listed:
        if named or choice == "required":
            raise UsageError("tool_choice: there are no tools to call; give tools")
        return None
    if raw:
        raise UsageError("tools are for a conversation, and raw text has none; leave them out")
    size = len(schema_text({"tools": listed}))
    if len(listed) > MAX_TOOLS or size > MAX_SIZE:
        raise UsageError(
            f"tools: {len(listed)} of them with {size} characters of JSON, and at most {MAX_TOOLS} "
            f"with {MAX_SIZE} are taken; give fewer"
        )
    functions = tuple(_function(f"tools[{i}]", tool) for i, tool in enumerate(listed))
    names = [function["name"] for function in functions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"tools: the name {twice} is given twice; give each function its own")
    if named and named not in names:
        raise UsageError(f"tool_choice: function {shown(named)} is not among the tools")
    if choice == "none":
        return None
    parallel = given["parallel_tool_calls"] is not False and not named
    called = (named,) if named else tuple(names) if choice == "required" else ()
    return Tools(format_of(), functions, called, parallel)


def _named(choice: object) -> str:
    """The name of the function that must be called; empty where none is named."""
    if choice in (None, "auto", "none", "required"):
        return ""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(choice, Mapping) and isinstance(function, Mapping):
        only(choice, ("type", "function"), "tool_choice")
        only(function, ("name",), "tool_choice: function")
        if choice.get("type") == "function" and _is_name(name := function.get("name")):
            return str(name)
    raise UsageError(
        f"tool_choice is {shown(choice)}; it must be auto, none, required, or "
        '{"type": "function", "function": {"name": ...}}'
    )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _function(where: str, tool: object) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(function, Mapping):
        raise UsageError(f'{where}: an object with "type": "function" and "function" is needed')
    if tool.get("type") != "function":
        raise UsageError(f"{where}: type is {shown(tool.get('type'))}; only function is supported")
    only(tool, ("type", "function"), where)
    only(function, ("name", "description", "parameters", "strict"), f"{where}: function")
    name, about = function.get("name"), function.get("description")
    if not _is_name(name):
        raise UsageError(
            f"{where}: name is {shown(name)}; it must be 1 to 64 letters, digits, _ or -"
        )
    if about is not None and not isinstance(about, str):
        raise UsageError(f"{where}: description is {shown(about)}; it must be a string")
    if function.get("strict") not in (None, True, False):
        raise UsageError(f"{where}: strict is {shown(function['strict'])}; give true or false")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise UsageError(f'{where}: parameters must be a JSON schema of "type": "object"')
    told = {"name": name} if about is None else {"name": name, "description": about}
    return {**told, "parameters": dict(parameters)}


def check_conversation(prompt: object, format_of: FormatOf) -> None:
    """Refuses calls and results that the model's template does not show.

    Raises:
        UsageError: one line.
    """
    if isinstance(prompt, tuple) and isinstance(prompt[0], Mapping) and has_tools(prompt):
        format_of()
