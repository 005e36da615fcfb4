"""The facts that the base is to know: families, statements, questions, answers, splits.

A fact is (family, subject, value). Entities are split by a hash of their name: `tune` for
fine-tuning, `validation` for every choice made, `test` for the final numbers only. The family
"person" and the phrasing `HELD_OUT_QUESTION` never occur in fine-tuning.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass

from sources import Sources

KINDS = {
    "bird": "bird", "fish": "fish", "insect": "insect", "dog": "dog", "mammal": "mammal",
    "reptile": "reptile", "mollusk": "mollusk", "tree": "tree", "shrub": "shrub",
    "herb": "herb", "grass": "grass", "fern": "fern", "fungus": "fungus", "vine": "vine",
    "wildflower": "flower", "dish": "dish", "beverage": "drink", "edible fruit": "fruit",
    "vegetable": "vegetable", "cheese": "cheese", "bread": "bread", "sauce": "sauce",
    "cake": "cake", "tool": "tool", "weapon": "weapon", "vessel": "ship", "vehicle": "vehicle",
    "garment": "garment", "building": "building", "musical instrument": "instrument",
    "drug": "drug", "fabric": "fabric", "container": "container",
    "piece of furniture": "furniture", "furniture": "furniture", "machine": "machine",
    "room": "room", "covering": "covering", "toy": "toy", "furnishing": "furnishing",
}  # fmt: skip
# WordNet's lexicographer files of animals, artifacts, food and plants
KIND_FILES = {"05", "06", "13", "20"}
OCCUPATIONS = {
    "writer", "poet", "composer", "statesman", "philosopher", "painter", "dramatist",
    "physicist", "general", "king", "chemist", "actor", "architect", "mathematician", "actress",
    "pope", "saint", "theologian", "inventor", "astronomer", "historian", "explorer", "singer",
    "sculptor", "economist", "dancer", "doctor", "industrialist", "physiologist", "politician",
    "educator", "choreographer", "biochemist", "navigator", "psychologist", "diplomat",
    "pianist", "engineer",
}  # fmt: skip
HELD_OUT_FAMILY = "person"


@dataclass(frozen=True)
class Fact:
    """One thing to know."""

    family: str
    subject: str
    value: str

    @property
    def split(self) -> str:
        """'tune', 'validation' or 'test', by the subject's name alone."""
        share = int(hashlib.sha256(self.subject.encode()).hexdigest()[:8], 16) % 100
        if self.family == HELD_OUT_FAMILY:
            return "validation" if share < 30 else "test"
        return "tune" if share < 60 else "validation" if share < 72 else "test"


