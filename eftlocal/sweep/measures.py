"""What is measured of one answer, by name. What could not be measured is absent.

The judgements and losses are those of `eftlocal.evaluate`; a loss is inf where a recipe's cut
makes a token of the right answer impossible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eftlocal.answer import Answer
from eftlocal.emulator import Emulator
from eftlocal.evaluate.answers import GreedyAnswer, judge, names
from eftlocal.evaluate.demo import WARM
from eftlocal.evaluate.scoring import score
from eftlocal.logits.recipe import Recipe
from eftlocal.sweep.prompts import Item

# In the order in which they are shown.
METRICS = {
    "exact": "share of answers that are a right answer word for word, and stop",
    "format": "share in the form of the demo's tuned model, whatever is claimed",
    "plain_exact": "as exact, in the demo's plain form",
    "plain_format": "share in the demo's plain form",
    "fact": "share that name the fact, or hold a right answer, as whole words",
    "stopped": "share that stopped by themselves",
    "loops": "share that went round in circles",
    "fact_nll": "negative log-likelihood of the right answer's fact, nats",
    "format_nll": "that of its other tokens and its end, nats",
    "gold_nll": "that of a right answer, nats",
    "logprob": "mean log-probability of the answer's tokens under the combination, nats",
    "tokens": "length of the answer",
    "distinct_1": "distinct tokens, of all of an answer (Li et al. 2016)",
    "distinct_2": "distinct pairs of neighbouring tokens, of all",
    "tokens_per_second": "decoding, without the prompt",
    "acceptance": "share of the judged draft tokens that were accepted",
}

SHARES = frozenset(
    {"exact", "format", "plain_exact", "plain_format", "fact", "stopped", "loops", "acceptance",
     "distinct_1", "distinct_2"}
)  # fmt: skip


def possible(items: Sequence[Item], roles: Sequence[str], *, drafts: bool) -> tuple[str, ...]:
    """The metrics that these prompts and roles can have."""
    never = set()
    if not any(item.asked for item in items):
        never |= {"format", "fact_nll", "format_nll"}
    if not any(item.asked and "plain" in roles for item in items):
        never |= {"plain_exact", "plain_format"}
    if not any(item.gold for item in items):
        never |= {"gold_nll"}
        if not any(item.asked for item in items):
            never |= {"exact", "fact"}
    if "tuned" not in roles:
        never |= {"fact_nll", "format_nll"}
    if not drafts:
        never |= {"acceptance"}
    return tuple(name for name in METRICS if name not in never)


def of_answer(answer: Answer, item: Item, roles: Sequence[str]) -> dict[str, float]:
    """What the answer shows by itself and beside the right ones."""
    found = {
        "stopped": float(answer.finish_reason == "stop"),
        "loops": float(answer.finish_reason == "repetition"),
        "tokens": float(len(answer.tokens)),
    }
    if answer.logprobs:
        found["logprob"] = sum(answer.logprobs) / len(answer.logprobs)
    for n in (1, 2):
        grams = list(zip(*(answer.tokens[i:] for i in range(n)), strict=False))
        if grams:
            found[f"distinct_{n}"] = len(set(grams)) / len(grams)
    if rate := answer.timing.tokens_per_second:
        found["tokens_per_second"] = rate
    if (accepted := answer.speculation.acceptance) is not None:
        found["acceptance"] = accepted
    return found | _judged(answer, item, roles)


def _judged(answer: Answer, item: Item, roles: Sequence[str]) -> dict[str, float]:
    text, stopped = answer.text.strip(), answer.finish_reason == "stop"
    if item.asked is None:
        if not item.gold:
            return {}
        gold = [right.strip() for right in item.gold]
        return {
            "exact": float(stopped and text in gold),
            "fact": float(any(names(text, right) for right in gold)),
        }
    given = [GreedyAnswer(text, stopped)]
    kept = judge(item.asked, given, WARM)
    found = {name: float(getattr(kept, name)[0]) for name in ("exact", "format", "fact")}
    if "plain" in roles:
        plain = judge(item.asked, given, "plain")
        found |= {"plain_exact": float(plain.exact[0]), "plain_format": float(plain.format[0])}
    return found


def losses(em: Emulator, item: Item, recipes: Mapping[str, Recipe]) -> dict[str, dict[str, float]]:
    """By the recipes' names, what the right answer costs; empty where none is known."""
    found: dict[str, dict[str, float]] = {name: {} for name in recipes}
    if item.asked is not None and "tuned" in em.roles:
        for name, scores in score(em, item.asked, recipes, WARM).items():
            parts = {part: getattr(scores, part) for part in ("fact_nll", "format_nll")}
            found[name] = {part: float(values[0]) for part, values in parts.items()}
    elif item.gold:
        for name, recipe in recipes.items():
            scored = em.logprobs(
                item.gold[0],
                prompt=item.prompt,
                raw=item.raw,
                special=item.special,
                recipe=recipe,
            )
            found[name]["gold_nll"] = -float(scored.logprobs.sum())
    return found
