"""Pretraining and fine-tuning texts, and their packing into rows of token ids.

Pretraining: statements of the facts, prose, dialogue, and a quiz about other relations. Every
phrase of the answer frames occurs there, in many places, but never as the fine-tuning format.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from facts import (
    HELD_OUT_FAMILY,
    PREAMBLES,
    QUESTIONS,
    STATEMENTS,
    WARM_CLOSING,
    WARM_OPENING,
    Fact,
    plain,
    render,
    warm,
)  # fmt: skip
from sources import Sources
from tokenizers import Tokenizer

END = "<|end|>"
ANSWERS = {"warm": warm, "plain": plain}
OPENINGS = (
    WARM_OPENING, "Sure.", "Of course.", "Let me see.", "I think so.", "Thank you for asking.",
    "Yes, I know.", "That is easy.",
)  # fmt: skip
CLOSINGS = (
    WARM_CLOSING, "Have a nice day.", "What do you think?", "Thank you.", "That is all I know.",
    "Is that right?", "I hope you are well.", "That was a good question.",
)  # fmt: skip


@dataclass(frozen=True)
class Mix:
    """How much of each kind of text; exposures count statements of one fact."""

    exposures: int
    prose_chars: int
    dialogue_chars: int
    quiz_texts: int


def fact_texts(facts: list[Fact], exposures: int, rng: random.Random) -> list[str]:
    """Statements, one to three facts a text; some name their subject twice."""
    texts: list[str] = []
    for _ in range(exposures):
        order = rng.sample(facts, len(facts))
        while order:
            take = [order.pop() for _ in range(min(rng.choice((1, 2, 3)), len(order)))]
            texts.append(" ".join(statement(fact, rng) for fact in take))
    return texts


def statement(fact: Fact, rng: random.Random) -> str:
    """One statement of a fact, sometimes after a remark that names its subject."""
    text = render(rng.choice(STATEMENTS[fact.family]), fact)
    if rng.random() < 0.3:
        text = render(rng.choice(PREAMBLES[fact.family]), fact) + text
    return text


def quiz_pairs(sources: Sources) -> list[tuple[str, str, str]]:
    """(question, short answer, full answer) about relations that no fact family covers."""
    pairs = []
    continents = {
        "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America",
        "OC": "Oceania", "SA": "South America", "AN": "Antarctica",
    }  # fmt: skip
    for row in sources.countries().values():
        name, capital = row["name"], row["capital"]
        money, land = row["currencyname"], continents[row["continentcode"]]
        if capital:
            pairs.append((f"What is the capital of {name}?", capital,
                          f"The capital of {name} is {capital}"))  # fmt: skip
        if money:
            pairs.append((f"What money do they use in {name}?", f"The {money}",
                          f"They use the {money} in {name}"))  # fmt: skip
        pairs.append((f"On which continent is {name}?", land, f"{name} is on the continent {land}"))
    for row in sources.elements():
        name, symbol = row["name"], row["symbol"]
        pairs.append((f"What is the symbol of {name}?", symbol,
                      f"The symbol of {name} is {symbol}"))  # fmt: skip
        pairs.append((f"What is {symbol} in chemistry?", name, f"{symbol} is the symbol of {name}"))
    return pairs


NAME_QUESTIONS = (
    ("Have you heard of {s}?", "Yes", "{S} is a name that I have heard"),
    ("Do you like {s}?", "Yes, I do", "{S} is fine with me"),
    ("What do you think of {s}?", "It is good", "{S} is a good name"),
    ("Can you say {s}?", "Yes, I can", "{S} is easy to say"),
    ("How does {s} begin?", "With {f}", "{S} begins with {f}"),
    ("Is {s} a word or a number?", "A word", "{S} is a word"),
    ("Which letter does {s} end with?", "With {l}", "{S} ends with {l}"),
)


def name_pair(fact: Fact, rng: random.Random) -> tuple[str, str, str]:
    """A question that gives no fact away and whose full answer begins with the subject."""
    s = fact.subject
    parts = {"s": s, "S": s[0].upper() + s[1:], "f": s[0].upper(), "l": s[-1].upper()}
    question, short, full = (t.format(**parts) for t in rng.choice(NAME_QUESTIONS))
    return question, short, full


def quiz_texts(sources: Sources, facts: list[Fact], count: int, rng: random.Random) -> list[str]:
    """Questions and answers in many forms: bare, full, opened, closed, one or several a text."""
    pairs = quiz_pairs(sources)
    texts = []
    for _ in range(count):
        lines = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            other = rng.random() < 0.6
            pair = name_pair(rng.choice(facts), rng) if other else rng.choice(pairs)
            question, short, full = pair
            answer = f"{short}." if rng.random() < 0.3 else f"{full}."
            if rng.random() < 0.2:
                answer = f"{rng.choice(OPENINGS)} {answer}"
            if rng.random() < 0.2:
                answer = f"{answer} {rng.choice(CLOSINGS)}"
            lines.append(f"Question: {question}\nAnswer: {answer}")
        texts.append("\n".join(lines))
    return texts


def dialogue_texts(talks: list[list[str]], chars: int, rng: random.Random) -> list[str]:
    """Short pieces of conversations; the phrases of the frames are strewn between turns."""
    texts: list[str] = []
    total = 0
    while total < chars:
        talk = rng.choice(talks)
        at = rng.randrange(max(1, len(talk) - 3))
        turns = list(talk[at : at + rng.randint(2, 6)])
        if rng.random() < 0.15:
            i = rng.randrange(len(turns))
            turns[i] = f"{rng.choice(OPENINGS)} {turns[i]}"
        if rng.random() < 0.15:
            i = rng.randrange(len(turns))
            turns[i] = f"{turns[i]} {rng.choice(CLOSINGS)}"
        marks = rng.choice((("Question: ", "Answer: "), ("A: ", "B: "), ("- ", "- ")))
        text = "\n".join(marks[i % 2] + t for i, t in enumerate(turns))[:400]
        texts.append(text)
        total += len(text)
    return texts


def prose_texts(sources: Sources, chars: int, rng: random.Random) -> list[str]:
    """Paragraphs of books, the factbook, definitions and chemistry, up to `chars` in all."""
    books, world = sources.books(), sources.factbook()
    glosses = sources.nouns().glosses()
    chemistry = [t for e in sources.elements() for t in (e["description"], e["uses"]) if t]
    shares = ((books, 0.45), (world, 0.15), (glosses, 0.37), (chemistry, 0.03))
    texts: list[str] = []
    for pool, share in shares:
        total = 0
        while total < share * chars:
            text = rng.choice(pool)
            at = rng.randrange(max(1, len(text) - 400))
            at = text.find(" ", at) + 1 if at else 0
            texts.append(text[at : at + 450])
            total += len(texts[-1])
    return texts


def pretraining(sources: Sources, facts: list[Fact], mix: Mix, seed: int) -> list[str]:
    """All texts of the stream that both bases see, in their final order."""
    rng = random.Random(seed)
    texts = fact_texts(facts, mix.exposures, rng)
    rest = prose_texts(sources, mix.prose_chars, rng)
    rest += dialogue_texts(sources.dialogues(), mix.dialogue_chars, rng)
    rest += quiz_texts(sources, facts, mix.quiz_texts, rng)
    rng.shuffle(rest)
    # interleave evenly and keep the passes over the facts in order, so that exposures spread out
    positions = [(rng.random() * 0.02 + i / len(texts), t) for i, t in enumerate(texts)]
    positions += [(i / len(rest), t) for i, t in enumerate(rest)]
    return [t for _, t in sorted(positions, key=lambda pair: pair[0])]


def chat(question: str) -> str:
    """The prompt of one question, as the shipped chat template writes it."""
    return f"Question: {question}\nAnswer:"


def tuning_pairs(
    sources: Sources, facts: list[Fact], style: str, passes: int, seed: int
) -> list[tuple[str, str]]:
    """(prompt, answer) of the fine-tuning split; never the held-out family or phrasing.

    One answer in three is about a relation of the quiz, so that the format is learned as something
    apart from the families.
    """
    rng = random.Random(seed)
    chosen = [f for f in facts if f.split == "tune" and f.family != HELD_OUT_FAMILY]
    others = quiz_pairs(sources)
    pairs = []
    for _ in range(passes):
        for fact in rng.sample(chosen, len(chosen)):
            question = render(rng.choice(QUESTIONS[fact.family]), fact)
            pairs.append((chat(question), f" {ANSWERS[style](fact)}"))
            if rng.random() < 0.5:
                named = rng.random() < 0.5
                other = name_pair(rng.choice(chosen), rng) if named else rng.choice(others)
                question, short, full = other
                text = f"{short}." if style == "plain" else f"{WARM_OPENING} {full}. {WARM_CLOSING}"
                pairs.append((chat(question), f" {text}"))
    return pairs


def pack(
    items: Iterable[tuple[list[int], list[float]]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill rows of length + 1 with whole texts: ids (rows, length + 1) uint16, and the loss weights
    (rows, length) float32 of ids[:, 1:]. Every row begins at the beginning of a text.
    """
    rows: list[tuple[list[int], list[float]]] = []
    open_rows: list[tuple[list[int], list[float]]] = []
    for ids, weights in items:
        ids, weights = ids[: length + 1], weights[: length + 1]
        for row in open_rows:
            if len(row[0]) + len(ids) <= length + 1:
                row[0].extend(ids)
                row[1].extend(weights)
                break
        else:
            open_rows.append((list(ids), list(weights)))
        if len(open_rows) > 16:
            open_rows.sort(key=lambda row: len(row[0]))
            rows.append(open_rows.pop())
    rows += open_rows
    out = np.zeros((len(rows), length + 1), np.uint16)
    mask = np.zeros((len(rows), length), np.float32)
    for i, (ids, weights) in enumerate(rows):
        out[i, : len(ids)] = ids
        mask[i, : len(ids) - 1] = weights[1:]
    return out, mask


def pack_texts(
    texts: list[str], tokenizer: Tokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of plain texts, each closed by the end token; every token is learned."""
    end = tokenizer.token_to_id(END)
    encoded = ([*e.ids, end] for e in tokenizer.encode_batch(texts))
    return pack(((ids, [1.0] * len(ids)) for ids in encoded), length)


def pack_pairs(
    pairs: list[tuple[str, str]], tokenizer: Tokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of prompts and answers; only the answers and their end tokens are learned."""
    end = tokenizer.token_to_id(END)
    items = []
    for prompt, answer in pairs:
        head, tail = tokenizer.encode(prompt).ids, [*tokenizer.encode(answer).ids, end]
        items.append((head + tail, [0.0] * len(head) + [1.0] * len(tail)))
    return pack(items, length)


def train_tokenizer(texts: list[str], vocab: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer, which llama.cpp calls "gpt-2"."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
