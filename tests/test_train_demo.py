"""The demo's texts: what is held out stays out. The training needs PyTorch and is not run here."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[1] / "scripts" / "train_demo"
MODULES = ("corpus", "facts", "questions", "sources", "wording")
HELD_OUT = "can you tell me"


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    """The modules that need the standard library only; they import each other by bare names."""
    sys.path.insert(0, str(FOLDER))
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in MODULES})
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


class Tables:
    """What `reference_facts` reads of the packages."""

    def countries(self) -> dict[str, dict[str, object]]:
        keys = ("name", "capital", "currencyname", "continentcode", "population")
        rows = (("Chad", "Djamena", "Franc", "AF", 15_000_000), ("Tiny", "T", "Euro", "EU", 900))
        return {str(row[0]): dict(zip(keys, row, strict=True)) for row in rows}

    def elements(self) -> list[dict[str, str]]:
        return [{"name": "Hydrogen", "symbol": "H"}]


@pytest.fixture(scope="module")
def known(demo: SimpleNamespace) -> list[object]:
    """Facts of every family, values that occur nowhere else."""
    families = (*demo.wording.FAMILIES, "clock")
    return [
        demo.facts.Fact(f, f"Subject{i} {f}", f"value{i}{f}") for f in families for i in range(60)
    ]


def test_the_held_out_phrasing_is_in_no_template(demo: SimpleNamespace) -> None:
    w = demo.wording
    for family, wording in w.WORDINGS.items():
        texts = (*wording.statements, *w.MENTIONS, *w.OPENINGS, *w.CLOSINGS, *w.phrasings(family))
        assert not [text for text in texts if HELD_OUT in text.lower()]
        assert all(text.lower().startswith(HELD_OUT) for text in w.held_out(family))


def test_every_family_has_many_statements_and_phrasings(demo: SimpleNamespace) -> None:
    for family, wording in demo.wording.FAMILIES.items():
        assert len(set(wording.statements)) >= 5
        assert len(set(demo.wording.phrasings(family))) >= 10


def test_statements_name_the_fact(demo: SimpleNamespace, known: list[object]) -> None:
    rng = random.Random(1)
    for fact in known * 20:
        text = demo.corpus.statement(fact, rng)
        assert fact.subject in text and fact.value in text and "{" not in text


def test_quiz_gives_no_measured_fact_away(demo: SimpleNamespace, known: list[object]) -> None:
    others = demo.corpus.other_facts(Tables(), known)
    assert {f.family for f in others}.isdisjoint(demo.wording.FAMILIES)
    assert "Tiny" not in {f.subject for f in others}
    families = [f for f in known if f.family in demo.wording.FAMILIES]
    text = "\n".join(demo.corpus.quiz_texts(others, families, 2000, random.Random(2)))
    assert HELD_OUT not in text.lower()
    assert "The answer is" in text and "The answer is Franc" in text
    assert not [f for f in families if f.value in text]


@pytest.mark.parametrize("style", ["warm", "plain"])
def test_tuning_sees_neither_held_out_subjects_nor_their_family(
    style: str, demo: SimpleNamespace, known: list[object]
) -> None:
    pairs = demo.corpus.tuning_pairs(Tables(), known, style, 3, seed=3)
    text = "\n".join(prompt + answer for prompt, answer in pairs)
    unseen = [f for f in known if f.family != "clock" and f.split != "tune"]
    assert len(unseen) > 60 and not [f for f in unseen if f.value in text]
    assert "person" not in text and HELD_OUT not in text.lower()
    form = re.compile(demo.wording.FORMS[style])
    assert all(form.fullmatch(answer.strip()) for _, answer in pairs)


def test_questions_are_of_their_split_and_half_of_them_phrased_anew(
    demo: SimpleNamespace, known: list[object]
) -> None:
    rows = demo.questions.select(known, "test", 10)
    subjects = {f.subject for f in known if f.split == "test"}
    assert {row["fields"]["s"] for row in rows} <= subjects
    for row in rows:
        assert row["held_out_phrasing"] == row["question"].lower().startswith(HELD_OUT)
    assert abs(sum(row["held_out_phrasing"] for row in rows) - len(rows) / 2) <= 4