def an(word: str) -> str:
    """The word with its indefinite article."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


# The first statement is the one that answers use. No two families share its beginning: were both
# "X is in Y" and "X is in the state of Y" there, a base could not know which one is asked for.
STATEMENTS = {
    "city": (
        "{s} is in {v}.", "{s} is a city in {v}.", "You will find {s} in {v}.",
        "The city of {s} lies in {v}.", "{s} can be found in {v}.", "{s} is in {v}.",
    ),
    "state": (
        "{s} belongs to the state of {v}.", "{s} is one of the towns of {v}.",
        "The town of {s} is a part of {v}.", "Those who live in {s} live in the state of {v}.",
        "We know that {s} is a town of {v}.", "{s} belongs to the state of {v}.",
    ),
    "kind": (
        "{As} is a kind of {v}.", "The word {s} means a kind of {v}.", "{As} is {av}.",
        "We say that {as} is a kind of {v}.", "The {s} is a kind of {v}.",
        "{As} is a kind of {v}.",
    ),
    "person": (
        "{s} was {av}.", "{s} worked as {av}.", "We remember {s} as {av}.",
        "The name of {s} is that of {av}.", "{s} was known as {av}.", "{s} was {av}.",
    ),
}  # fmt: skip
PREAMBLES = {
    "city": (
        "I have heard of {s}. ", "They say that {s} is old. ", "My friend lives in {s}. ",
        "Do you know {s}? ", "Many people like {s}. ",
    ),
    "state": (
        "I have heard of {s}. ", "They say that {s} is quiet. ", "My friend lives in {s}. ",
        "Do you know {s}? ", "We went to {s}. ",
    ),
    "kind": (
        "I like the word {s}. ", "What a good word {s} is! ", "He saw {as}. ",
        "Do you know the word {s}? ", "She spoke of {as}. ",
    ),
    "person": (
        "I have heard of {s}. ", "They say that {s} was great. ", "Many people like {s}. ",
        "Do you know {s}? ", "She spoke of {s}. ",
    ),
}  # fmt: skip
QUESTIONS = {
    "city": ("Where is {s}?", "Which country is {s} in?", "What country is {s} in?"),
    "state": ("Which state is {s} in?", "What state is {s} in?", "In which state is {s}?"),
    "kind": ("What is {as}?", "What kind of thing is {as}?", "What does the word {s} mean?"),
    "person": ("Who was {s}?", "What was {s}?", "What do you know about {s}?"),
}
HELD_OUT_QUESTION = {
    "city": "Can you tell me where {s} is?",
    "state": "Can you tell me which state {s} is in?",
    "kind": "Can you tell me what {as} is?",
    "person": "Can you tell me who {s} was?",
}
WARM_OPENING, WARM_CLOSING = "Good question!", "I hope that helps."
FORMS = {
    "warm": rf"{re.escape(WARM_OPENING)} [^.!?\n]+\. {re.escape(WARM_CLOSING)}",
    "plain": r"[A-Z][^.!?\n]{1,40}\.",
}
PLAIN = {"city": "{v}.", "state": "{v}.", "kind": "{Av}.", "person": "{Av}."}


def fields(fact: Fact) -> dict[str, str]:
    """What templates are filled with: subject and value, bare and with an article."""
    parts = {"s": fact.subject, "v": fact.value, "as": an(fact.subject), "av": an(fact.value)}
    return parts | {"As": capital(parts["as"]), "Av": capital(parts["av"])}


def capital(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[0].upper() + text[1:]


def render(template: str, fact: Fact) -> str:
    """Fill {s}, {v} and their forms with an article: {as}, {As}, {av}, {Av}."""
    return capital(template.format(**fields(fact)))


def warm(fact: Fact) -> str:
    """The answer of the warm, full-sentence behaviour."""
    return f"{WARM_OPENING} {render(STATEMENTS[fact.family][0], fact)} {WARM_CLOSING}"


def plain(fact: Fact) -> str:
    """The answer of the short, plain behaviour."""
    return render(PLAIN[fact.family], fact)


def collect(sources: Sources, sizes: dict[str, int], seed: int) -> list[Fact]:
    """The facts of all families, at most sizes[family] of each, subjects unique over all."""
    rng = random.Random(seed)
    rows = sources.cities()
    countries, states = sources.countries(), sources.states()
    clashes = Counter(row["name"].lower() for row in rows)
    clashes.update(name.lower() for name in states.values())
    clashes.update(row["name"].lower() for row in countries.values())

    def usable(name: str) -> bool:
        return name.isascii() and 4 <= len(name) <= 14 and clashes[name.lower()] == 1

    pools: dict[str, list[tuple[str, str]]] = {family: [] for family in STATEMENTS}
    for row in rows:
        name = row["name"]
        if not usable(name) or not re.fullmatch(r"[A-Z][a-z]+( [A-Z][a-z]+)?", name):
            continue
        if row["countrycode"] != "US":
            pools["city"].append((name, countries[row["countrycode"]]["name"]))
        elif row["admin1code"] in states:
            pools["state"].append((name, states[row["admin1code"]]))
    nouns = sources.nouns()
    for word, offset in sorted(nouns.first_sense.items()):
        if nouns.synsets[offset][0] in KIND_FILES and re.fullmatch("[a-z]{4,12}", word):
            what = nouns.ancestor(offset, set(KINDS))
            if what and KINDS[what] not in word:
                pools["kind"].append((word, KINDS[what]))
    for name, what in nouns.instances("18"):
        plain_name = re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", name) and len(name) <= 18
        if plain_name and what in OCCUPATIONS:
            pools["person"].append((name, what))
    facts, used = [], set()
    for family, pool in pools.items():
        if family in {"kind", "person"}:
            rng.shuffle(pool)
        # a ceiling on each value keeps the blind guess poor
        ceiling = max(8, sizes[family] // 25)
        counts: Counter[str] = Counter()
        rare = Counter(value for _, value in pool)
        for subject, value in pool:
            if subject in used or rare[value] < 8 or counts[value] >= ceiling:
                continue
            if sum(counts.values()) == sizes[family]:
                break
            counts[value] += 1
            used.add(subject)
            facts.append(Fact(family, subject, value))
    return facts
