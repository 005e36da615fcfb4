"""`eftlocal chat`: the terminal chat. Its program is a package of its own, started here."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from eftlocal.cli import option_rules as rules
from eftlocal.cli.interrupts import raising
from eftlocal.cli.options import takes
from eftlocal.cli.streams import command, tell
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.user_settings import RECIPE, Given

if TYPE_CHECKING:
    from eftlocal.defaults import Defaults

_MODELS = {"--preset", "--base", "--tuned", "--reference", "--role", "--adapter"}
_DUMB = ("", "dumb", "unknown")
_FAULT = (
    "eftlocal: the chat failed; what it showed is saved (`eftlocal chat --continue`). "
    "`eftlocal doctor --report` writes a file for a bug report."
)


@takes("models", "recipe", "sampling", "length", "drafts", "prompt", "engine")
def chat(
    resume: Annotated[
        int | None, typer.Option("--resume", help="Resume the conversation with this number.")
    ] = None,
    continue_: Annotated[
        bool, typer.Option("--continue", help="Resume the newest conversation.")
    ] = False,
    *,
    given: Given,
) -> None:
    """Chat in the terminal; every dial can be turned while the model answers."""
    if find_spec("eftlocal_tui") is None:
        raise UsageError("the terminal chat is not installed; install eftlocal again")
    from eftlocal.cli.selection import select
    from eftlocal_tui.app import run_chat
    from eftlocal_tui.engine.wanted import Start
    from eftlocal_tui.settings import read_settings

    if resume is not None and continue_:
        raise UsageError("--resume and --continue exclude each other; leave one out")
    settings = read_settings()
    named = given["preset"] is not None and not given.in_file("preset")
    named = named or any(given[r] for r in ("base", "tuned", "reference", "role"))
    if not named and settings.preset is not None:
        given = given.changed(preset=settings.preset)
    named = named or bool(given["adapter"])
    # What the options mean is checked before the screen is taken.
    chosen = select(given)

    def adjust(defaults: Defaults, roles: Collection[str]) -> tuple[Defaults, list[str]]:
        fits, lost = rules.fitting(given, defaults, roles)
        try:
            changed = rules.chosen_defaults(defaults, fits)
            rules.check_roles(changed.recipe, None, roles)
        except UsageError as error:  # what was typed is of the models that it was typed with
            changed = rules.chosen_defaults(defaults, fits.changed(**dict.fromkeys(RECIPE)))
            return changed, [f"{error}; the recipe is that of the preset"]
        return changed, [f"{source} does not go with these models; left out" for source in lost]

    call = {name: given[name] for name in ("max_tokens", "stop", "loop_guard")}
    models = chosen.models if isinstance(chosen.models, Mapping) else chosen.models.name
    start = Start(models, offline=given["offline"], adjust=adjust, engine=chosen.engine, call=call)
    if not _is_terminal():
        raise UsageError("chat needs a terminal; in a pipe, use `eftlocal run`")
    if sys.platform != "win32" and os.environ.get("TERM", "") in _DUMB:
        raise UsageError("chat needs a terminal that moves its cursor (TERM); use `eftlocal run`")
    with raising():
        try:
            left = run_chat(
                start if named else None,
                settings,
                default=start,
                resume=resume,
                continue_=continue_,
            )
        except (EftlocalError, OSError):
            raise
        except Exception:
            tell(_FAULT)
            raise
    if left is not None:
        tell(f"Resume with: {resuming(sys.argv[1:], left.conversation, left.by_preset)}")


def resuming(arguments: Sequence[str], conversation: int, by_preset: bool) -> str:
    """The command that goes on with a conversation: as it was typed, but for what is known.

    Args:
        arguments: of the command that began the chat.
        by_preset: whether the conversation itself names a preset to load.
    """
    known = {"--resume"} | (_MODELS if by_preset else set())
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        option, _, value = word.partition("=")
        if option in known:
            if not value:
                next(words, None)
        elif word != "--continue":
            kept.append(word)
    return command([*kept, "--resume", str(conversation)])


def _is_terminal() -> bool:
    return all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
