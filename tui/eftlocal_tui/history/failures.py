"""What may go wrong with the history's file, each in one line."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eftlocal.errors import EftlocalError

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENOSPC)


class HistoryError(EftlocalError):
    """The saved conversations cannot be opened, read or written, or do not have what was asked."""

    exit_code = 9


class LockedError(HistoryError):
    """Another process is writing: nothing was changed, and it may be tried again."""


class UnwritableError(HistoryError):
    """Nothing can be written where the file is, or would be."""


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
            f"{path}: not saved: the conversation or message was deleted meanwhile ({error})"
        ) from error
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise LockedError(
                f"{path}: locked by another program; close it, or try again"
            ) from error
        kind = UnwritableError if "readonly" in str(error) else HistoryError
        raise kind(f"{path}: {_failure(str(error))}") from error
    except sqlite3.DatabaseError as error:  # the class itself: "malformed", "not a database"
        raise damaged(path, str(error)) from error
    except OverflowError as error:
        raise HistoryError(f"{path}: the number is too large") from error
    except OSError as error:
        kind = UnwritableError if error.errno in _UNWRITABLE else HistoryError
        raise kind(f"{path}: {error.strerror or error}") from error


def damaged(path: Path, why: str) -> HistoryError:
    return HistoryError(
        f"{path}: is damaged ({why}) and was not changed: move it and the files beside it away "
        f'to start a new history; `sqlite3 "{path.name}" .recover` may recover its text'
    )


def _failure(message: str) -> str:
    if "full" in message:
        return "the disk is full; free some space and try again"
    if "unable to open" in message:
        return "cannot be opened; check that it is a file in a writable folder"
    if "readonly" in message:
        return "is read-only; change its permissions, or set EFTLOCAL_DATA to another folder"
    return f"SQLite says: {message}"
