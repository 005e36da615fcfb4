"""What the history refuses or fails at, and SQLite's failures in one line that says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eftlocal.errors import EftlocalError


class HistoryError(EftlocalError):
    """The saved conversations cannot be opened, read or written, or do not have what was asked."""

    exit_code = 9


class LockedError(HistoryError):
    """Another process is writing: nothing was changed, and it may be tried again."""


def is_locked(error: BaseException) -> bool:
    """Whether SQLite says that another process is in the way."""
    locked = ("locked", "busy")
    return isinstance(error, sqlite3.OperationalError) and any(w in str(error) for w in locked)


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turns a failure of SQLite on this file into one `HistoryError`. Nothing is ever deleted."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.IntegrityError as error:
        raise HistoryError(
            f"{path}: not saved, the conversation or message was deleted meanwhile ({error})"
        ) from error
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise LockedError(
                f"{path}: another program keeps it locked; close that program, or try again"
            ) from error
        raise HistoryError(f"{path}: {_failure(str(error))}") from error
    except sqlite3.DatabaseError as error:  # the class itself: "malformed", "not a database"
        raise damaged(path, str(error)) from error
    except OverflowError as error:
        raise HistoryError(f"{path}: has nothing of so large a number") from error
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror or error}") from error


def damaged(path: Path, why: str) -> HistoryError:
    return HistoryError(
        f"{path}: is damaged ({why}) and was left as it is: move it and the files beside it away "
        f'to begin a new history; `sqlite3 "{path.name}" .recover` may get its text back'
    )


def _failure(message: str) -> str:
    if "full" in message:
        return "the disk is full, so nothing more is saved; make room and try again"
    if "unable to open" in message:
        return "cannot be opened; check that it is a file and its folder may be written to"
    if "readonly" in message:
        return "may not be written to; change its permissions, or set EFTLOCAL_DATA to a folder"
    return f"SQLite says: {message}"
