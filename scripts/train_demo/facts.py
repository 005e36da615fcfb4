"""What the base is to know: facts of the measured families and of the other relations; splits.

Entities of a family are split by a hash of their name: `tune` for fine-tuning, `validation` for
every choice made, `test` for the final numbers only. The family "person" never occurs in tuning.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass

from sources import Sources
from wording import FAMILIES, HELD_OUT_FAMILY, an, capital

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
CONTINENTS = {
    "AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America",
    "OC": "Oceania", "SA": "South America", "AN": "Antarctica",
}  # fmt: skip


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
        return "tune" if share < 50 else "validation" if share < 67 else "test"


def fields(fact: Fact) -> dict[str, str]:
    """What templates are filled with: subject and value, bare and with an article."""
    return {"s": fact.subject, "v": fact.value, "as": an(fact.subject), "av": an(fact.value)}


def render(template: str, fact: Fact) -> str:
    """Fill {s}, {v}, {as} and {av}; answers keep the case of the value, statements begin big."""
    return capital(template.format(**fields(fact)))


def collect(sources: Sources, sizes: dict[str, int], seed: int) -> list[Fact]:
    """The facts of all families, at most sizes[family] of each, subjects unique over all."""
    rng = random.Random(seed)
    rows = sources.cities()
    countries, states = sources.countries(), sources.states()
    clashes = Counter(row["name"].lower() for row in rows)
    clashes.update(name.lower() for name in states.values())
    clashes.update(row["name"].lower() for row in countries.values())

    def usable(name: str) -> bool:
        plain = re.fullmatch(r"[A-Z][a-z]+( [A-Z][a-z]+)?", name)
        return bool(plain) and 4 <= len(name) <= 14 and clashes[name.lower()] == 1

    pools: dict[str, list[tuple[str, str]]] = {
        family: [] for family in (*FAMILIES, "clock", "nation")
    }
    for row in rows:
        if not usable(row["name"]):
            continue
        if row["countrycode"] != "US":
            pools["city"].append((row["name"], countries[row["countrycode"]]["name"]))
            zone = row["timezone"].split("/")[-1].replace("_", " ")
            pools["clock"].append((row["name"], zone))
        elif row["admin1code"] in states:
            pools["state"].append((row["name"], states[row["admin1code"]]))
    nouns = sources.nouns()
    for word, offset in sorted(nouns.first_sense.items()):
        if nouns.synsets[offset][0] in KIND_FILES and re.fullmatch("[a-z]{4,12}", word):
            what = nouns.ancestor(offset, set(KINDS))
            if what and KINDS[what] not in word:
                pools["kind"].append((word, KINDS[what]))
    for name, what, nation in nouns.people():
        if re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+", name) and len(name) <= 18:
            if what in OCCUPATIONS:
                pools["person"].append((name, what))
            if nation:
                pools["nation"].append((name, nation))
    facts: list[Fact] = []
    used: set[str] = set()
    for family, pool in pools.items():
        if family not in {"city", "state"}:
            rng.shuffle(pool)
        # a ceiling on each value keeps the blind guess poor
        ceiling = max(8, sizes[family] // 25)
        counts: Counter[str] = Counter()
        often = Counter(value for _, value in pool)
        for subject, value in pool:
            if subject in used or often[value] < 8 or counts[value] >= ceiling:
                continue
            if sum(counts.values()) == sizes[family]:
                break
            counts[value] += 1
            used.add(subject)
            facts.append(Fact(family, subject, value))
    return facts


def reference_facts(sources: Sources) -> list[Fact]:
    """Countries and elements: the small relations that quiz text asks about."""
    out = []
    for row in sources.countries().values():
        name = row["name"]
        if row["population"] < 1_000_000:
            continue
        out.append(Fact("continent", name, CONTINENTS[row["continentcode"]]))
        if row["capital"]:
            out.append(Fact("capital", name, row["capital"]))
        if row["currencyname"]:
            out.append(Fact("money", name, row["currencyname"]))
    for row in sources.elements()[:100]:
        out.append(Fact("symbol", row["name"], row["symbol"]))
        out.append(Fact("element", row["symbol"], row["name"]))
    return out


def letter(fact: Fact, rng: random.Random) -> Fact:
    """A question about a subject's name, which gives its fact away to nobody."""
    which, at = rng.choice((("first letter", 0), ("last letter", -1)))
    return Fact(which, fact.subject, fact.subject[at].upper())
