"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): problems of arithmetic in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from eftlocal.answer import Answer
from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluation.data import OnHub, filled, of_harness, prompt_at, read_lines, read_parquet
from eftlocal.evaluation.final_number import final_number, marked_number
from eftlocal.evaluation.task import Item, Metric, Options, Task

TEST = OnHub(
    "openai/gsm8k",
    "main/test-00000-of-00001.parquet",
    "740312add88f781978c0658806c59bc2815b9866",
)
_KEYS = {"question": str, "answer": str}
_ASKED = (
    'Work it out step by step. End with a line of its own that says "The answer is N.", with the '
    "number in place of N."
)
_SHOTS = "gsm8k/gsm8k-cot.yaml"  # those of Wei et al. 2022


class Gsm8k(Task):
    """Without shots each problem is a message of the user; with them it is text to go on with,
    written as lm-evaluation-harness's task gsm8k_cot writes it, from its own file.
    """

    name = "gsm8k"
    about = "GSM8K: problems of arithmetic in words"
    takes: ClassVar[Collection[str]] = ("data", "shots", "samples")
    metrics = {  # noqa: RUF012 - as `Task` has it
        "exact": Metric("answers whose last number is the right one", True),
        "strict": Metric('answers with the right number after "The answer is" or "####"', True),
    }
    max_tokens = 400

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._problems = self.problems()
        self._harness: Mapping[str, Any] = {}
        if options.shots:
            self._harness = _harness()
            self.stop = tuple(self._harness["generation_kwargs"]["until"])
        self._shown = self._shots(options.shots or 0)

    def problems(self) -> list[tuple[str, str]]:
        """Each problem, and an answer that ends with the right number.

        Raises:
            UsageError, PromptError, DownloadError: they cannot be had.
        """
        if self.options.data is None:
            path = TEST.path(offline=self.options.offline)
            rows = [(str(path), row) for row in read_parquet(path, **_KEYS)]
        else:
            rows = read_lines(self.options.data, **_KEYS)
        return [_problem(where, row) for where, row in rows]

    def items(self) -> Sequence[Item]:
        return tuple(self._item(*problem) for problem in self._problems)

    def judge(self, item: Item, answer: Answer) -> Mapping[str, float]:
        right = final_number(item.gold[0])
        return {
            "exact": float(final_number(answer.text) == right),
            "strict": float(marked_number(answer.text) == right),
        }

    def _item(self, question: str, answer: str) -> Item:
        gold = (answer.rpartition("####")[2].strip(),)
        if not self._shown:
            return Item.chat(f"{question}\n\n{_ASKED}", gold=gold)
        asked = filled(self._harness["doc_to_text"], question=question)
        return Item(f"{self._shown}{asked}", question, gold=gold, raw=True)

    def _shots(self, count: int) -> str:
        """So many worked examples, each with an empty line after it."""
        if not count:
            return ""
        examples = self._harness["fewshot_config"]["samples"]
        if count > len(examples):
            raise UsageError(f"--shots {count}: there are {len(examples)} worked examples")
        asked, told = self._harness["doc_to_text"], self._harness["doc_to_target"]
        written = (f"{filled(asked, **one)} {filled(told, **one)}" for one in examples[:count])
        return "".join(f"{one}\n\n" for one in written)


def _harness() -> Mapping[str, Any]:
    found = of_harness(_SHOTS)
    if found is None:
        raise UsageError("--shots: the worked examples are in a package: pip install lm-eval")
    missing = {"doc_to_text", "doc_to_target", "fewshot_config", "generation_kwargs"} - {*found}
    if missing:
        raise UsageError(
            f"lm-eval's {_SHOTS} has no {', '.join(sorted(missing))}: pip install lm-eval==0.4.13"
        )
    return found


def _problem(where: str, row: Mapping[str, Any]) -> tuple[str, str]:
    if final_number(row["answer"].rpartition("####")[2]) is None:
        raise PromptError(f'{where}: "answer" ends with no number, as in "#### 18"')
    return prompt_at(where, row["question"]), row["answer"]


TASK = Gsm8k
