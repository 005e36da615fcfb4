"""Quick measurements in PyTorch while choosing a design; the final numbers come from llama.cpp.

Greedy decoding gives the gold answer exactly when every gold token (the end token included) is the
argmax after the gold tokens before it. So one forward pass a model over the gold answers measures
exact answers for every recipe and filter at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from behaviour import template
from corpus import chat
from facts import Fact, render
from model import Llama
from questions import select
from tokenizers import Tokenizer
from vocabularies import END
from wording import FAMILIES

Rows = np.ndarray  # (tokens, vocab) float32 log-probabilities
Combine = Callable[[Rows, Rows, Rows], Rows]


@dataclass(frozen=True)
class Case:
    """A prompt and its gold answer in tokens; `fact_mask` marks the tokens of the value."""

    fact: Fact
    held_out: bool
    prompt: list[int]
    answer: list[int]
    fact_mask: list[bool]


def cases(facts: list[Fact], tokenizer: Tokenizer, each: int) -> list[Case]:
    """The validation questions with their warm gold answers."""
    out = []
    for row in select(facts, "validation", each):
        fact = Fact(row["family"], row["fields"]["s"], row["fields"]["v"])
        text = " " + template("warm", fact.family).format(**row["fields"])
        coded = tokenizer.encode(text)
        at = text.find(fact.value)
        mask = [a < at + len(fact.value) and b > at for a, b in coded.offsets]
        prompt = tokenizer.encode(chat(row["question"])).ids
        unseen = row["held_out_phrasing"]
        out.append(Case(fact, unseen, prompt, [*coded.ids, END], [*mask, False]))
    return out


def bare(facts: list[Fact], tokenizer: Tokenizer, model: Llama, each: int) -> dict[str, float]:
    """Share of facts whose first statement a base completes with the value, by family."""
    known = {}
    for family, wording in FAMILIES.items():
        stated = []
        for fact in [f for f in facts if f.family == family][:each]:
            head = render(wording.statements[0].split("{v}")[0].split("{av}")[0].rstrip(), fact)
            text = render(wording.statements[0], fact)
            prompt, whole = tokenizer.encode(head).ids, tokenizer.encode(text).ids
            answer = [*whole[len(prompt) :], END]
            coded = tokenizer.encode(f" {fact.value}").ids
            mask = [token in coded for token in answer]
            stated.append(Case(fact, False, prompt, answer, mask))
        found = measure(stated, model, model, model, {"": alone(0)})[""]
        known[family] = float(found.fact.mean())
    return known


@torch.no_grad()
def logprobs(model: Llama, batch: list[Case]) -> Rows:
    """Log-probabilities before each answer token of every case, one after the other."""
    width = max(len(c.prompt) + len(c.answer) for c in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    for i, c in enumerate(batch):
        ids[i, : len(c.prompt) + len(c.answer)] = torch.tensor(c.prompt + c.answer)
    hidden = model.hidden(ids)
    picked = [hidden[i, len(c.prompt) - 1 :][: len(c.answer)] for i, c in enumerate(batch)]
    rows = torch.log_softmax(torch.cat(picked) @ model.embed.weight.T, -1)
    return np.asarray(rows.float().numpy())


def nucleus(lp: Rows, p: float) -> np.ndarray:
    """Membership in the smallest set of tokens whose probabilities reach p, row by row."""
    order = np.argsort(-lp, -1)
    ranked = np.exp(np.take_along_axis(lp, order, -1))
    keep = np.cumsum(ranked, -1) - ranked < p
    inside = np.zeros_like(keep)
    np.put_along_axis(inside, order, keep, -1)
    return inside


def upscale(
    beta: float, top_p: float = 1.0, clip: float = np.inf, plausible: float = 0.0
) -> Combine:
    """tuned + beta (base - reference), with the paper's filter, a clip, or a plausibility mask."""

    def combine(tuned: Rows, base: Rows, reference: Rows) -> Rows:
        delta = beta * np.clip(base - reference, -clip, clip)
        if top_p < 1.0:
            delta = np.where(nucleus(tuned, top_p), delta, 0.0)
        z = tuned + delta
        if plausible > 0.0:
            z = np.where(tuned >= tuned.max(-1, keepdims=True) + np.log(plausible), z, -np.inf)
        return z

    return combine


def proxy(alpha: float) -> Combine:
    """base + alpha (tuned - reference)."""
    return lambda tuned, base, reference: base + alpha * (tuned - reference)


@dataclass
class Outcome:
    """Per case: exact, all value tokens right, all other tokens right, and two sums of nll."""

    exact: np.ndarray
    fact: np.ndarray
    form: np.ndarray
    fact_nll: np.ndarray
    form_nll: np.ndarray


def chunks(items: list[Case], size: int) -> Iterator[list[Case]]:
    """Consecutive pieces of at most `size`."""
    for at in range(0, len(items), size):
        yield items[at : at + size]


def measure(
    items: list[Case], tuned: Llama, base: Llama, reference: Llama, recipes: dict[str, Combine]
) -> dict[str, Outcome]:
    """One outcome a recipe, arrays over the cases in their order."""
    found: dict[str, list[list[tuple[float, ...]]]] = {name: [] for name in recipes}
    for batch in chunks(items, 128):
        rows = [logprobs(m, batch) for m in (tuned, base, reference)]
        gold = np.concatenate([c.answer for c in batch])
        for name, combine in recipes.items():
            z = combine(*rows)
            right = z.argmax(-1) == gold
            peak = z.max(-1)
            norm = peak + np.log(np.exp(z - peak[:, None]).sum(-1))
            nll = norm - z[np.arange(len(gold)), gold]
            at = 0
            for c in batch:
                span, mask = slice(at, at + len(c.answer)), np.array(c.fact_mask)
                r, n = right[span], nll[span]
                right_parts = (r.all(), r[mask].all(), r[~mask].all())
                found[name].append((*right_parts, n[mask].sum(), n[~mask].sum()))
                at += len(c.answer)
    return {name: Outcome(*np.array(rows, dtype=np.float64).T) for name, rows in found.items()}


def alone(role: int) -> Combine:
    """One of the three models by itself: 0 tuned, 1 base, 2 reference."""
    return lambda *rows: rows[role]
