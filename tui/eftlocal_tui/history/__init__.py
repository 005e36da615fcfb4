"""Conversations on disk: trees of turns in one SQLite file, saved as they happen.

with History() as history:
    chat = history.conversations.create(system="Be brief.")
    question = history.turns.ask(chat.id, "Where is Braga?")
    with history.answer(question.id, Settings(preset="demo")) as answer:
        for step in emulator.stream(history.turns.messages(question.id)):
            answer.append(step.text)
        answer.finish("stop")

Every call is short and may be made from any thread. Every failure is one `HistoryError`.
"""

from eftlocal_tui.history.answers import AnswerWriter
from eftlocal_tui.history.database import data_folder, database_path
from eftlocal_tui.history.failures import HistoryError, LockedError, UnwritableError
from eftlocal_tui.history.files import (
    export_file,
    free_name,
    from_json,
    import_file,
    to_json,
    to_markdown,
)
from eftlocal_tui.history.records import (
    Conversation,
    Draft,
    Figures,
    Hit,
    Mark,
    Place,
    Settings,
    Thinks,
    Thought,
    Turn,
    figures_of,
    values_of,
)
from eftlocal_tui.history.store import History

__all__ = [
    "AnswerWriter",
    "Conversation",
    "Draft",
    "Figures",
    "History",
    "HistoryError",
    "Hit",
    "LockedError",
    "Mark",
    "Place",
    "Settings",
    "Thinks",
    "Thought",
    "Turn",
    "UnwritableError",
    "data_folder",
    "database_path",
    "export_file",
    "figures_of",
    "free_name",
    "from_json",
    "import_file",
    "to_json",
    "to_markdown",
    "values_of",
]
