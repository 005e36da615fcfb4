"""What one answer is asked for, in OpenAI's terms and ours; checked without a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, cast

from eftlocal.bases import FrozenMapping
from eftlocal.constraint import Constraint, Kind, one_of, schema_text
from eftlocal.defaults import Defaults, chosen_recipe, chosen_sampling, chosen_speculation
from eftlocal.errors import PromptError, UsageError
from eftlocal.kinds import OFF
from eftlocal.loading.roles import require_roles
from eftlocal.logits.recipe import TRIO, UNGUIDED, Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.prompt.messages import (
    Message,
    check_variables,
    validate_ids,
    validate_messages,
    validate_prompt,
)
from eftlocal.request_fields import MAX_CHOICES, Body, only, read_body, shown
from eftlocal.request_tools import FormatOf, Tools, check_conversation, no_tools, read_tools
from eftlocal.settings import RANGES, SAMPLING, named
from eftlocal.speculation.settings import Speculation
from eftlocal.terminal_text import one_line

_LONGEST = 400  # characters of a message
TokenIds = tuple[int, ...]
Prompt = str | tuple[Message, ...] | TokenIds


@dataclass(frozen=True)
class Request:
    """What is asked for: an answer, or several.

    Attributes:
        prompts: each a conversation, a string (one message of the user), or token ids.
        raw: the prompts are text to go on with as it stands; token ids are.
        recipe, speculation, max_tokens, loop_guard: None takes the emulator's default.
        sampling: complete, the run's defaults with what the request changes; None is the
            program's own.
        seed: of its own; None where it gives none.
        stop: strings that end the answer, beside those of the emulator's defaults.
        logprobs: whether each token's log-probability is asked for.
        top_logprobs: of how many tokens beside the chosen one.
        echo: the raw prompts are part of the texts, and of the log-probabilities.
        n: answers to each prompt.
        constraint: what the answer must match.
        special: in raw text, special tokens' texts are those tokens.
        chat_template_kwargs: variables for chat templates, on top of those of the run; the tools
            are one of them.
        tools: what the answer may call; None where nothing is read as a call.
    """

    prompts: tuple[Prompt, ...]
    raw: bool = False
    recipe: Recipe | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    loop_guard: int | None = None
    logprobs: bool = False
    speculation: Speculation | None = None
    constraint: Constraint | None = None
    special: bool = False
    chat_template_kwargs: Mapping[str, Any] | None = None
    top_logprobs: int = 0
    echo: bool = False
    n: int = 1
    tools: Tools | None = None

    def calls(self, seed: int) -> list[tuple[Prompt, dict[str, Any]]]:
        """Of each answer, in their order, the prompt and the options of `Emulator.stream`.

        Args:
            seed: where the request has none of its own. The first answer has it as it is.
        """
        first = seed if self.seed is None else self.seed
        prompts = [prompt for prompt in self.prompts for _ in range(self.n)]
        return [(prompt, self._options(_seed_of(first, i))) for i, prompt in enumerate(prompts)]

    def _options(self, seed: int) -> dict[str, Any]:
        return {
            "raw": self.raw,
            "recipe": self.recipe,
            "sampling": replace(self.sampling or Sampling(), seed=seed),
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "loop_guard": self.loop_guard,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
            "prompt_logprobs": self.echo and (self.logprobs or self.max_tokens == 0),
            "speculation": self.speculation,
            **({self.constraint.kind: self.constraint.text} if self.constraint else {}),
            "special": self.special,
            "chat_template_kwargs": self.chat_template_kwargs,
        }


@dataclass(frozen=True)
class RequestDefaults:
    """What a request is read against.

    Attributes:
        answer: what holds where it says nothing of an answer.
        model: the only name that its `model` may give.
        roles: that are loaded.
        raw: prompts that are strings are text to go on with, unless a request says otherwise.
        special: in raw text, special tokens' texts are those tokens, unless a request says
            otherwise.
        system: a system message for conversations that have none.
        vocab_size: ids below it are tokens; None leaves ids unchecked.
        unguided_by_system: the role "unguided" is the tuned model without the system message, so
            that a recipe with it needs one.
        constraint: of requests that give none; a response_format of type "text" lifts it.
        call_format: how the model that answers writes calls of tools.
    """

    answer: Defaults = field(default_factory=Defaults)
    model: str = ""
    roles: Collection[str] = TRIO
    raw: bool = False
    special: bool = False
    system: str | None = None
    vocab_size: int | None = None
    unguided_by_system: bool = False
    constraint: Constraint | None = None
    call_format: FormatOf = no_tools


_RECIPE = tuple(setting.parameter for setting in named("recipe", "limits").values())
_SAMPLING = (*(name for name in SAMPLING if name != "seed"), "logit_bias")
_DRAFTS = tuple(named("drafts"))


def read_request(
    body: Mapping[str, Any], *, defaults: RequestDefaults, raw: bool | None = None
) -> Request:
    """A request from a JSON object. docs/fields.md lists what is ignored.

    Args:
        raw: True where only a prompt may be given, that is text to go on with; False where only
            messages may be given; None leaves it to the object.

    Raises:
        UsageError, PromptError: one line that names the field.
    """
    try:
        given = read_body(body)
        prompts, is_raw = _prompts(given, defaults, raw)
        if defaults.system is not None and not is_raw:
            prompts = tuple(_instructed(prompt, defaults.system) for prompt in prompts)
        recipe = _recipe(given, defaults)
        default = defaults.answer
        used = recipe or default.recipe
        if (
            defaults.unguided_by_system
            and UNGUIDED in used.roles
            and not all(map(_has_system, prompts))
        ):
            raise UsageError(
                f"recipe {used.name} is one model with and without its "
                "instructions; give them as a system message"
            )
        if is_raw and used.persona_prompt:
            raise UsageError(f"recipe {used.name} has a persona, and raw text no system prompt")
        logprobs, top_logprobs = _logprobs(given)
        if given["logit_bias"] is not None:
            given["logit_bias"] = _logit_bias(given["logit_bias"], defaults.vocab_size)
        drafts, guard = _given(given, _DRAFTS), given["loop_guard"]
        tools = read_tools(given, defaults.call_format, raw=is_raw)
        for prompt in prompts:
            check_conversation(prompt, defaults.call_format)
        return Request(
            prompts,
            is_raw,
            recipe,
            _known_sampling(default.sampling, _given(given, _SAMPLING)),
            seed=given["seed"],
            max_tokens=_max_tokens(given),
            stop=(given["stop"],) if isinstance(given["stop"], str) else given["stop"] or (),
            loop_guard=None if guard is None else RANGES["loop_guard"].read(guard),
            logprobs=logprobs,
            speculation=chosen_speculation(default.speculation, dict(drafts)) if drafts else None,
            constraint=_constraint(given, defaults, tools),
            special=_special(given, defaults, is_raw),
            chat_template_kwargs=_template_variables(given, is_raw, tools),
            top_logprobs=top_logprobs,
            echo=_echo(given, is_raw),
            n=_n(given, len(prompts)),
            tools=tools,
        )
    except (UsageError, PromptError) as error:
        raise type(error)(one_line(str(error), _LONGEST)) from None
    except RecursionError:
        raise UsageError("the request is nested too deeply; make it flatter") from None


def _prompts(
    given: Body, defaults: RequestDefaults, raw: bool | None
) -> tuple[tuple[Prompt, ...], bool]:
    """The prompts, and whether they are text to go on with."""
    if (given["model"] or defaults.model) != defaults.model:
        raise UsageError(
            f"model {shown(given['model'])} is not loaded; "
            + (f"say {shown(defaults.model)} or leave it out" if defaults.model else "leave it out")
        )
    if given["messages"] is not None and given["prompt"] is not None:
        raise PromptError("messages and prompt exclude each other; leave one out")
    if given["messages"] is None and given["prompt"] is None:
        needed = {None: "messages or prompt", True: "prompt", False: "messages"}[raw]
        raise PromptError(f"{needed} is missing")
    if raw is not None and given["raw"] not in (None, raw):
        raise UsageError(f"raw is {shown(given['raw'])}, and its url says otherwise; leave one out")
    if given["messages"] is not None:
        if raw or given["raw"]:
            raise PromptError("messages: text to go on with is given as prompt")
        return (tuple(validate_messages(given["messages"])),), False
    if raw is False:
        raise PromptError("prompt: a conversation is given as messages")
    chosen = given["raw"] if raw is None else raw
    prompts = _each_prompt("" if given["prompt"] is None else given["prompt"], defaults.vocab_size)
    if not any(isinstance(prompt, tuple) for prompt in prompts):
        return prompts, defaults.raw if chosen is None else chosen
    if chosen is False:
        raise UsageError("raw is false, and the prompt is token ids, which are read as they stand")
    return prompts, True


def _each_prompt(given: str | list[Any], vocab_size: int | None) -> tuple[Prompt, ...]:
    """The strings, or lists of token ids, of one of OpenAI's four forms of prompt."""
    if isinstance(given, str):
        return (validate_prompt(given),)
    if not given:
        raise PromptError("the prompt is an empty list; give it some text")
    if all(isinstance(part, str) for part in given):
        return tuple(map(validate_prompt, given))
    if all(isinstance(part, list) and part for part in given):
        return tuple(validate_ids(ids, vocab_size) for ids in given)
    return (validate_ids(given, vocab_size),)


