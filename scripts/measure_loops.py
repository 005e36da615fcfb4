"""How long repetitions get: in ordinary lists, tables and refrains, and in answers that loop.

    .venv/bin/python scripts/measure_loops.py [--answers]

What the default of the loop guard (`eftlocal/generation.py`) was chosen by. --answers also lets
SmolLM2-135M-Instruct (greedy) and the demo (beta 4) answer without a guard, some minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from _repetitions import ordinary_repetitions
from small_models import NO_SMOLLM2, smollm2_file

import eftlocal
from eftlocal import Emulator, Recipe, Sampling
from eftlocal.generation import LOOP_GUARD, OF_NUMBERS, is_of_numbers
from eftlocal.llama import Model
from eftlocal.logits.recipe import TRIO

PROMPTS = (
    *("Write a long story about a lighthouse keeper.", "Once upon a time", "Dear Sir or Madam,"),
    *("List the first hundred countries of the world.", "def fibonacci(n):", "I think that"),
    *("Explain quantum mechanics in great detail.", "In this paper we", "The meaning of life is"),
    *("The history of Rome began", "import numpy as np\n", "Write a poem about rain."),
)


def longest_repetition(tokens: Sequence[int]) -> tuple[int, int, int]:
    """(tokens of the longest repetition, of its phrase, index after it); at least four times."""
    ids, best = np.asarray(tokens), (0, 0, 0)
    for length in range(1, min(LOOP_GUARD, len(ids)) // 4 + 1):
        parts = np.flatnonzero(np.concatenate(([True], ids[length:] != ids[:-length], [True])))
        runs = np.diff(parts) - 1
        last = int(runs.argmax())
        if runs[last] >= 3 * length and runs[last] + length > best[0]:
            best = int(runs[last]) + length, length, int(parts[last + 1]) - 1 + length
    return best


def show(name: str, tokens: Sequence[int], model: Model) -> None:
    span, length, end = longest_repetition(tokens)
    data = b"".join(model.piece(token) for token in tokens[end - length : end])
    phrase = data.decode("utf-8", "replace")
    guard = LOOP_GUARD * (OF_NUMBERS if is_of_numbers(phrase) else 1)
    to_end = " to the end" if end == len(tokens) else ""
    print(f"{span:6} of {len(tokens):5}  phrase {length:4}  guard {guard}  {name}{to_end}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", action="store_true")
    answers = parser.parse_args().answers
    file = smollm2_file() or sys.exit(f"measure_loops: {NO_SMOLLM2}")
    greedy = Sampling(temperature=0.0)
    with Model(file, vocab_only=True) as model:
        for name, text in ordinary_repetitions().items():
            show(name, model.tokenize(text), model)
    if answers:
        with Emulator.from_files(**dict.fromkeys(TRIO, file), n_ctx=1600) as em:
            for prompt in PROMPTS:
                found = em.generate(
                    prompt,
                    raw=True,
                    recipe=Recipe.single("base"),
                    sampling=greedy,
                    loop_guard="off",
                    max_tokens=1500,
                )
                show(f"SmolLM2, {found.finish_reason}: {prompt!r}", found.tokens, em.models["base"])
        with eftlocal.load("demo", n_ctx=2048) as em:
            for i in range(12):
                found = em.generate(
                    f"Question {i}: where is Toulouse?",
                    recipe=Recipe.upscale(4.0),
                    sampling=greedy,
                    loop_guard="off",
                )
                show(f"demo, {found.finish_reason}", found.tokens, em.models["base"])


if __name__ == "__main__":
    main()
