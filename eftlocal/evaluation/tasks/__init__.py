"""The tasks that come with the program, one in a file; a task is called as its file is."""

from __future__ import annotations

from pkgutil import iter_modules


def names() -> list[str]:
    """Of the tasks."""
    return [module.name for module in iter_modules(__path__)]