def _seed_of(first: int, index: int) -> int:
    """The seed of one answer of several: its own, and the same on every machine."""
    if not index:
        return first
    text = f"{first}:{index}".encode()
    return int.from_bytes(blake2b(text, digest_size=4, person=b"eftlocal choice").digest(), "big")


def _n(given: Body, prompts: int) -> int:
    n = given["n"] or 1
    if given["best_of"] is not None and given["best_of"] != n:
        raise UsageError(
            f"best_of is {given['best_of']} and n {n}: no answer is left out; say n alone"
        )
    if n * prompts > MAX_CHOICES:
        raise UsageError(
            f"{prompts} prompts with {n} answers each are more than {MAX_CHOICES}; ask for fewer"
        )
    return n


def _echo(given: Body, raw: bool) -> bool:
    if given["echo"] and not raw:
        raise UsageError("echo is for text to go on with; add raw, or leave it out")
    if _max_tokens(given) == 0 and not given["echo"]:
        raise UsageError(f"max_tokens is 0; it must be {RANGES['max_tokens'].rule}")
    return bool(given["echo"])


def _logprobs(given: Body) -> tuple[bool, int]:
    """Whether log-probabilities are asked for, and of how many tokens beside the chosen one."""
    asked, top = given["logprobs"], given["top_logprobs"]
    if asked is None or isinstance(asked, bool):
        if top and not asked:
            raise UsageError("top_logprobs needs logprobs: true")
        return bool(asked), top or 0
    if given["messages"] is not None:
        raise UsageError(
            f"logprobs is {asked}; it must be true or false, and top_logprobs has the number"
        )
    if top not in (None, asked):
        raise UsageError(f"logprobs is {asked} and top_logprobs {top}; leave one of them out")
    return True, asked


