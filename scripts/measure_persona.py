"""What a persona does beside the same text as the system prompt, on SmolLM2-135M-Instruct.

    .venv/bin/python scripts/measure_persona.py OUT.jsonl [--threads 1]

Each question is answered (greedy, 24 tokens) under every persona: at several alphas, and by the
model that reads the text as its system prompt, which is alpha 1. An answer shows its persona if it
has a word of that persona's list. Prints the table of docs/recipes.md; goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _answered import Rows, answered
from small_models import NO_SMOLLM2, smollm2_file

from eftlocal import Defaults, Emulator, Recipe, Sampling
from eftlocal.batch.lines import Line
from eftlocal.prompt.messages import Message
from eftlocal.request import Request
from eftlocal.study.report import interval
from eftlocal.study.statistics import mean

_PIRATE = r"arr+|ahoy|avast|matey?s?|mates|hearty|hearties|aye|ye|yer|scurvy|booty|treasure|plunder"
_PIRATE += r"|pirates?|seas?|sail\w*|ships?|captain|crew|deck|rum"
_OLD = r"thou|thee|thy|thine|doth|hath|dost|hast|'tis|tis|shalt|wilt|hark|o'er|forsooth"
_FOOD = r"cook\w*|food|kitchen|recipes?|dish(es)?|ingredients?|flavou?rs?|bak(e|ed|ing)|spices?|eat"
_FOOD += r"|meals?|oven|soup|sauce|taste|delicious|chef"
_FRENCH = r"le|la|les|des|une?|est|et|vous|je|pour|dans|il|avec|de|que"
PERSONAS = {
    "You talk like a pirate.": rf"\b({_PIRATE})\b",
    "talks like a pirate": rf"\b({_PIRATE})\b",
    "You speak like Shakespeare.": rf"(?<!\w)({_OLD})\b",
    "You are a cook, and every answer comes back to food.": rf"\b({_FOOD})\b",
    "You are very excited about everything!": "!",
    "You answer in French.": rf"(\b({_FRENCH})\b.*){{3}}",
}
"""A persona and what its words look like."""
QUESTIONS = (
    *("How do I get better at running?", "What is the moon made of?", "Why is the sky blue?"),
    *("How do I learn to play the guitar?", "What should I do on a rainy day?", "What is money?"),
    *("How do I make new friends?", "Why do cats sleep so much?", "What is a computer?"),
    *("How do I fall asleep faster?", "What makes a good teacher?", "Where do rivers come from?"),
    *("How do I write a letter to my boss?", "Why do leaves fall in autumn?", "What is a poem?"),
    *("How can I save money?", "What is the best way to learn a language?", "What is time?"),
    *("How do I clean my windows?", "Tell me about your day."),
)
ALPHAS = (0.5, 1.0, 1.5, 2.0)
NOTHING, SYSTEM = "alpha 0", "as the system prompt"
TOKENS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="for the answers, a JSON object a line")
    parser.add_argument("--threads", type=int, help="of llama.cpp (default: one a core)")
    arguments = parser.parse_args()

    def load() -> Emulator:
        file = smollm2_file() or sys.exit(f"measure_persona: {NO_SMOLLM2}")
        defaults = Defaults(Recipe.persona("You are a teacher."))  # brings its roles
        return Emulator.from_files(
            base=file, defaults=defaults, n_ctx=256, n_seq_max=16, threads=arguments.threads
        )

    show(answered(arguments.out, lines(), load))


def key(persona: str, how: float | str, question: str) -> str:
    return json.dumps(["" if how == NOTHING else persona, how, question])


def lines() -> Iterator[Line]:
    """A request for each persona, question and way to give it; without one, once for all."""
    options: dict[str, Any] = {"sampling": Sampling(temperature=0.0), "max_tokens": TOKENS}
    base = Recipe.single("base")
    first = next(iter(PERSONAS))
    for question in QUESTIONS:
        asked = Message(role="user", content=question)
        plain = Request(((asked,),), recipe=base, **options)
        yield Line(0, key("", NOTHING, question), plain)
        for persona in PERSONAS:
            told = Message(role="system", content=persona), asked
            request = Request((told,), recipe=base, **options)
            yield Line(0, key(persona, SYSTEM, question), request)
            for alpha in ALPHAS:
                if alpha != 1.0 or persona == first:  # elsewhere it is the system prompt
                    recipe = Recipe.persona(persona, alpha)
                    request = Request(((asked,),), recipe=recipe, **options)
                    yield Line(0, key(persona, alpha, question), request)


def show(found: Rows) -> None:
    """The shares of answers that show their persona, and how many pairs of tokens are distinct."""
    ways: list[tuple[str, float | str]] = [
        (NOTHING, NOTHING),
        ("0.5", 0.5),
        (f"1, {SYSTEM}", SYSTEM),
        ("1.5", 1.5),
        ("2", 2.0),
    ]
    print(f"| persona | {' | '.join(name for name, _ in ways)} |\n|{'---|' * (len(ways) + 1)}")

    def rows(persona: str, how: float | str) -> list[dict[str, Any]]:
        return [found[key(persona, how, question)] for question in QUESTIONS]

    for persona, pattern in PERSONAS.items():
        sign = re.compile(pattern, re.IGNORECASE | re.DOTALL)
        shown = [[float(bool(sign.search(r["text"]))) for r in rows(persona, w)] for _, w in ways]
        print(f"| {persona} | {' | '.join(interval(mean(of)) for of in shown)} |")
    by_question = [
        np.mean([[r["distinct_2"] for r in rows(persona, way)] for persona in PERSONAS], axis=0)
        for _, way in ways
    ]
    said = [interval(mean(of)) for of in by_question]
    print(f"| distinct pairs of tokens, all | {' | '.join(said)} |")
    first = next(iter(PERSONAS))
    pairs = list(zip(rows(first, 1.0), rows(first, SYSTEM), strict=True))
    same = sum(one["text"] == other["text"] for one, other in pairs)
    print(f"\nalpha 1 and the system prompt: the same text for {same} of {len(pairs)} questions")


if __name__ == "__main__":
    main()
