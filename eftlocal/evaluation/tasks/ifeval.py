"""IFEval (Zhou et al. 2023, arXiv 2311.07911): prompts with instructions that programs check."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from eftlocal.answer import Answer
from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluation.data import OnHub, prompt_at, read_lines
from eftlocal.evaluation.task import Item, Metric, Options, Task
from eftlocal.terminal_text import one_line

PROMPTS = OnHub(
    "google/IFEval", "ifeval_input_data.jsonl", "966cd89545d6b6acfd7638bc708b98261ca58e84"
)
_KEYS = {"prompt": str, "instruction_id_list": list, "kwargs": list}
_ANY = "An answer. It has two sentences."


class IFEval(Task):
    """The authors' checkers, as the package if-verifiable has them. A loose verdict is also good
    where one without the first line, the last line or asterisks is.
    """

    name = "ifeval"
    about = "IFEval: instructions about an answer's form, checked by programs"
    takes = ("data", "samples")
    metrics = {  # noqa: RUF012 - as `Task` has it
        "prompt_strict": Metric("answers that follow all instructions of their prompt", True),
        "instruction_strict": Metric("instructions that are followed", True, "instructions"),
        "prompt_loose": Metric("as prompt_strict, loosely", True),
        "instruction_loose": Metric("as instruction_strict, loosely", True, "instructions"),
    }
    max_tokens = 1280

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        path = options.data or PROMPTS.path(offline=options.offline)
        rows = read_lines(path, **_KEYS)
        try:
            self._check: Any = importlib.import_module("if_verifiable").evaluate_output_for_sample
            importlib.import_module("langdetect").DetectorFactory.seed = 0  # or it guesses anew
        except ImportError:
            raise UsageError(
                "the checkers are in a package: pip install 'eftlocal[ifeval]' (Python 3.11 or "
                "newer)"
            ) from None
        self._items = tuple(self._item(where, row) for where, row in rows)

    def items(self) -> Sequence[Item]:
        return self._items

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        return self._verdicts(item, answer.text)

    def _verdicts(self, item: Item, text: str) -> dict[str, float]:
        asked = SimpleNamespace(prompt=item.text, **item.data)
        found, _ = self._check("ifeval", asked, text)  # none at all of an empty text
        count = len(item.data["instruction_id_list"])
        strict, loose = (
            sum(bool(getattr(one, f"{how}_pass")) for one in found) for how in ("strict", "loose")
        )
        return {
            "prompt_strict": float(strict == count),
            "instruction_strict": float(strict),
            "prompt_loose": float(loose == count),
            "instruction_loose": float(loose),
            "instructions": float(count),
        }

    def _item(self, where: str, row: Mapping[str, Any]) -> Item:
        """An item whose checkers have been tried: what they lack is told before any answer."""
        ids, kwargs = row["instruction_id_list"], row["kwargs"]
        if not ids or len(ids) != len(kwargs) or not all(isinstance(k, dict) for k in kwargs):
            raise PromptError(
                f'{where}: as many objects in "kwargs" as instructions in "instruction_id_list" '
                "are needed, one or more"
            )
        item = Item.chat(
            prompt_at(where, row["prompt"]),
            groups=tuple(dict.fromkeys(str(name).partition(":")[0] for name in ids)),
            data={"instruction_id_list": ids, "kwargs": kwargs},
        )
        try:
            found, _ = self._check("ifeval", SimpleNamespace(prompt=item.text, **item.data), _ANY)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise PromptError(f"{where}: {type(error).__name__}: {one_line(str(error))}") from None
        except LookupError:
            raise UsageError(
                f"{where}: its checker needs data of NLTK: python -m nltk.downloader punkt_tab"
            ) from None
        known = {one.instruction_id for one in found}
        if unknown := [name for name in ids if name not in known]:
            raise PromptError(f"{where}: no checker is called {one_line(str(unknown[0]), 60)!r}")
        return item


TASK = IFEval
