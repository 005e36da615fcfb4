"""The tasks by their names, those of a user's file among them."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.evaluation import tasks
from eftlocal.evaluation.own_task import OwnTask
from eftlocal.evaluation.questions import SPLITS
from eftlocal.evaluation.task import Options, Task
from eftlocal.evaluation.tasks import names
from eftlocal.settings import flag_of


def make(
    name: str,
    options: Options,
    *,
    split: str | None = None,
    is_grid: bool = False,
    among: Sequence[str] = (),
) -> Task:
    """A task by its name, of a user's own (FILE.py), or of a file of prompts.

    Args:
        split: for a task that has splits; None is validation for a grid, else test.
        among: names of all tasks that get these options, each of which heeds some.

    Raises:
        UsageError: there is no such task, the file is none, or an option means nothing to it and
            to no other.
    """
    found, path = _found(name), Path(name)
    if found is _found("prompts") and name != "prompts":
        if options.data is not None:
            raise UsageError(f"{name} is a file of prompts; leave out --data")
        options = replace(options, data=path)
    if "split" in found.takes:
        options = replace(options, split=split or SPLITS[not is_grid])
    for option in fields(options):
        told = getattr(options, option.name) != option.default
        if told and option.name not in (*found.takes, "offline"):
            if not any(option.name in _found(other).takes for other in among):
                raise UsageError(f"{flag_of(option.name)} means nothing to the task {found.name}")
            default: Any = option.default
            options = replace(options, **{option.name: default})
    task: Task = OwnTask(path, found, options) if path.suffix == ".py" else found(options)
    return task


def _found(name: str) -> type[Task]:
    path = Path(name)
    if name in names():
        found: type[Task] = import_module(f"{tasks.__name__}.{name}").TASK
        return found
    if path.suffix == ".py":
        return _of_file(path)
    if path.suffix or path.exists():
        return _found("prompts")
    raise UsageError(
        f"no task is called {name!r}; there are {', '.join(names())}, a FILE of prompts and a "
        "FILE.py with a task of your own"
    )


def _of_file(path: Path) -> type[Task]:
    try:
        with redirect_stdout(sys.stderr):
            found = runpy.run_path(str(path)).get("TASK")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Task) and hasattr(found, "name")):
        raise UsageError(f"{path}: it needs a class TASK, a subclass of Task with a name")
    return found