def _special(given: Body, defaults: RequestDefaults, raw: bool) -> bool:
    if given["special"] and not raw:
        raise UsageError("special is for raw text; add raw, or leave it out")
    return raw and (defaults.special if given["special"] is None else given["special"])


def _template_variables(given: Body, raw: bool, tools: Tools | None) -> Mapping[str, Any] | None:
    variables = given["chat_template_kwargs"]
    if variables:
        if raw:
            raise UsageError("chat_template_kwargs are for a chat template, and raw text has none")
        check_variables(variables)
        if tools and "tools" in variables:
            raise UsageError("tools are given twice; leave them out of chat_template_kwargs")
    return {**(variables or {}), "tools": tools.shown()} if tools else variables or None


def _has_system(prompt: Prompt) -> bool:
    return any(isinstance(part, dict) and part["role"] == "system" for part in prompt)


def _instructed(prompt: Prompt, system: str) -> Prompt:
    """The conversation with a system message, its own or this one."""
    if _has_system(prompt):
        return prompt
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    return (Message(role="system", content=system), *messages)


def _recipe(given: Body, defaults: RequestDefaults) -> Recipe | None:
    chosen = _given(given, _RECIPE)
    if not chosen:
        return None
    return require_roles(_known_recipe(defaults.answer.recipe, chosen), defaults.roles)


