"""A task of the user's own: its faults are told in one line, and what it prints goes to stderr."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from eftlocal.answer import Answer
from eftlocal.decoding.score import TextLogprobs
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.evaluation.run import OF_ANSWERS
from eftlocal.evaluation.task import Item, Metric, Options, Task
from eftlocal.terminal_text import shown


class OwnTask(Task):
    """The task of a file, whose every call and value is checked.

    Raises:
        UsageError: it, here and in every method, where the file's code raises or gives something
            that is not what `Task` says; file, line and what was wrong.
    """

    name = about = ""

    def __init__(self, path: Path, made: Callable[[Options], Task], options: Options) -> None:
        self._path = path
        self._task = self._call("__init__", lambda: made(options))
        for attribute in {*Task.__annotations__, "options"}:
            setattr(self, attribute, getattr(self._task, attribute))
        if not isinstance(self.name, str) or not self.name or {*self.name} & {*"/\\:\0\n"}:
            raise UsageError(f"{path}: name is {shown(self.name)}; files are named after it")
        if not isinstance(self.metrics, Mapping) or not all(
            isinstance(name, str) and isinstance(of, Metric) for name, of in self.metrics.items()
        ):
            raise UsageError(f"{path}: metrics must map names to Metric(...)")
        self._measured = {*self.metrics, *(of.over for of in self.metrics.values())}

    def items(self) -> Sequence[Item]:
        items: Sequence[Item] = self._call("items", lambda: tuple(self._task.items()))
        for number, item in enumerate(items, 1):
            where = f"{self._path}: item {number}"
            if not isinstance(item, Item):
                raise UsageError(f"{where} is {shown(item)}, not an Item")
            if not (self.generates or item.texts):
                raise UsageError(f"{where} has no texts to score, and generates is False")
            try:
                json.dumps(vars(item), sort_keys=True, default=dict)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{where}: what it holds must be plain data: {error}") from None
        return items

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        return self._values("judge", lambda: self._task.judge(item, answer))

    def judge_texts(self, item: Item, scored: Sequence[TextLogprobs]) -> Mapping[str, float]:
        return self._values("judge_texts", lambda: self._task.judge_texts(item, scored))

    def gather(self, samples: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        return self._values("gather", lambda: self._task.gather(samples), OF_ANSWERS)

    def _values(
        self, method: str, work: Callable[[], Any], more: Collection[str] = ()
    ) -> Mapping[str, float]:
        """Numbers by the names of metrics, or of `more`."""
        found = self._call(method, work)
        if not isinstance(found, Mapping):
            raise UsageError(f"{self._path}: {method} gave {shown(found)}, not a dict of metrics")
        for name, value in found.items():
            if name not in self._measured and name not in more:
                raise UsageError(f"{self._path}: {method} gave {shown(name)}, which is no metric")
            is_number = hasattr(value, "__float__") and not isinstance(value, str)
            if not is_number or math.isnan(value) or value == -math.inf:
                raise UsageError(
                    f"{self._path}: {method} gave {shown(value)} as {name}; give a number, or "
                    "leave out what was not measured"
                )
        return {name: float(value) for name, value in found.items()}

    def _call(self, method: str, work: Callable[[], Any]) -> Any:
        try:
            with redirect_stdout(sys.stderr):
                return work()
        except EftlocalError:
            raise
        except (Exception, SystemExit) as error:
            at = [
                f
                for f in traceback.extract_tb(error.__traceback__)
                if f.filename == str(self._path)
            ]
            line = f", line {at[-1].lineno}" if at else ""
            raise UsageError(
                f"{self._path}{line}, in {method}: {type(error).__name__}: {error}"
            ) from error
