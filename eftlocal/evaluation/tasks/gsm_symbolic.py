"""Problems like those of GSM8K, made from templates with other names and numbers."""

from __future__ import annotations

import importlib
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.evaluation.tasks.gsm8k import Gsm8k

SIZE = 500


class GsmSymbolic(Gsm8k):
    """The first 500 problems of seed 0 of reasoning-gym's generator gsm_symbolic, after
    GSM-Symbolic (Mirzadeh et al. 2024, arXiv 2410.05229): nobody has trained on their answers.
    """

    name = "gsm_symbolic"
    about = "500 problems like those of GSM8K, made on this machine"
    takes = ("shots", "samples")

    def problems(self) -> list[tuple[str, str]]:
        try:
            gym: Any = importlib.import_module("reasoning_gym")
        except ImportError:
            raise UsageError(
                "gsm_symbolic: a package makes the problems: pip install 'eftlocal[eval]'"
            ) from None
        made = gym.create_dataset("gsm_symbolic", size=SIZE, seed=0)
        return [(one["question"], str(one["answer"])) for one in made]


TASK = GsmSymbolic
