"""The door of the program: what `eftlocal chat` calls."""

from __future__ import annotations

from dataclasses import replace

from eftlocal.errors import UsageError
from eftlocal_tui.app import ChatApp
from eftlocal_tui.engine.local import LocalEngine, Start
from eftlocal_tui.history import Conversation, History
from eftlocal_tui.services import Services
from eftlocal_tui.settings import Settings


def run_chat(
    start: Start | None,
    settings: Settings,
    *,
    default: Start,
    resume: int | None = None,
    continue_: bool = False,
) -> None:
    """Runs the terminal chat until the person leaves it.

    Args:
        start: the models that the command line named; None takes those of the conversation that
            is resumed, or else those of `default`.
        resume: the id of a conversation to go on with.
        continue_: go on with the newest one.

    Raises:
        EftlocalError: there is no such conversation, or the history cannot be opened.
    """
    history = History()
    try:
        conversation = _resumed(history, resume, continue_)
        chosen = start or _of_conversation(history, conversation, default)
    except BaseException:
        history.close()
        raise
    services = Services(history, LocalEngine(chosen), settings)
    try:
        ChatApp(services, resume=conversation).run()
    finally:
        services.close()


def _resumed(history: History, resume: int | None, continue_: bool) -> Conversation | None:
    if resume is not None:
        return history.conversations.get(resume)
    if continue_:
        newest = history.conversations.list(limit=1)
        if not newest:
            raise UsageError("--continue: there is no conversation yet; leave it out")
        return newest[0]
    return None


def _of_conversation(history: History, conversation: Conversation | None, default: Start) -> Start:
    if conversation is None:
        return default
    from eftlocal.presets.reading import load_presets

    path = history.turns.path(conversation.id, last=2)
    names = [turn.settings.preset for turn in path if turn.settings and turn.settings.preset]
    if names and names[-1] in load_presets():
        return replace(default, models=names[-1])
    return default
