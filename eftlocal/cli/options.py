"""Options that several verbs share, and what they mean together.

An option left out is None, so that a preset's own value stands; one that is given is checked
before any model is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from eftlocal.cli import completion
from eftlocal.cli.streams import tell
from eftlocal.constraint import KINDS, Constraint, Kind, one_of
from eftlocal.disk import read_text
from eftlocal.errors import UsageError
from eftlocal.generation import LOOP_GUARD, loop_guard_tokens
from eftlocal.json_schema import schema_notes
from eftlocal.loading.machine import check_threads
from eftlocal.loading.roles import require_roles
from eftlocal.logits.recipe import TRIO, TUNED, UNGUIDED, Recipe
from eftlocal.settings import LIMITS, RANGES, SAMPLING, number_or_off
from eftlocal.speculation.settings import MAX_DRAFT, Speculation

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults

DEFAULT_PRESET = "demo"

_MODELS, _RECIPE, _SAMPLING, _ENGINE = "Models", "Recipe", "Sampling", "Engine"
_PROMPT = "Prompt"
_SPECULATION = "Speculation (changes the speed, never the distribution)"


def _option(flag: str, text: str, panel: str, **more: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)


def _dial(flag: str, text: str, panel: str) -> Any:
    """A number with an off."""
    return _option(flag, text, panel, parser=number_or_off, metavar="<number|off>")


def max_tokens(text: str) -> int:
    """A length that a person wrote, or the word off."""
    most: int = RANGES["max_tokens"].checked("max_tokens", number_or_off(text))
    return most


PresetName = Annotated[
    str | None,
    _option(
        "--preset",
        "A preset of `eftlocal models list` (default: demo).",
        _MODELS,
        autocompletion=completion.presets,
    ),
]
BaseFile = Annotated[Path | None, _option("--base", "GGUF of the base model.", _MODELS)]
TunedFile = Annotated[Path | None, _option("--tuned", "GGUF of the tuned model.", _MODELS)]
ReferenceFile = Annotated[
    Path | None, _option("--reference", "GGUF of what the tuned model was before.", _MODELS)
]
MoreRoles = Annotated[
    list[str] | None,
    _option("--role", "A further role, as in plain=FILE.gguf. Repeatable.", _MODELS),
]
Offline = Annotated[bool, _option("--offline", "Never download.", _MODELS)]

RecipeName = Annotated[
    str | None,
    _option(
        "--recipe",
        "upscale, proxy, dials, downscale, steer, interpolate, realign, contrast, guidance, base, "
        "tuned, reference, "
        "or weights: base=1,tuned=1,reference=-1.",
        _RECIPE,
        autocompletion=completion.recipes,
    ),
]
Alpha = Annotated[
    float | None, _option("--alpha", "Weight of what tuning adds (proxy-tuning).", _RECIPE)
]
Beta = Annotated[
    float | None, _option("--beta", "Weight of what scale adds (up-scaling).", _RECIPE)
]
Lambda = Annotated[
    str | None,
    _option(
        "--lambda",
        "Strength of realignment; or of each tuned role, as in tuned=0.3,plain=0.7.",
        _RECIPE,
    ),
]
Strength = Annotated[
    float | None, _option("--strength", "Strength of contrast or guidance.", _RECIPE)
]
AnySum = Annotated[
    bool, _option("--any-sum", "The weights written out need not sum to 1.", _RECIPE)
]
DeltaTopP = Annotated[
    float | None,
    _dial("--delta-top-p", "Apply the delta inside the tuned model's top-p set only.", _RECIPE),
]
Plausibility = Annotated[
    float | None,
    _dial("--plausibility", "Drop tokens below this share of the best one's.", _RECIPE),
]
DeltaClip = Annotated[
    float | None, _dial("--delta-clip", "Limit the delta to this many nats.", _RECIPE)
]

FirstTokens = Annotated[
    int | None,
    _dial(
        "--first-tokens",
        "Apply the delta to the first N tokens; then the anchor alone.",
        _RECIPE,
    ),
]
UnsureBelow = Annotated[
    float | None,
    _dial(
        "--unsure-below",
        "Apply the delta only where the anchor's best token is less probable than this; "
        "elsewhere the anchor alone.",
        _RECIPE,
    ),
]

Temperature = Annotated[
    float | None, _option("--temperature", "0 is greedy (default: 0.7).", _SAMPLING)
]
TopK = Annotated[int | None, _dial("--top-k", "Only the k most probable tokens.", _SAMPLING)]
TopP = Annotated[float | None, _dial("--top-p", "Only the top-p set (default: 0.95).", _SAMPLING)]
MinP = Annotated[
    float | None, _dial("--min-p", "Only tokens of this share of the best one's.", _SAMPLING)
]
RepeatPenalty = Annotated[
    float | None, _dial("--repeat-penalty", "Divides repeated tokens' logits.", _SAMPLING)
]
PresencePenalty = Annotated[
    float | None, _dial("--presence-penalty", "Taken off every token used before.", _SAMPLING)
]
FrequencyPenalty = Annotated[
    float | None, _dial("--frequency-penalty", "Taken off a token for each use.", _SAMPLING)
]
Seed = Annotated[
    int | None,
    _dial("--seed", "The same seed gives the same text; off: a random one.", _SAMPLING),
]
MaxTokens = Annotated[
    int | None,
    _option(
        "--max-tokens",
        "Maximum length of the answer in tokens; off is as long as the context holds.",
        _SAMPLING,
        parser=max_tokens,
        metavar="<number|off>",
    ),
]
Stop = Annotated[
    list[str] | None, _option("--stop", "End the answer before this text. Repeatable.", _SAMPLING)
]

LoopGuard = Annotated[
    str | None,
    _option(
        "--loop-guard",
        "Stop when the last N tokens are one phrase repeated; N is 16 or more, or off "
        f"(default: {LOOP_GUARD}).",
        _SAMPLING,
    ),
]

GrammarFile = Annotated[
    Path | None, _option("--grammar", "The answer matches this file of GBNF.", _SAMPLING)
]
SchemaFile = Annotated[
    Path | None, _option("--json-schema", "The answer is JSON of this file's schema.", _SAMPLING)
]
Regex = Annotated[
    str | None,
    _option("--regex", "The whole answer matches this regular expression.", _SAMPLING),
]
LarkFile = Annotated[
    Path | None, _option("--lark", "The answer matches this file's Lark grammar.", _SAMPLING)
]

Speculative = Annotated[
    str | None,
    _option(
        "--speculative",
        f"Tokens of a draft: auto (measured, the default), off, or 1 to {MAX_DRAFT}.",
        _SPECULATION,
        autocompletion=completion.speculative,
    ),
]
DraftRule = Annotated[
    str | None,
    _option(
        "--draft-rule",
        "coupled: a seed gives the same text at every length (default); rejection: accepts more.",
        _SPECULATION,
        autocompletion=completion.draft_rules,
    ),
]
DraftSource = Annotated[
    str | None,
    _option(
        "--draft-source",
        "model (the tuned one), lookup (what the conversation said before), or auto.",
        _SPECULATION,
        autocompletion=completion.draft_sources,
    ),
]

ChatTemplate = Annotated[
    list[str] | None,
    _option(
        "--chat-template",
        "Chat template of a role, as in base=plain: a FILE of jinja2, a name llama.cpp knows "
        "(chatml, llama3, ...), plain text (plain), the one in its model file (chat), or the tuned "
        "role's text (same). Without ROLE= it is for the tuned role. Repeatable.",
        _PROMPT,
        autocompletion=completion.chat_templates,
    ),
]
ChatTemplateKwargs = Annotated[
    str | None,
    _option(
        "--chat-template-kwargs",
        """Variables for chat templates, as JSON: '{"enable_thinking": false}'.""",
        _PROMPT,
    ),
]
SystemInUser = Annotated[
    bool,
    _option(
        "--system-in-user",
        "Put the system prompt at the start of the user message, for templates that take none.",
        _PROMPT,
    ),
]
Special = Annotated[
    bool,
    _option("--special", "With --raw: parse special tokens, such as <|im_start|>.", _PROMPT),
]

NCtx = Annotated[int | None, _option("--n-ctx", "Context in tokens, every role.", _ENGINE)]
Threads = Annotated[
    int | None, _option("--threads", "CPU threads, no more than there are CPUs.", _ENGINE)
]
GpuLayers = Annotated[
    int | None,
    _option("--gpu-layers", "Layers on the GPU, every role; -1 is all (default: auto).", _ENGINE),
]
Force = Annotated[bool, _option("--force", "Load even if memory seems too small.", _ENGINE)]
Trust = Annotated[
    bool,
    _option("--trust", "Skip the trial load of new files in a child process.", _MODELS),
]
Verbose = Annotated[bool, _option("--verbose", "Show llama.cpp's own log.", _ENGINE)]


Given = Mapping[str, Any]
"""Every option of a verb by its parameter's name, its own ones too; None where it was left out."""

