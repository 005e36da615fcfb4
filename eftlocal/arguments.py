"""Arguments of the Python API, checked at its door: a wrong one is one line that names it.

Each argument is declared once, whatever calls take it. None leaves an argument to its default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn, TypedDict

from eftlocal.constraint import schema_text
from eftlocal.errors import UsageError
from eftlocal.json_text import broken_text
from eftlocal.kinds import INT32, Flag, Off, Range, Text, Texts
from eftlocal.loading.loader import Progress, UpTo
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.settings import CONTEXT, RANGES, SETTINGS
from eftlocal.speculation.settings import DraftLength, Speculation
from eftlocal.terminal_text import shown

AdapterPath = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]
"""A LoRA adapter's GGUF file, or the file and a scale."""

Check = Callable[[str, Any], Any]
"""From an argument's name and value to the value that the program works with."""


def refuse(name: str, value: object, rule: str) -> NoReturn:
    """Raises UsageError: what the argument of this name is, and what it must be."""
    raise UsageError(f"{name} is {shown(value)}; it must be {rule}")


def of_type(kind: type | tuple[type, ...], rule: str) -> Check:
    """Takes values of a type as they are."""

    def check(name: str, value: Any) -> Any:
        return value if isinstance(value, kind) else refuse(name, value, rule)

    return check


def whole(least: int) -> Check:
    """Takes whole numbers, numpy's too, and never a bool."""
    return Range(least, INT32, whole=True).checked


def text(name: str, value: Any) -> str:
    """Takes strings that UTF-8 can hold."""
    found: str = Text().checked(name, value)
    return found


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise UsageError(f"{name}: a list of strings is needed; for one, {name}=[{value!r}]")
    found: tuple[str, ...] = Texts().checked(name, value)
    return found


def _recipe(name: str, value: Any) -> Recipe:
    if isinstance(value, Recipe):
        return value
    if not isinstance(value, str):
        rule = "a Recipe, or text such as 'upscale' or 'base=1,tuned=1,reference=-1'"
        refuse(name, value, rule)
    return parse_recipe(text(name, value))


def _speculation(name: str, value: Any) -> Speculation | DraftLength:
    if isinstance(value, Speculation):
        return value
    length = Speculation(value).length
    return "auto" if length is None else length


def _schema(name: str, value: Any) -> str:
    if not isinstance(value, (str, Mapping)):
        refuse(name, value, "a JSON schema, as a mapping or as JSON text")
    if broken := broken_text(value):
        raise UsageError(f"{name}: {broken}")
    return schema_text(value)


def _sequences(name: str, value: Any) -> int | UpTo:
    return value if isinstance(value, UpTo) else whole(1)(name, value)


def _threads(name: str, value: Any) -> int:
    from eftlocal.loading.host import check_threads

    count: int = SETTINGS["threads"].checked(name, value)
    check_threads(count, name)
    return count


