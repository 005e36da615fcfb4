"""The one family of errors. Each message is one line: what is wrong, where, what to do.

The command line prints the message and leaves with `exit_code`; the Python API raises. Names from
files and from the hub are part of messages, so every message is made safe to show, and bounded.
"""

from eftlocal.terminal_text import one_line

LONGEST = 1000  # characters of a message
_END = 300  # of them from its end, where the cause often is


class EftlocalError(Exception):
    """Anything eftlocal refuses or fails at. Catch this to catch them all."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message, LONGEST, _END))


class UsageError(EftlocalError, ValueError):
    """The caller's mistake: an option, a setting, a recipe, a preset's name."""

    exit_code = 2


class ModelFileError(EftlocalError):
    """A model file is missing, torn, not a GGUF, or not usable in its role."""

    exit_code = 3


class VocabularyError(EftlocalError):
    """The roles of an ensemble do not share one vocabulary."""

    exit_code = 4


class DownloadError(EftlocalError):
    """A file could not be fetched from the hub, or is not what was promised."""

    exit_code = 5


class DoesNotFitError(EftlocalError):
    """The models need more memory than there is; nothing was loaded."""

    exit_code = 6


class PromptError(EftlocalError, ValueError):
    """A prompt that cannot be run: empty, longer than the context, or its template fails."""

    exit_code = 7


class TooLongError(PromptError):
    """A prompt that no context of its role's length can hold.

    Attributes:
        role, tokens: whose it is, and how many tokens it has at least.
    """

    def __init__(self, message: str, role: str = "", tokens: int = 0) -> None:
        super().__init__(message)
        self.role, self.tokens = role, tokens


class EngineError(EftlocalError):
    """llama.cpp reported a failure."""

    exit_code = 8


class AnswerError(EngineError):
    """One answer cannot go on; others beside it can."""


class NoTokenError(AnswerError):
    """No token is possible: a mask, a ban or the models themselves leave none."""


class WorkerError(EngineError):
    """A worker, whose devices take part over RPC, cannot be used, or was lost."""


class InterruptedRunError(EftlocalError):
    """Ctrl-C ended a run that keeps what is done; the message says how to go on."""

    exit_code = 130  # what a shell reports of a program ended by Ctrl-C
