"""`eftlocal chat`: the terminal chat. Its program is a package of its own, started here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from eftlocal.cli import options as opt
from eftlocal.cli.interrupts import raising
from eftlocal.errors import UsageError

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults


def chat(
    resume: Annotated[
        int | None, typer.Option("--resume", help="Go on with the conversation of this number.")
    ] = None,
    continue_: Annotated[
        bool, typer.Option("--continue", help="Go on with the newest conversation.")
    ] = False,
    preset: opt.PresetName = None,
    base: opt.BaseFile = None,
    tuned: opt.TunedFile = None,
    reference: opt.ReferenceFile = None,
    role: opt.MoreRoles = None,
    offline: opt.Offline = False,
    recipe: opt.RecipeName = None,
    alpha: opt.Alpha = None,
    beta: opt.Beta = None,
    lambda_: opt.Lambda = None,
    strength: opt.Strength = None,
    any_sum: opt.AnySum = False,
    delta_top_p: opt.DeltaTopP = None,
    plausibility: opt.Plausibility = None,
    delta_clip: opt.DeltaClip = None,
    first_tokens: opt.FirstTokens = None,
    unsure_below: opt.UnsureBelow = None,
    temperature: opt.Temperature = None,
    top_k: opt.TopK = None,
    top_p: opt.TopP = None,
    min_p: opt.MinP = None,
    repeat_penalty: opt.RepeatPenalty = None,
    presence_penalty: opt.PresencePenalty = None,
    frequency_penalty: opt.FrequencyPenalty = None,
    seed: opt.Seed = None,
    max_tokens: opt.MaxTokens = None,
    stop: opt.Stop = None,
    loop_guard: opt.LoopGuard = None,
    speculative: opt.Speculative = None,
    draft_rule: opt.DraftRule = None,
    draft_source: opt.DraftSource = None,
    chat_template: opt.ChatTemplate = None,
    chat_template_kwargs: opt.ChatTemplateKwargs = None,
    system_in_user: opt.SystemInUser = False,
    n_ctx: opt.NCtx = None,
    threads: opt.Threads = None,
    gpu_layers: opt.GpuLayers = None,
    force: opt.Force = False,
    trust: opt.Trust = False,
) -> None:
    """Chat in the terminal: three models at work, dials that turn while they speak."""
    given = dict(locals())
    if find_spec("eftlocal_tui") is None:
        raise UsageError("the terminal chat is not installed; set the program up again")
    from eftlocal.cli.chosen import choose
    from eftlocal_tui.engine.local import Start
    from eftlocal_tui.run import run_chat
    from eftlocal_tui.settings import read_settings

    if resume is not None and continue_:
        raise UsageError("--resume and --continue exclude each other; leave one out")
    settings = read_settings()
    named = preset is not None or any((base, tuned, reference, role))
    # What the options mean is checked before the screen is taken.
    chosen = choose({**given, "preset": preset if named else settings.preset})

    def adjust(defaults: Defaults) -> Defaults:
        return opt.chosen_defaults(defaults, given)

    call = {"max_tokens": max_tokens, "stop": stop, "loop_guard": loop_guard}
    start = Start(chosen.models, offline=offline, adjust=adjust, engine=chosen.engine, call=call)
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("the terminal chat needs a terminal; for pipes there is `eftlocal run`")
    with raising():
        run_chat(
            start if named else None, settings, default=start, resume=resume, continue_=continue_
        )
