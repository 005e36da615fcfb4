"""What the exit code of `eftlocal batch` says, for the program and for who starts it."""

from __future__ import annotations

from eftlocal.errors import InterruptedRunError

STOPPED = InterruptedRunError.exit_code
_FAILED = 10  # of a finished run with failed lines: this, and how many
_MOST_TOLD = 90  # codes above 125 are the shell's


def code_of(failed: int) -> int:
    """Of a run that came to its end."""
    return _FAILED + min(failed, _MOST_TOLD) if failed else 0


def failed_lines(code: int) -> int | None:
    """How many lines have no answer, up to 90; None where the run did not come to its end."""
    if code == 0:
        return 0
    return code - _FAILED if _FAILED < code <= _FAILED + _MOST_TOLD else None
