"""The tasks by their names, those of a user's file among them."""

from __future__ import annotations

import runpy
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

from eftlocal.errors import UsageError
from eftlocal.evaluation import tasks
from eftlocal.evaluation.own_task import OwnTask
from eftlocal.evaluation.questions import SPLITS
from eftlocal.evaluation.task import Options, Task
from eftlocal.evaluation.tasks import names
from eftlocal.settings import flag_of


def make(name: str, options: Options, *, split: str | None = None, is_grid: bool = False) -> Task:
    """A task by its name, of a user's own (FILE.py), or of a file of prompts.

    Args:
        split: for a task that has splits; None is validation for a grid, else test.

    Raises:
        UsageError: there is no such task, the file is none, or an option means nothing to it.
    """
    path = Path(name)
    if name in names():
        found = import_module(f"{tasks.__name__}.{name}").TASK
    elif path.suffix == ".py":
        found = _of_file(path)
    elif path.suffix or path.exists():
        if options.data is not None:
            raise UsageError(f"{name} is a file of prompts; leave out --data")
        found, options = (
            import_module(f"{tasks.__name__}.prompts").TASK,
            replace(options, data=path),
        )
    else:
        raise UsageError(
            f"no task is called {name!r}; there are {', '.join(names())}, a FILE of prompts and a "
            "FILE.py with a task of your own"
        )
    if "split" in found.takes:
        options = replace(options, split=split or SPLITS[not is_grid])
    for option in fields(options):
        told = getattr(options, option.name) != option.default
        if told and option.name not in (*found.takes, "offline"):
            raise UsageError(f"{flag_of(option.name)} means nothing to the task {found.name}")
    task: Task = OwnTask(path, found, options) if path.suffix == ".py" else found(options)
    return task


def _of_file(path: Path) -> type[Task]:
    try:
        found = runpy.run_path(str(path)).get("TASK")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Task) and hasattr(found, "name")):
        raise UsageError(f"{path}: it needs a class TASK, a subclass of Task with a name")
    return found
