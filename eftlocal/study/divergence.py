"""How far the next-token distributions of one combination are from those of another, on a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eftlocal.decoding.score import common_end, text_rows
from eftlocal.emulator import Emulator
from eftlocal.errors import PromptError
from eftlocal.logits.distribution import Row, log_sum_exp

LETTERS = 8  # of a text that are read for each token: no text has so many, on average
_LEAST = 1e-12  # a probability of 0 would make the divergence infinite

# Narrative, explanation, numbers, speech and a little code, so that no one manner decides.
TEXT = """\
The ferry left the harbour at ten past six, when the lamps along the quay were still lit. Marta \
stood at the rail with a paper cup of coffee and counted the gulls that followed them, eleven at \
first and then, beyond the breakwater, only three. She had her grandfather's notebook with her. On \
its first page he had written: "Whoever reads this should know: the north path floods in spring."

Tides come from the pull of the Moon and, to a smaller degree, of the Sun. The side of the Earth \
that faces the Moon is drawn towards it a little more strongly than the centre, and the far side a \
little less, so the water stands higher on both. As the planet turns, most coasts meet two high \
tides a day, about twelve hours and twenty-five minutes apart. In a narrow bay the water has \
nowhere to go but up, and the difference between high and low can reach fifteen metres.

"Is it deep here?" the boy asked. The captain laughed. "Forty metres, give or take. In 1987 we \
measured it with a rope, a stone and a good deal of patience." He turned the wheel two degrees to \
port. The chart on the table showed seven rocks, two wrecks and, in blue ink, a question mark.

To work out how long the crossing takes, divide the distance by the speed: 24 miles at 8 knots are \
3 hours. With a current of 2 knots against the boat it is 24 / (8 - 2) = 4 hours. The same in a \
few lines of code:

def hours(miles, knots, current=0.0):
    if knots <= current:
        raise ValueError("the boat is carried backwards")
    return miles / (knots - current)

Before you go, check the following: fuel for twice the distance, a torch, warm clothes, and the \
forecast for the evening as well as for the morning. If the wind turns to the east, wait a day. \
Nobody on the island has ever been thanked for arriving early.
"""


@dataclass(frozen=True)
class Divergence:
    """Means over the tokens of a text.

    Attributes:
        tokens: distributions compared.
        kl: nats, of the second from the first: sum of p log(p / q).
        total_variation: half the sum of |p - q|: how often a token drawn from one would have to be
            another, at least.
        agreement: share of places with the same most probable token.
    """

    tokens: int
    kl: float
    total_variation: float
    agreement: float


def distributions(emulator: Emulator, text: str, most: int) -> Iterator[Row]:
    """The combination's log-probabilities at the first places of a raw text.

    Yields:
        (vocab,) float32 for each of at most so many tokens: what stood before it.

    Raises:
        PromptError: the text is one token, or none.
    """
    ids = emulator.tokenize(text[: LETTERS * most], raw=True)
    same = common_end(ids)
    if same < 1:
        raise PromptError("the text is too short to compare anything on; give a longer one")
    prompts = {role: tokens[: len(tokens) - same] for role, tokens in ids.items()}
    contexts = emulator.ensemble.contexts
    room = min(context.n_ctx - len(prompts[role]) for role, context in contexts.items())
    yield from log_probabilities(
        emulator, prompts, ids[next(iter(ids))][-same:][: min(most, room - 1)]
    )


def log_probabilities(
    emulator: Emulator, prompts: Mapping[str, Sequence[int]], tokens: Sequence[int]
) -> Iterator[Row]:
    """What the combination holds of each token's place, after each role's own prompt.

    Yields:
        (vocab,) float32 for each of the tokens: what stood before it.
    """
    scratch = np.empty(emulator.ensemble.vocab_size, np.float32)
    recipe = emulator.defaults.recipe
    for _, row, _ in text_rows(emulator.ensemble, prompts, tokens, recipe=recipe):
        yield row - np.float32(log_sum_exp(row, scratch))


def divergence(first: Sequence[Row], second: Iterator[Row]) -> Divergence:
    """Compares distributions place by place.

    Args:
        first, second: log-probabilities, (vocab,) float32 for each place.
    """
    kl, variation, same = [], [], []
    for before, after in zip(first, second, strict=True):
        p, q = np.exp(before, dtype=np.float64), np.exp(after, dtype=np.float64)
        there = p > 0.0
        ratio = np.log(p[there]) - np.log(np.maximum(q[there], _LEAST))
        kl.append(float((p[there] * ratio).sum()))
        variation.append(0.5 * float(np.abs(p - q).sum()))
        same.append(bool(before.argmax() == after.argmax()))
    return Divergence(len(kl), *(float(np.mean(each)) for each in (kl, variation, same)))
