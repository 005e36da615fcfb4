"""What a verb takes: groups of options that verbs have in common, each declared in `options` once.

A verb names its groups; what the command line gave comes to it as one mapping.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any

from eftlocal.cli import options as opt

Given = Mapping[str, Any]
"""Every option of a verb by its parameter's name, its own ones too; None where it was left out."""

GROUPS: dict[str, dict[str, Any]] = {
    "models": {
        "preset": opt.PresetName,
        "base": opt.BaseFile,
        "tuned": opt.TunedFile,
        "reference": opt.ReferenceFile,
        "role": opt.MoreRoles,
        "offline": opt.Offline,
        "trust": opt.Trust,
    },
    "recipe": {
        "recipe": opt.RecipeName,
        "alpha": opt.Alpha,
        "beta": opt.Beta,
        "lambda_": opt.Lambda,
        "strength": opt.Strength,
        "any_sum": opt.AnySum,
        "delta_top_p": opt.DeltaTopP,
        "plausibility": opt.Plausibility,
        "delta_clip": opt.DeltaClip,
        "first_tokens": opt.FirstTokens,
        "unsure_below": opt.UnsureBelow,
    },
    "sampling": {
        "temperature": opt.Temperature,
        "top_k": opt.TopK,
        "top_p": opt.TopP,
        "min_p": opt.MinP,
        "repeat_penalty": opt.RepeatPenalty,
        "presence_penalty": opt.PresencePenalty,
        "frequency_penalty": opt.FrequencyPenalty,
        "seed": opt.Seed,
    },
    "length": {
        "max_tokens": opt.MaxTokens,
        "stop": opt.Stop,
        "loop_guard": opt.LoopGuard,
    },
    "form": {
        "grammar": opt.GrammarFile,
        "json_schema": opt.SchemaFile,
    },
    "drafts": {
        "speculative": opt.Speculative,
        "draft_rule": opt.DraftRule,
        "draft_source": opt.DraftSource,
    },
    "prompt": {
        "chat_template": opt.ChatTemplate,
        "chat_template_kwargs": opt.ChatTemplateKwargs,
        "system_in_user": opt.SystemInUser,
    },
    "raw": {
        "special": opt.Special,
    },
    "engine": {
        "n_ctx": opt.NCtx,
        "threads": opt.Threads,
        "gpu_layers": opt.GpuLayers,
        "force": opt.Force,
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