GROUPS: dict[str, dict[str, Any]] = {
    "models": {
        "preset": PresetName,
        "base": BaseFile,
        "tuned": TunedFile,
        "reference": ReferenceFile,
        "role": MoreRoles,
        "offline": Offline,
        "trust": Trust,
    },
    "recipe": {
        "recipe": RecipeName,
        "alpha": Alpha,
        "beta": Beta,
        "lambda_": Lambda,
        "strength": Strength,
        "any_sum": AnySum,
        "delta_top_p": DeltaTopP,
        "plausibility": Plausibility,
        "delta_clip": DeltaClip,
        "first_tokens": FirstTokens,
        "unsure_below": UnsureBelow,
    },
    "sampling": {
        "temperature": Temperature,
        "top_k": TopK,
        "top_p": TopP,
        "min_p": MinP,
        "repeat_penalty": RepeatPenalty,
        "presence_penalty": PresencePenalty,
        "frequency_penalty": FrequencyPenalty,
        "seed": Seed,
    },
    "length": {
        "max_tokens": MaxTokens,
        "stop": Stop,
        "loop_guard": LoopGuard,
    },
    "form": {
        "grammar": GrammarFile,
        "json_schema": SchemaFile,
        "regex": Regex,
        "lark": LarkFile,
    },
    "drafts": {
        "speculative": Speculative,
        "draft_rule": DraftRule,
        "draft_source": DraftSource,
    },
    "prompt": {
        "chat_template": ChatTemplate,
        "chat_template_kwargs": ChatTemplateKwargs,
        "system_in_user": SystemInUser,
    },
    "raw": {
        "special": Special,
    },
    "engine": {
        "n_ctx": NCtx,
        "threads": Threads,
        "gpu_layers": GpuLayers,
        "force": Force,
    },
}

