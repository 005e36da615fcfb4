"""Shows that speculation changes no distribution, at full size: a table for each part.

Usage: python scripts/check_exactness.py [PART ...] [--number N] [--processes P]

rules       the acceptance rules alone: chi-square of their tokens under the target
kernels     which numbers of rows give the same bits on this machine
coupled     the text of a seed with speculation off and on, at every draft length
greedy      the same under greedy sampling
rejection   first three tokens and whole answers, with and without speculation: chi-square
acceptance  acceptance and accepted length of both rules on held-out questions
smollm2     greedy texts of an everyday quantization, beside what its kernels disagree on alone
again       texts of everyday quantizations that change when a question is asked again, after
            others, with drafts or in a batch: by default, and with reproducible

--number is what each part counts: draws, questions or answers; by default its full size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from exactness.again import changed, requantized
from exactness.chi_square import same_distribution
from exactness.rules import cases, coupled_acceptance, outcome
from exactness.texts import (
    GREEDY,
    LENGTHS,
    SETTINGS,
    Job,
    Text,
    answers,
    other_bits,
    uncertain_beginning,
)
from small_models import NO_SMOLLM2, demo_files, smollm2_file

from eftlocal import Emulator, Recipe, Sampling, Speculation
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.sequence import Choice, Wanted
from eftlocal.evaluation.questions import FOLDER, read
from eftlocal.logits.recipe import TRIO
from eftlocal.speculation.costs import Costs
from eftlocal.speculation.measurement import measure
from eftlocal.speculation.rules import RULES

WIDTH = 16  # answers side by side
LEAST = 1e-4  # p-value below which a part has failed
TYPES = (("Q4_K_M", "Q8_0"), ("Q4_1", "Q4_1"), ("Q4_0", "Q4_0"))  # of the base, of the pair
ALL_LENGTHS: tuple[int | None, ...] = (*LENGTHS, 16, None)
Row = list[str]
Task = tuple[Callable[..., list[Row]], tuple[Any, ...]]


@cache
def demo() -> tuple[Emulator, Costs]:
    files = demo_files()
    emulator = Emulator.from_files(**files, n_ctx=256, n_seq_max=WIDTH, threads=1, gpu_layers=0)
    return emulator, measure(emulator.ensemble.contexts, slot=0)


def questions(number: int, split: str = "test") -> list[str]:
    asked = read(FOLDER / "questions.json", split).questions
    stride = max(1, len(asked) // number)
    return [question.text for question in asked[::stride][:number]]


def texts(
    asked: Sequence[str], sampling: Sampling, length: int | None, rule: str = "coupled"
) -> list[Text]:
    """One answer a question, the seed its index."""
    emulator, costs = demo()
    speculation = Speculation(length=length, rule=rule)  # type: ignore[arg-type]
    rounds = Rounds(emulator.ensemble, costs=costs)
    return answers(
        rounds,
        [Job(emulator.tokenize(q), sampling, i, speculation) for i, q in enumerate(asked)],
    )


# Parts: a generator of tasks, and the rows that a task gives -------------------------------------


def rules(number: int) -> Iterator[Task]:
    yield from ((of_rule, (name, i, number)) for i in range(len(list(cases()))) for name in RULES)


def of_rule(name: str, index: int, number: int) -> list[Row]:
    case = list(cases())[index]
    found = outcome(case, RULES[name], number)
    expected = case.overlap if name == "rejection" else coupled_acceptance(case.p, case.q, 64)
    if case.source is None:
        expected = case.overlap
    off = abs(found.acceptance - expected) > 5.0 * max(found.sigma, 1e-9)
    return [
        [
            *(case.name, name, str(case.size), f"{found.p_value:.4f}"),
            *(f"{found.acceptance:.4f}", f"{expected:.4f}", f"{case.overlap:.4f}"),
            verdict(found.p_value >= LEAST and not off),
        ]
    ]


def kernels(number: int) -> Iterator[Task]:
    yield from ((of_kernels, (role,)) for role in TRIO)


def of_kernels(role: str) -> list[Row]:
    emulator, _ = demo()
    prompt = emulator.tokenize(questions(1)[0])[role]
    tokens = np.random.default_rng(0).integers(10, emulator.ensemble.vocab_size - 10, 34).tolist()
    found = other_bits(emulator.ensemble.contexts[role], prompt, tokens, (1, 2, 4, 8, WIDTH))
    bad = ", ".join(f"{width} x {rows}: {most:.2g}" for (width, rows), most in found.items())
    return [[role, bad or "none"]]


def coupled(number: int) -> Iterator[Task]:
    yield from ((same_texts, (name, number, "coupled")) for name in SETTINGS)


def greedy(number: int) -> Iterator[Task]:
    yield from ((same_texts, ("greedy", number, rule)) for rule in RULES)


def same_texts(name: str, number: int, rule: str) -> list[Row]:
    asked, sampling = questions(number), SETTINGS.get(name, GREEDY)
    plain = texts(asked, sampling, 0)
    tokens = sum(len(text.tokens) for text in plain)
    rows = []
    for length in ALL_LENGTHS:
        drafted = texts(asked, sampling, length, rule)
        same = sum(a.tokens == b.tokens for a, b in zip(plain, drafted, strict=True))
        kinds = Counter(source for text in drafted for source in text.sources)
        shares = ", ".join(f"{kind} {kinds[kind]}" for kind in sorted(kinds))
        ok = verdict(same == len(asked))
        found = f"{same} of {len(asked)}"
        rows.append([name, rule, shown(length), found, str(tokens), shares, ok])
    return rows


def rejection(number: int) -> Iterator[Task]:
    yield from ((same_distributions, (name, number)) for name in SETTINGS)


def same_distributions(name: str, number: int) -> list[Row]:
    prompts = uncertain_beginning(demo()[0], questions(20))
    plain, *drafted = (sample(prompts, SETTINGS[name], k, number) for k in (0, *LENGTHS))
    rows = []
    for length, found in zip(LENGTHS, drafted, strict=True):
        tests = [same_distribution(*pair) for pair in zip(plain, found, strict=True)]
        ok = verdict(min(p for p, _ in tests) >= LEAST)
        rows.append(
            [name, str(length), str(number), *(f"{p:.4f} ({cells})" for p, cells in tests), ok]
        )
    return rows


def sample(
    prompts: dict[str, list[int]], sampling: Sampling, length: int, number: int
) -> tuple[Counter[Any], Counter[Any]]:
    """How often each first three tokens came, and each whole answer; no two lengths share seeds."""
    emulator, costs = demo()
    drafting = Speculation(length=length, rule="rejection")
    start = (length + 1) * 10_000_000
    made = answers(
        Rounds(emulator.ensemble, costs=costs),
        (Job(prompts, sampling, start + i, drafting) for i in range(number)),
    )
    return Counter(text.tokens[:3] for text in made), Counter(text.tokens for text in made)


def acceptance(number: int) -> Iterator[Task]:
    for name, length in product((*SETTINGS, "greedy"), (*LENGTHS, None)):
        yield side_by_side, (name, length, number)


def side_by_side(name: str, length: int | None, number: int) -> list[Row]:
    row = [name, shown(length)]
    for rule in sorted(RULES):
        made = texts(questions(number), SETTINGS.get(name, GREEDY), length, rule)
        tried, accepted, drafts, rounds, tokens = (
            sum(sum(t.totals.tried) for t in made),
            sum(sum(t.totals.accepted) for t in made),
            sum(t.totals.drafts for t in made),
            sum(t.totals.rounds for t in made),
            sum(len(t.tokens) for t in made),
        )
        row += [
            f"{accepted / tried:.4f}" if tried else "-",
            f"{accepted / drafts:.3f}" if drafts else "-",
            f"{tokens / rounds:.3f}",
        ]
    return [row]


def smollm2(number: int) -> Iterator[Task]:
    yield everyday, (_smollm2(), number)


def _smollm2() -> Path:
    return smollm2_file() or sys.exit(f"check_exactness: {NO_SMOLLM2}")


def everyday(path: Path, number: int) -> list[Row]:
    """SmolLM2 in all roles, each with a prompt of its own, so that the combination is no role."""
    prompts = {"base": "{{ messages[-1]['content'] }}\nAnswer:", "reference": "plain"}
    rows = []
    files = dict.fromkeys(TRIO, path)
    with Emulator.from_files(**files, prompts=prompts, n_ctx=256, threads=1) as emulator:
        ensemble, recipe, most = emulator.ensemble, Recipe.upscale(), 24
        asked = [emulator.tokenize(question) for question in questions(number)]
        rounds = Rounds(ensemble)
        plain = answers(rounds, [Job(p, GREEDY, 0, max_tokens=most) for p in asked])
        for length in LENGTHS:
            drafted = answers(
                rounds,
                [Job(p, GREEDY, 0, Speculation(length=length), max_tokens=most) for p in asked],
            )
            parted = compared = 0
            for a, b in zip(plain, drafted, strict=True):
                pairs = list(zip(a.tokens, b.tokens, strict=False))
                first = next((i for i, (x, y) in enumerate(pairs) if x != y), None)
                parted += first is not None
                compared += len(pairs) if first is None else first + 1
            other = judged = 0
            for prompt, text in zip(asked, plain, strict=True):
                sequence = ensemble.open(prompt, recipe=recipe, sampling=GREEDY)
                for start in range(0, len(text.tokens) - 1, length + 1):
                    part = text.tokens[start : start + length + 1]
                    sequence.choices.extend(map(Choice, part))
                    wanted = [Wanted(sequence, rows=len(part))]
                    found = ensemble.decode(dict.fromkeys(recipe.roles, wanted))
                    for i, token in enumerate(text.tokens[start + 1 : start + 1 + len(part)]):
                        of_roles = {role: of[i] for role, (of,) in found.items()}
                        other += int(ensemble.combine(of_roles, recipe).argmax()) != token
                        judged += 1
                ensemble.close(sequence)
            accepted = sum(sum(t.totals.accepted) for t in drafted)
            tried = sum(sum(t.totals.tried) for t in drafted)
            rows.append(
                [
                    *(str(length), f"{parted} of {compared}", f"{other} of {judged}"),
                    f"{accepted / tried:.3f}",
                ]
            )
    return rows


def again(number: int) -> Iterator[Task]:
    for types, reproducible in product(TYPES, (False, True)):
        yield in_other_ways, (_smollm2(), *types, reproducible, number)


def in_other_ways(file: Path, base: str, pair: str, reproducible: bool, number: int) -> list[Row]:
    with TemporaryDirectory() as folder:
        files = [requantized(file, name, Path(folder)) for name in (base, pair)]
        found = changed(*files, questions(number), reproducible=reproducible)
    ok = verdict(not any(found.values()) if reproducible else not found["again"])
    named = "reproducible" if reproducible else "default"
    return [[base, pair, named, *map(str, found.values()), ok]]


# name -> (tasks, full size, column titles)
PARTS: dict[str, tuple[Callable[[int], Iterator[Task]], int, Row]] = {
    "rules": (
        rules,
        200_000,
        ["case", "rule", "size", "p-value", "acceptance", "expected", "1 - TV", ""],
    ),
    "kernels": (kernels, 1, ["role", "other bits at sequences x rows: largest difference"]),
    "coupled": (coupled, 500, ["sampling", "rule", "draft", "same", "tokens", "sources", ""]),
    "greedy": (greedy, 500, ["sampling", "rule", "draft", "same", "tokens", "sources", ""]),
    "rejection": (
        rejection,
        20_000,
        ["sampling", "draft", "answers", "3 tokens: p (cells)", "answer: p (cells)", ""],
    ),
    "acceptance": (
        acceptance,
        300,
        [
            *("sampling", "draft"),
            *(f"{rule}: {w}" for rule in sorted(RULES) for w in ("accept", "length", "tok/round")),
        ],
    ),
    "smollm2": (
        smollm2,
        50,
        ["draft", "texts parted, of tokens", "kernels alone: other argmax", "acceptance"],
    ),
    "again": (
        again,
        30,
        ["base", "pair", "", "again", "after others", "4 drafts", "batch of 4", ""],
    ),
}  # fmt: skip


def shown(length: int | None) -> str:
    return "auto" if length is None else str(length)


def verdict(fine: bool) -> str:
    return "ok" if fine else "FAILED"


def table(titles: Row, rows: list[Row]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=False)]
    for row in (titles, ["-" * width for width in widths], *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--number", type=int, help="of draws, questions or answers")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    failed = False
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        for name in options.parts or PARTS:
            tasks, full, titles = PARTS[name]
            began = time.perf_counter()
            futures = [pool.submit(do, *args) for do, args in tasks(options.number or full)]
            rows = []
            for i, future in enumerate(futures, 1):
                rows += future.result()
                print(f"{name}: {i} of {len(futures)}", file=sys.stderr)
            print(f"\n{name}, {options.number or full}: {time.perf_counter() - began:.0f} s\n")
            table(titles, rows)
            failed = failed or any("FAILED" in row for row in rows)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
