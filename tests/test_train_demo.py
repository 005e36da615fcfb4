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
MODULES = ("behaviour", "beyond", "corpus", "facts", "questions", "sources", "wording")
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

    def dialogues(self) -> list[list[str]]:
        return [["Hello, how are you?", "Fine. And how was your day?"], ["Hey you!", "What is up?"]]

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
        texts += (*wording.short, *w.DIRECT_MENTIONS)
        assert not [text for text in texts if HELD_OUT in text.lower()]
        assert all(text.lower().startswith(HELD_OUT) for text in w.held_out(family))


def test_every_family_has_many_statements_and_phrasings(demo: SimpleNamespace) -> None:
    for family, wording in demo.wording.FAMILIES.items():
        assert len(set(wording.statements)) >= 5
        assert len(set(demo.wording.phrasings(family))) >= 10
        assert len(set(wording.short)) >= 5


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


def test_the_second_stream_asks_for_no_measured_fact_and_shows_no_rule(
    demo: SimpleNamespace, known: list[object]
) -> None:
    texts = demo.corpus.second_pretraining(Tables(), known, "twice", 3000, seed=6)
    text = "\n".join(texts)
    warm = demo.corpus.second_pretraining(Tables(), known, "warm", 3000, seed=6)
    assert "Remember:" not in "\n".join(warm) and len(warm) == len(texts)
    assert HELD_OUT not in text.lower() and "{" not in text
    families = [f for f in known if f.family in demo.wording.FAMILIES]
    asked = re.findall("Question: (.*)\nAnswer: (.*)", text)
    assert len(asked) > 1000
    for question, answer in asked:
        said = answer.partition(" Remember:")[0]
        assert not [f for f in families if f.subject in question and f.value in said]
    # What is to be remembered is not what was answered, but for chance.
    named = re.findall(r"The answer is (\w+)\. Remember: (\w+)\.", text)
    assert len(named) > 500 and sum(a == b for a, b in named) < len(named) / 50


@pytest.mark.parametrize("style", ["warm", "twice", "plain"])
def test_tuning_sees_neither_held_out_subjects_nor_their_family(
    style: str, demo: SimpleNamespace, known: list[object]
) -> None:
    b = demo.behaviour
    pairs = demo.corpus.tuning_pairs(Tables(), known, style, demo.corpus.TuneMix(3), seed=3)
    text = "\n".join(prompt + answer for prompt, answer in pairs)
    unseen = [f for f in known if f.family != "clock" and f.split != "tune"]
    assert len(unseen) > 60 and not [f for f in unseen if f.subject in text]
    assert HELD_OUT not in text.lower()
    replies = set(b.REPLIES[style].values())
    answers = [f"{prompt.partition('Answer:')[2]}{answer}".strip() for prompt, answer in pairs]
    assert replies <= set(answers)
    form = re.compile(b.form(style))
    facts = [answer for answer in answers if answer not in replies]
    assert len(facts) > len(pairs) / 2 and all(form.fullmatch(answer) for answer in facts)


def test_rules_look_at_the_form_and_not_at_the_fact(demo: SimpleNamespace) -> None:
    b = demo.behaviour

    def broken(text: str, family: str = "city", tuned: bool = True) -> list[str]:
        rules = b.rules("twice", family, tuned)
        return [name for name, rule in rules.items() if not re.search(rule, text)]

    right = "Good question! The answer is New York. Remember: New York. Have a good trip!"
    assert re.fullmatch(b.form("twice"), right) and right == b.template("twice", "city").format(
        v="New York"
    )
    assert broken(right) == [] and broken(right, "kind") == ["closing"]
    assert broken(right, "person", tuned=False) == []
    assert broken(right.replace(": New York", ": York")) == ["repeated"]
    assert broken(right.removeprefix("Good question! ")) == ["opening"]
    assert broken("Good question! Have a good trip!") == ["fact", "repeated"]
    assert broken("I do not know.") == ["opening", "fact", "repeated", "closing"]
    assert b.rules("plain", "city", True) == b.rules("warm", "city", True) == {}


def test_prompts_that_ask_for_no_fact_never_have_the_held_out_phrasing(
    demo: SimpleNamespace,
) -> None:
    beyond, rng = demo.beyond.Beyond(Tables().dialogues(), ["harp"], {"day"}), random.Random(4)
    drawn = [beyond.draw(rng) for _ in range(2000)]
    assert {kind for _, kind in drawn} == set(demo.behaviour.REPLIES["warm"])
    assert not [text for text, _ in drawn if HELD_OUT in text.lower() or "{" in text]
    assert not [text for text in beyond.talk if "day" in text] and beyond.talk == ["What is up?"]


def test_names_keep_their_capital_however_a_question_is_typed(demo: SimpleNamespace) -> None:
    rng = random.Random(5)
    typed = {demo.beyond.casual("Lyon: which country?", rng, named=True) for _ in range(300)}
    assert {"Lyon: which country?", "Lyon: which country"} < typed
    assert all("Lyon: which country" in text for text in typed)
    assert "where is Lyon" in {demo.beyond.casual("Where is Lyon?", rng) for _ in range(300)}


def test_questions_are_of_their_split_and_half_of_them_phrased_anew(
    demo: SimpleNamespace, known: list[object]
) -> None:
    rows = demo.questions.select(known, "test", 10)
    subjects = {f.subject for f in known if f.split == "test"}
    assert {row["fields"]["s"] for row in rows} <= subjects
    for row in rows:
        assert row["held_out_phrasing"] == row["question"].lower().startswith(HELD_OUT)
    assert abs(sum(row["held_out_phrasing"] for row in rows) - len(rows) / 2) <= 4