_Verb = Callable[..., None]


def takes(
    *groups: str,
    first: Mapping[str, Any] | None = None,
    without: Collection[str] = (),
    **more: Any,
) -> Callable[[_Verb], Callable[..., None]]:
    """Gives a verb the options of these groups, after its own. Its last parameter is `given`.

    Args:
        first: options by their names that come before those of the groups.
        without: options of the groups that it does not have.
        more: further options, and those that it declares otherwise, by their names.
    """
    types = dict(first or {})
    for group in groups:
        types |= {name: kind for name, kind in GROUPS[group].items() if name not in without}
    types |= more

    def decorate(verb: _Verb) -> Callable[..., None]:
        *own, _given = inspect.signature(verb, eval_str=True).parameters.values()
        names = {parameter.name for parameter in own}
        common = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if kind.__origin__ is bool else None,
                annotation=kind,
            )
            for name, kind in types.items()
            if name not in names
        ]

        @wraps(verb)
        def run(**given: Any) -> None:
            verb(**{name: given[name] for name in names}, given=given)

        run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
        return run

    return decorate


def _written(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _role_flag(role: str) -> str:
    return f"--{role}" if role in TRIO else f"--role {role}=FILE"


def chosen_recipe(default: Recipe, **options: Any) -> Recipe:
    """The default recipe, or the one that the options name; see `defaults.chosen_recipe`."""
    from eftlocal import defaults

    return defaults.chosen_recipe(default, written=_written, **options)


def chosen_speculation(default: Speculation, **options: Any) -> Speculation:
    """The default speculation with the options given; see `defaults.chosen_speculation`."""
    from eftlocal import defaults

    return defaults.chosen_speculation(default, written=_written, **options)


def chosen_defaults(default: Defaults, given: Mapping[str, Any]) -> Defaults:
    """The defaults with a verb's options of recipe, sampling and speculation.

    Args:
        given: the verb's parameters by their names, those of other options too.
    """
    from eftlocal.defaults import chosen_sampling

    recipe = chosen_recipe(
        default.recipe,
        name=given["recipe"],
        **{name: given[name] for name in ("alpha", "beta", "lambda_", "strength", "any_sum")},
        **{name: given[name] for name in LIMITS},
    )
    sampling = chosen_sampling(default.sampling, **{name: given.get(name) for name in SAMPLING})
    speculation = chosen_speculation(
        default.speculation,
        length=given.get("speculative"),
        rule=given.get("draft_rule"),
        source=given.get("draft_source"),
    )
    guard = chosen_loop_guard(default, given.get("loop_guard"))
    return replace(
        default, recipe=recipe, sampling=sampling, speculation=speculation, loop_guard=guard
    )


def chosen_loop_guard(default: Defaults, given: str | None) -> int:
    """The default loop guard, or the one given."""
    return default.loop_guard if given is None else loop_guard_tokens("--loop-guard", given)


def constraint(given: Mapping[str, Any]) -> Constraint | None:
    """Of --grammar, --json-schema, --regex or --lark, checked as far as it can be without a model.

    Args:
        given: a verb's options by their names.
    """
    found = one_of({f"--{kind.replace('_', '-')}": given[kind] for kind in KINDS})
    if found is None:
        return None
    option, value = found
    kind = cast(Kind, option.removeprefix("--").replace("-", "_"))
    text = value if kind == "regex" else read_text(value, f"{option} {value}")
    constraint = Constraint(kind, text)
    constraint.check()
    if kind == "json_schema":
        for note in schema_notes(text):
            tell(f"note: {option}: {note}")
    return constraint


def chosen_models(given: Mapping[str, Any]) -> str | dict[str, Path]:
    """A preset's name, or the files given.

    Args:
        given: a verb's options of models by their names.
    """
    preset: str | None = given["preset"]
    files: dict[str, Path] = {role: given[role] for role in TRIO if given[role] is not None}
    for text in given.get("role") or ():
        role, sign, path = text.partition("=")
        if not (role.isidentifier() and sign and path):
            raise UsageError(f"--role {text}: give a name and a file, as in plain=FILE.gguf")
        if role in TRIO or role in files:
            raise UsageError(f"--role {text}: {role} is given by --{role}, or twice")
        files[role] = Path(path)
    if not files:
        return DEFAULT_PRESET if preset is None else preset
    if preset is not None:
        raise UsageError(f"--preset and --{next(iter(files))} exclude each other; leave one out")
    if given["offline"]:
        raise UsageError("--offline is for presets: files given by path are never downloaded")
    return files


def engine(given: Mapping[str, Any], roles: Collection[str]) -> dict[str, Any]:
    """How roles are to be loaded, as `eftlocal.load` takes it.

    Args:
        given: a verb's parameters by their names.
        roles: that are there.
    """
    check_threads(given["threads"])
    return {
        "prompts": _prompts(given["chat_template"] or (), roles),
        "system_in_user": given["system_in_user"] or None,
        "chat_template_kwargs": _variables(given["chat_template_kwargs"]),
        **{name: given[name] for name in ("n_ctx", "threads", "gpu_layers", "force", "trust")},
    }


def _prompts(given: Sequence[str], roles: Collection[str]) -> dict[str, str]:
    """Role to its prompt, from --chat-template."""
    found: dict[str, str] = {}
    for text in given:
        role, sign, value = text.partition("=")
        if not sign or not role.isidentifier():
            role, value = TUNED if TUNED in roles else next(iter(roles)), text
        if role not in roles:
            raise UsageError(
                f"--chat-template {text}: there is no role {role}; there are {', '.join(roles)}"
            )
        if role in found:
            raise UsageError(f"--chat-template: {role} is given twice; leave one out")
        found[role] = _prompt(value)
    return found


def _prompt(value: str) -> str:
    """A prompt's format: named, or the template in a file."""
    from eftlocal.prompt.render import check_format
    from eftlocal.prompt.template import is_template

    try:
        check_format(value)
        return value
    except UsageError as error:
        try:
            there = bool(value) and Path(value).exists()
        except (OSError, ValueError):  # no system would have a file of that name
            there = False
        if not there:
            raise UsageError(f"--chat-template: no such file, and {error}") from None
    source = read_text(Path(value), f"--chat-template {value}")
    if not is_template(source):
        source = source.strip()
        try:
            check_format(source)
        except UsageError:
            raise UsageError(
                f"--chat-template {value}: the file holds no jinja2 template, which has {{{{ or "
                "{% in it"
            ) from None
    return source


def _variables(text: str | None) -> dict[str, Any] | None:
    """The object of --chat-template-kwargs."""
    if text is None:
        return None
    from eftlocal.json_text import TextError, parse_json
    from eftlocal.prompt.messages import check_variables

    try:
        found = parse_json(text)
    except TextError as error:
        raise UsageError(f"--chat-template-kwargs: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(
            """--chat-template-kwargs: an object is needed, as in '{"enable_thinking": false}'"""
        )
    check_variables(found)
    return found


def check_raw(given: Mapping[str, Any]) -> None:
    """Refuses what does not go with --raw, or only with it."""
    if given["special"] and not given["raw"]:
        raise UsageError("--special is for raw text; add --raw")
    variables = _variables(given["chat_template_kwargs"]) or None  # none at all change nothing
    for name, value in (
        *((name, given[name]) for name in ("system", "chat_template", "system_in_user")),
        ("chat_template_kwargs", variables),
    ):
        if given["raw"] and value not in (None, False, []):
            raise UsageError(
                f"{_written(name)} needs the chat template, which --raw leaves out; drop one"
            )


def check_guidance(recipe: Recipe, system: str | None, roles: Collection[str]) -> None:
    """Refuses guidance by nothing: the two prompts differ in the system prompt only."""
    if UNGUIDED in recipe.roles and UNGUIDED not in roles and system is None:
        raise UsageError(
            f"recipe {recipe.name} is one model with and without its instructions; "
            "give them with --system"
        )


def check_roles(recipe: Recipe, show: str | None, roles: Collection[str]) -> list[str]:
    """The roles to show; refuses a recipe or --show that names a role which is not there."""
    made = (UNGUIDED,) if TUNED in roles else ()
    require_roles(recipe, roles, made=made, written=_role_flag)
    shown = list(dict.fromkeys(role.strip() for role in (show or "").split(",") if role.strip()))
    for role in shown:
        if role not in roles:
            raise UsageError(f"--show: there is no role {role!r}; there are {', '.join(roles)}")
    return shown
