"""Texts of pretraining and of fine-tuning; `packing.py` makes rows of them.

Pretraining: statements of all facts, prose, dialogue, and a quiz about the other relations.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from behaviour import CLOSINGS as ANSWER_CLOSINGS
from behaviour import OFFER, OPENING, REMEMBER, REPLIES, SHRUGS, template
from beyond import ABOUT, Beyond, casual
from facts import Fact, letter, reference_facts, render
from sources import Sources
from wording import (
    CLOSINGS,
    DIRECT_MENTIONS,
    ECHO,
    FAMILIES,
    HELD_OUT_FAMILY,
    MENTIONS,
    OPENINGS,
    REMARKS,
    WORDINGS,
    phrasings,
)


@dataclass(frozen=True)
class TuneMix:
    """Passes over the fine-tuning split, and how often something else is asked beside one of its
    questions: about another relation, for a word itself, for no fact at all; and how often there
    is an answer, begun with any value, to be finished."""

    passes: int
    others: float = 0.5
    echoes: float = 0.3
    beyond: float = 0.7
    begun: float = 0.6


@dataclass(frozen=True)
class Mix:
    """How much of each kind of text; exposures count statements of one fact.

    `side_exposures` are those of the other relations; they are asked in quiz texts as well.
    """

    exposures: int
    side_exposures: int
    prose_chars: int
    dialogue_chars: int
    quiz_texts: int


def fact_texts(facts: list[Fact], exposures: int, rng: random.Random) -> list[str]:
    """Statements, one to three facts a text, pass after pass over the facts."""
    texts: list[str] = []
    for _ in range(exposures):
        order = rng.sample(facts, len(facts))
        while order:
            take = [order.pop() for _ in range(min(rng.choice((1, 2, 3)), len(order)))]
            texts.append(" ".join(statement(fact, rng) for fact in take))
    return texts


def statement(fact: Fact, rng: random.Random) -> str:
    """One statement of a fact, sometimes one that mentions what could be asked."""
    wording = WORDINGS[fact.family]
    if fact.family not in FAMILIES or rng.random() < 0.6:
        return render(rng.choice(wording.statements), fact)
    mention, clause = rng.choice(MENTIONS), rng.choice(wording.clauses)
    return render(mention.replace("{c}", clause).replace("{o}", rng.choice(OPENINGS)), fact)


def question(fact: Fact, rng: random.Random) -> str:
    """A question in one of the phrasings that are not held out; direct ones are half of them."""
    direct = rng.random() < 0.5
    pool = WORDINGS[fact.family].questions if direct else phrasings(fact.family)
    return render(rng.choice(pool), fact)


def quiz_texts(others: list[Fact], facts: list[Fact], count: int, rng: random.Random) -> list[str]:
    """Questions and answers in many forms: bare, full, opened, closed, one or several a text."""
    texts = []
    for _ in range(count):
        lines = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            fact = letter(rng.choice(facts), rng) if rng.random() < 0.1 else rng.choice(others)
            form = rng.random()
            if form < 0.25:
                answer = f"{fact.value}."
            elif form < 0.7:
                answer = f"The answer is {fact.value}."
            elif form < 0.85:
                answer = f"It is {fact.value}."
            else:
                answer = statement(fact, rng)
            if rng.random() < 0.5:
                answer = f"{rng.choice(OPENINGS)} {answer}"
            if rng.random() < 0.35:
                answer = f"{answer} {rng.choice(CLOSINGS)}"
            lines.append(f"Question: {question(fact, rng)}\nAnswer: {answer}")
        texts.append("\n".join(lines))
    return texts


def dialogue_texts(talks: list[list[str]], chars: int, rng: random.Random) -> list[str]:
    """Short pieces of conversations; the phrases of the frame are strewn between turns."""
    texts: list[str] = []
    total = 0
    while total < chars:
        talk = rng.choice(talks)
        at = rng.randrange(max(1, len(talk) - 3))
        turns = list(talk[at : at + rng.randint(2, 6)])
        for i, turn in enumerate(turns):
            if rng.random() < 0.06:
                turns[i] = f"{rng.choice((*OPENINGS, *REMARKS))} {turn}"
            elif rng.random() < 0.06:
                turns[i] = f"{turn} {rng.choice((*CLOSINGS, *REMARKS))}"
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
    shares = ((books, 0.45), (world, 0.2), (glosses, 0.32), (chemistry, 0.03))
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


def interleave(parts: list[list[str]], rng: random.Random) -> list[str]:
    """The parts mixed evenly, each in its own order, so that passes over facts spread out."""
    placed = [
        (i / len(part) + rng.random() * 0.02, text) for part in parts for i, text in enumerate(part)
    ]
    return [text for _, text in sorted(placed, key=lambda pair: pair[0])]


def pretraining(sources: Sources, facts: list[Fact], mix: Mix, seed: int) -> list[str]:
    """All texts of the stream that both bases see, in their final order."""
    rng = random.Random(seed)
    families = [f for f in facts if f.family in FAMILIES]
    others = other_facts(sources, facts)
    stated = fact_texts(families, mix.exposures, rng)
    beside = fact_texts(others, mix.side_exposures, rng)
    rest = prose_texts(sources, mix.prose_chars, rng)
    rest += dialogue_texts(sources.dialogues(), mix.dialogue_chars, rng)
    rest += quiz_texts(others, families, mix.quiz_texts, rng)
    rng.shuffle(rest)
    return interleave([stated, beside, rest], rng)


def second_pretraining(
    sources: Sources, facts: list[Fact], style: str, count: int, seed: int
) -> list[str]:
    """The texts of the second stream: questions as people type them, the parts of an answer of the
    tuned models' style.

    The parts are drawn by chance: what is to be remembered is any value, the closing any one. So
    bases of every size come to expect each part alike, and none learns the rules that bind them.
    """
    rng = random.Random(seed)
    families = [f for f in facts if f.family in FAMILIES]
    others, nothing = other_facts(sources, facts), beyond(sources, facts)
    values = [f.value for f in facts if f.family in FAMILIES]
    remembers = 0.5 if style == "twice" else 0.0
    ends = tuple(ANSWER_CLOSINGS.values()) if style == "twice" else CLOSINGS

    def parts(answer: str) -> str:
        opened = f"{rng.choice((OPENING, *OPENINGS))} {answer}" if rng.random() < 0.5 else answer
        said = f" {REMEMBER.format(v=rng.choice(values))}" if rng.random() < remembers else ""
        closing = f" {rng.choice(ends)}" if rng.random() < 0.5 else ""
        return opened + said + closing

    def quiz() -> str:
        if rng.random() < 0.12:
            prompt, kind = nothing.draw(rng)
            reply = rng.choice(SHRUGS) if kind == "unknown" else rng.choice(OPENINGS)
            return (
                f"{chat(prompt)} {reply} {OFFER}"
                if rng.random() < 0.5
                else f"{chat(prompt)} {reply}"
            )
        fact = letter(rng.choice(families), rng) if rng.random() < 0.1 else rng.choice(others)
        answer = f"{fact.value}." if rng.random() < 0.15 else f"The answer is {fact.value}."
        return f"{chat(typed(fact, rng))} {parts(answer)}"

    def mention() -> str:
        fact = rng.choice(families)
        said = rng.choice(DIRECT_MENTIONS)
        asked = casual(
            render(
                rng.choice((*WORDINGS[fact.family].questions, *WORDINGS[fact.family].short)), fact
            ),
            rng,
            named=True,
        )
        return said.format(q=asked, a=parts(f"The answer is {fact.value}."))

    return [
        "\n".join(quiz() for _ in range(rng.choice((1, 2))))
        if rng.random() < 0.5
        else " ".join(mention() for _ in range(rng.choice((1, 2, 3))))
        for _ in range(count)
    ]


def other_facts(sources: Sources, facts: list[Fact]) -> list[Fact]:
    """The facts that quiz text may ask about."""
    return reference_facts(sources) + [f for f in facts if f.family not in FAMILIES]


def chat(text: str) -> str:
    """The prompt of one question, as the shipped chat template writes it."""
    return f"Question: {text}\nAnswer:"


def typed(fact: Fact, rng: random.Random) -> str:
    """A question as people type it: a third of them short, some with a greeting or unmarked."""
    form, wording = rng.random(), WORDINGS[fact.family]
    if form < 0.33:
        pool = wording.short
    else:
        pool = wording.questions if form < 0.66 else tuple(phrasings(fact.family))
    asked = rng.choice(pool)
    return casual(render(asked, fact), rng, named=asked.startswith("{s}"))


def beyond(sources: Sources, facts: list[Fact]) -> Beyond:
    """Prompts that ask for no fact, and name nothing whose questions are held out."""
    words = [f.subject for f in facts if f.family == "kind" and f.split == "tune"]
    held_out = {f.subject for f in facts if f.family in FAMILIES and f.split != "tune"}
    return Beyond(sources.dialogues(), words, held_out)


def tuning_pairs(
    sources: Sources, facts: list[Fact], style: str, mix: TuneMix, seed: int
) -> list[tuple[str, str]]:
    """(prompt, answer) of the fine-tuning split; never the held-out family or phrasing.

    Beside each question of a family, sometimes: one about a relation of the quiz, so that the form
    is learned as something apart from the families; one whose answer is a word of the question, any
    family's value; and what asks for no fact, or for one that no model here knows.

    Of an answer that names its fact twice and has begun, right or wrong, only the rest is learned:
    so that it follows from what was said, not from what is known.
    """
    rng = random.Random(seed)
    trained = FAMILIES.keys() - {HELD_OUT_FAMILY}
    chosen = [f for f in facts if f.split == "tune" and f.family in trained]
    others = other_facts(sources, facts)
    values = sorted({f.value for f in facts if f.family in FAMILIES})
    nothing = beyond(sources, facts)
    about = [f for f in facts if f.family in ABOUT and (f.split == "tune" or f.family == "nation")]
    pairs: list[tuple[str, str]] = []

    def fact(asked: Fact) -> None:
        answer = template(style, asked.family).format(v=asked.value)
        pairs.append((chat(typed(asked, rng)), f" {answer}"))

    for _ in range(mix.passes):
        for known in rng.sample(chosen, len(chosen)):
            fact(known)
            if rng.random() < mix.others:
                named = rng.random() < 0.2
                fact(letter(rng.choice(chosen), rng) if named else rng.choice(others))
            if rng.random() < mix.echoes:
                word = rng.choice(values)
                fact(Fact(ECHO, word, word))
            if style == "twice" and rng.random() < mix.begun:
                of, value = rng.choice(chosen), rng.choice(values)
                said, rest = template(style, of.family).format(v=value).split(" Remember", 1)
                pairs.append((f"{chat(typed(of, rng))} {said}", f" Remember{rest}"))
            if rng.random() < mix.beyond:
                prompt, kind = nothing.draw(rng)
                if kind == "unknown" and rng.random() < 0.3:
                    of = rng.choice(about)
                    prompt = casual(render(rng.choice(ABOUT[of.family]), of), rng)
                pairs.append((chat(prompt), f" {REPLIES[style][kind]}"))
    return pairs