def _given(given: Body, names: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """The fields of these names that say something, in a form that a cache can compare."""
    return tuple(
        (name, FrozenMapping(value) if isinstance(value, dict) else value)
        for name in names
        if (value := given[name]) is not None and value is not False
    )


@lru_cache(maxsize=256)  # the lines of a file as a rule say the same
def _known_recipe(default: Recipe, chosen: tuple[tuple[str, Any], ...]) -> Recipe:
    return chosen_recipe(default, dict(chosen))


@lru_cache(maxsize=256)
def _known_sampling(default: Sampling, chosen: tuple[tuple[str, Any], ...]) -> Sampling:
    return chosen_sampling(default, dict(chosen))


def _logit_bias(given: Mapping[str, Any], size: int | None) -> dict[int, float]:
    bias: dict[int, float] = {}
    for text, value in given.items():
        token = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if str(token) != text:
            raise UsageError(f"logit_bias: {shown(text)} is not a token id")
        if size is not None and token >= size:
            raise UsageError(f"logit_bias: token {token} is outside the vocabulary of {size}")
        banned = value is False or value == "-inf"
        limits = RANGES["logit_bias"]
        bias[token] = -math.inf if banned else limits.checked(f"logit_bias of token {token}", value)
    return bias


def _max_tokens(given: Body) -> int | None:
    older, newer = given["max_tokens"], given["max_completion_tokens"]
    if older is not None and newer is not None and older != newer:
        raise UsageError(
            f"max_tokens is {older} and max_completion_tokens {newer}; leave one of them out"
        )
    most: int | None = newer if older is None else older
    return RANGES["max_tokens"].off if most == OFF else most  # type: ignore[comparison-overlap]


def _constraint(given: Body, defaults: RequestDefaults, tools: Tools | None) -> Constraint | None:
    """What an answer must match; `response_format` of type text asks for nothing."""
    schemas = {
        "json_schema": given["json_schema"],
        "response_format": _response_schema(given["response_format"]),
    }
    found = one_of(
        {
            "grammar": given["grammar"],
            **{name: None if s is None else schema_text(s) for name, s in schemas.items()},
            "regex": given["regex"],
            "lark": given["lark"],
        }
    )
    default = defaults.constraint if given["response_format"] is None else None
    if tools is not None:
        if found or default:
            name = found[0] if found else "the run's constraint"
            raise UsageError(
                f"tools and {name} exclude each other: an answer that must match it is no call; "
                "leave one out, or say tool_choice none"
            )
        if made := tools.constraint():
            made.check()
        return made
    if found is None:
        return default
    name, text = found
    constraint = Constraint("json_schema" if name == "response_format" else cast(Kind, name), text)
    constraint.check()
    return constraint


_INSTEAD = {
    "regex": "; give the field regex instead",
    "grammar": "; give the field grammar (GBNF) or lark instead",
}


def _response_schema(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    known = {"json_object": ("type",), "json_schema": ("type", "json_schema")}
    if not isinstance(kind, str) or kind not in known:
        raise UsageError(
            f"response_format: type: text, json_object or json_schema is needed, not {shown(kind)}"
            + _INSTEAD.get(str(kind), "")
        )
    only(given, known[kind], "response_format")
    if kind == "json_object":
        return {"type": "object"}
    named = given.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if not isinstance(named, Mapping) or not isinstance(schema, Mapping):
        raise UsageError('response_format: json_schema: an object with "schema" is needed')
    only(named, ("name", "description", "schema", "strict"), "response_format: json_schema")
    return schema
