"""What drafts bring: acceptance, tokens of a round, and calls of each small model for a token.

    .venv/bin/python scripts/measure_drafts.py [--preset demo --preset demo-cross] [--questions 100]

Proxy-tuning at alpha 1 answers the demo's validation questions, greedily and at temperature 1.
Every text is compared with the one without drafts.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import product
from typing import Any

import eftlocal
from eftlocal import Emulator, Recipe, Sampling
from eftlocal.evaluation.questions import FOLDER, Question, read
from eftlocal.llama import Context


def counted(context: Context, calls: Counter[str], role: str) -> None:
    """Counts the calls of a context from now on."""
    decode = context.decode

    def counting(*given: Any) -> Any:
        calls[role] += 1
        return decode(*given)

    context.decode = counting  # type: ignore[assignment]


def row(em: Emulator, asked: list[Question], temperature: float, length: int) -> list[str]:
    """Cells of the table."""
    calls, tokens, rounds, tried, accepted = Counter[str](), 0, 0, 0, 0
    for seed, question in enumerate(asked):
        sampling = Sampling(temperature=temperature, seed=seed)
        given: dict[str, Any] = {"recipe": Recipe.proxy(1.0), "sampling": sampling}
        given["max_tokens"] = 32
        plain = em.generate(question.text, speculation=0, **given)
        for role in ("tuned", "reference"):
            counted(em.ensemble.contexts[role], calls, role)
        answer = em.generate(question.text, speculation=length, **given)
        for role in ("tuned", "reference"):
            del em.ensemble.contexts[role].decode
        assert answer.tokens == plain.tokens, question.text
        tokens += len(answer.tokens)
        rounds += answer.speculation.rounds
        tried += sum(answer.speculation.tried)
        accepted += sum(answer.speculation.accepted)
    cells = [accepted / max(1, tried), tokens / rounds, *(calls[r] / tokens for r in calls)]
    return [f"{temperature:g}", str(length), *(f"{cell:.2f}" for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", action="append")
    parser.add_argument("--questions", type=int, default=100)
    given = parser.parse_args()
    every = read(FOLDER / "questions.json", "validation").questions
    asked = list(every[:: max(1, len(every) // given.questions)][: given.questions])
    print("| preset | temperature | length | accepted | tokens a round | tuned | reference |")
    print("|---|---|---|---|---|---|---|")
    for preset in given.preset or ("demo", "demo-cross"):
        with eftlocal.load(preset, n_ctx=256, threads=1) as em:
            for temperature, length in product((0.0, 1.0), (0, 4, 8)):
                cells = [preset, *row(em, asked, temperature, length)]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
