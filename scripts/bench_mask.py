"""What a JSON schema and a GBNF grammar of JSON cost: the mask of a step, at several sizes of
vocabulary; and what the schema costs in an answer.

    .venv/bin/python scripts/bench_mask.py [--model FILE.gguf]

First the masks along one JSON text, with the model's vocabulary and with larger ones made of its
tokens in pairs: mean, median and longest time, the time to make the vocabulary ready (once a
model), and the memory that each further answer takes. Then the speed of real answers to a schema
over that of free ones, drafts off and on, with 95% intervals.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from small_models import NO_SMOLLM2, smollm2_file

from eftlocal import Emulator, Sampling
from eftlocal.constraint import Constraint, schema_text
from eftlocal.llama import Model
from eftlocal.llama.guide import Guide
from eftlocal.logits.recipe import TRIO

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 5},
        "score": {"type": "number"},
        "born": {"type": "string", "format": "date"},
    },
    "required": ["name", "age", "tags", "score", "born"],
}
TEXT = (
    '{"name": "Ada Lovelace", "age": 36, "tags": ["mathematics", "poetry"], "score": 9.75, '
    '"born": "1815-12-10"}'
)
GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7f\x00-\x1f] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
CONSTRAINTS = Constraint("json_schema", schema_text(SCHEMA)), Constraint("grammar", GBNF)
SIZES = (128_256, 262_144)
ANSWERS, PAIRS, TOKENS = 20, 12, 64


class Larger:
    """A model's vocabulary, with pairs of its tokens up to a size."""

    def __init__(self, model: Model, size: int) -> None:
        self.path, self.vocab_size = model.path, size
        self._ends = model.end_tokens(range(model.vocab_size))
        self._pieces = [model.piece(t) for t in range(model.vocab_size)]
        texts, seen = [p for p in self._pieces if p.isascii() and p], set(self._pieces)
        chance = random.Random(0)
        while len(self._pieces) < size:
            pair = chance.choice(texts) + chance.choice(texts)
            if pair not in seen:
                seen.add(pair)
                self._pieces.append(pair)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self._pieces[token] or b"<control>" * special

    def end_tokens(self, among: Sequence[int]) -> frozenset[int]:
        return self._ends


def masks(model: Any, tokens: list[int], constraint: Constraint) -> str:
    """Figures of the masks along a text."""
    began = time.perf_counter()
    Guide(model, constraint)
    ready = time.perf_counter() - began
    before = psutil.Process().memory_info().rss
    guides = [Guide(model, constraint) for _ in range(ANSWERS)]
    times = []
    for guide in guides:
        for length in range(len(tokens) + 1):
            began = time.thread_time()  # what other programs take does not count
            guide.allowed(tokens[:length])
            times.append((time.thread_time() - began) * 1e3)
    memory = max(0, psutil.Process().memory_info().rss - before) / ANSWERS / 1024
    return (
        f"{constraint.kind}, {model.vocab_size:>7} tokens: mean {np.mean(times):.3f} ms, median "
        f"{statistics.median(times):.3f}, longest {max(times):.2f}; ready in {ready:.2f} s; "
        f"{memory:.0f} KiB an answer"
    )


def speed(emulator: Emulator, length: int) -> str:
    """Tokens a second of a constrained answer over those of a free one of the same length.

    Both are answers of three equal roles, so that drafts are as likely to be accepted; they take
    turns, and a pair is a free answer with the constrained ones before and after it.
    """

    def seconds(**more: Any) -> float:
        answer = emulator.generate(
            "A list of persons, as JSON:",
            sampling=Sampling(temperature=0.7, seed=1),
            speculation=length,
            max_tokens=TOKENS,
            ignore_end=True,
            **more,
        )
        timing = answer.timing
        assert timing.tokens == TOKENS
        return (timing.seconds - timing.first_token) / (timing.tokens - timing.at_first)

    bound = {"json_schema": {"type": "array", "items": SCHEMA, "minItems": 8}}
    seconds(**bound), seconds()  # the first makes everything ready
    before = seconds(**bound)
    ratios = []
    for _ in range(PAIRS):
        free, after = seconds(), seconds(**bound)
        ratios.append(free / ((before + after) / 2))
        before = after
    mean = statistics.fmean(ratios)
    half = 1.96 * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return (
        f"drafts of {length}: a constrained answer has {mean:.3f} [{mean - half:.3f}, "
        f"{mean + half:.3f}] of a free one's speed ({PAIRS} pairs of {TOKENS} tokens, "
        f"{free * 1e3:.1f} ms a token)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file (default: SmolLM2-135M-Instruct)")
    file = parser.parse_args().model or smollm2_file()
    if file is None:
        parser.error(f"{NO_SMOLLM2}, or name a file with --model")
    with Model(file, vocab_only=True) as model:
        tokens = model.tokenize(TEXT)
        for vocabulary in (model, *(Larger(model, size) for size in SIZES)):
            for constraint in CONSTRAINTS:
                print(masks(vocabulary, tokens, constraint))
    roles = dict.fromkeys(TRIO, file)
    with Emulator.from_files(**roles, n_ctx=1024, trust=True) as emulator:
        for length in (0, 4):
            print(speed(emulator, length))


if __name__ == "__main__":
    main()