def _prompts(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        refuse(name, value, "a mapping of roles to 'chat', 'same', 'plain' or a template")
    return {text(f"a role of {name}", r): text(f"{name}[{r!r}]", v) for r, v in value.items()}


def _adapters(name: str, value: Any) -> dict[str, tuple[Path, float]]:
    """Role to its adapter and the scale of it."""
    rule = "a mapping of roles to paths, or to (path, scale)"
    if not isinstance(value, Mapping):
        refuse(name, value, rule)
    found = {}
    for role, said in value.items():
        file, scale = said if isinstance(said, tuple) and len(said) == 2 else (said, 1.0)
        where = f"{name}[{text(f'a role of {name}', role)!r}]"
        scale = RANGES["adapter"].checked(f"{where}: the scale", scale)
        found[role] = path(where, file, "a path, or (path, scale)"), scale
    return found


def path(name: str, value: Any, rule: str = "a path") -> Path:
    """Takes names of files that there could be."""
    if not isinstance(value, (str, os.PathLike)):
        refuse(name, value, rule)
    try:
        bad = b"\0" in os.fsencode(value)
    except UnicodeEncodeError:
        bad = True
    if bad:
        raise UsageError(f"{name} is no path: it holds a NUL or an unpaired surrogate")
    return Path(value)


token = whole(0)
_FLAG = Flag().checked
_COUNT = whole(1)
_CALL = of_type(Callable, "a function")  # type: ignore[arg-type]

_CHECKS: dict[str, Check] = {
    **{setting.parameter: setting.checked for setting in SETTINGS.values()},
    # of an answer
    **dict.fromkeys(("raw", "logprobs", "prompt_logprobs", "continue_last", "ignore_end"), _FLAG),
    "recipe": _recipe,
    "sampling": of_type(Sampling, "a Sampling, as in Sampling(temperature=0.7)"),
    "stop": _texts,
    "top_logprobs": whole(0),
    "speculation": _speculation,
    "json_schema": _schema,
    **dict.fromkeys(("grammar", "regex", "lark"), text),
    # of loading
    "prompts": _prompts,
    "adapters": _adapters,
    "n_seq_max": _sequences,
    "threads": _threads,
    **dict.fromkeys(("progress", "checking", "download_progress"), _CALL),
    # of a scheduler
    "parallel": _COUNT,
    "prefill": _COUNT,
}


def checked(name: str, value: Any) -> Any:
    """The argument of this name as the program works with it.

    Raises:
        UsageError: it is of a wrong type or out of its range.
    """
    return None if value is None else _CHECKS[name](name, value)


def needed(name: str, value: Any) -> Any:
    """As `checked`, of a value that cannot be left out."""
    return _CHECKS[name](name, value)


def checked_all(**arguments: Any) -> dict[str, Any]:
    """Several arguments by their names; see `checked`."""
    return {name: checked(name, value) for name, value in arguments.items()}


_PLACES = {
    **{field.name: f"sampling=Sampling({field.name}=...)" for field in fields(Sampling)},
    **{field.name: f"speculation=Speculation({field.name}=...)" for field in fields(Speculation)},
    "alpha": "recipe=Recipe.proxy(alpha=...)",
    "beta": "recipe=Recipe.upscale(beta=...)",
    "lambda_": "recipe=Recipe.realign(...)",
    "persona": "recipe=Recipe.persona(...)",
    "system": "a message of the role system",
    "messages": "the prompt, the first argument",
}
"""Where to give what people look for among an answer's options."""


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses keyword arguments that a call does not have.

    Raises:
        UsageError: it names the first of them, and the nearest that there is.
    """
    for name in given:
        if name in known:
            continue
        there = [*known, *_PLACES]
        near = [one for one in there if len(name) > 2 and one.startswith(name)]
        near = near or get_close_matches(name, there, 1, 0.7)
        hint = f"; there are {', '.join(known)}"
        if near:
            hint = f"; {near[0]} is given as {_PLACES[near[0]]}" if near[0] in _PLACES else ""
            hint = hint or f"; did you mean {near[0]}?"
        raise UsageError(f"there is no option {shown(name)}{hint}")


class ContextOptions(TypedDict, total=False):
    """How contexts are made: the settings of docs/dials.md, Context. All but n_ctx, n_batch,
    flash_attention and swa_full may be mappings of roles to values."""

    n_ctx: int | None
    n_batch: int | None
    cache_type_k: str | Mapping[str, str] | None
    cache_type_v: str | Mapping[str, str] | None
    flash_attention: str | bool | None
    translation: str | Mapping[str, str] | None
    swa_full: bool | None
    rope_scaling: str | Mapping[str, str] | None
    rope_freq_base: float | Mapping[str, float] | None
    rope_freq_scale: float | Mapping[str, float] | None
    yarn_orig_ctx: int | Mapping[str, int] | None
    yarn_ext_factor: float | Mapping[str, float] | None
    yarn_beta_fast: float | Mapping[str, float] | None
    yarn_beta_slow: float | Mapping[str, float] | None


class LoadOptions(ContextOptions, total=False):
    """How models are loaded; see `Emulator.from_files`."""

    prompts: Mapping[str, str] | None
    adapters: Mapping[str, AdapterPath] | None
    system_in_user: bool | None
    chat_template_kwargs: Mapping[str, Any] | None
    threads: int | None
    gpu_layers: int | None
    rpc: Mapping[str, Sequence[str]] | Sequence[str] | None
    reproducible: bool | None
    n_seq_max: int | UpTo
    force: bool
    trust: bool
    progress: Progress | None
    checking: Progress | None


_OF_ROLES = (
    *("prompts", "adapters", "system_in_user", "chat_template_kwargs", "threads", "gpu_layers"),
    *("rpc", "reproducible", *CONTEXT),
)


def split_load_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`LoadOptions`, checked: those of each role, as `with_settings` takes them, and the others.

    Raises:
        UsageError: an option is not known, of a wrong type or out of its range.
    """
    refuse_unknown(options, tuple(LoadOptions.__annotations__))
    given = {name: v for name, v in checked_all(**options).items() if v is not None}
    return {name: given.pop(name) for name in _OF_ROLES if name in given}, given


class PromptOptions(TypedDict, total=False):
    """How a prompt is read; see `Emulator.stream`."""

    raw: bool
    special: bool
    continue_last: bool
    chat_template_kwargs: Mapping[str, Any] | None


class AnswerOptions(PromptOptions, total=False):
    """What one answer may be asked for; see `Emulator.stream`."""

    recipe: Recipe | str | None
    sampling: Sampling | None
    max_tokens: int | Off | None
    stop: Sequence[str] | None
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: bool
    speculation: Speculation | DraftLength | None
    grammar: str | None
    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    lark: str | None
    loop_guard: int | Literal["off"] | None
    ignore_end: bool
