"""Influence: numbers against plain numpy, who won, measures, classes of token, surveys."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bench_inspect import measure as measure_cost
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.decoding.score import text_rows
from eftlocal.errors import PromptError, UsageError
from eftlocal.study.influence import compare, inspect
from eftlocal.study.inspection import (
    AGREED,
    COMBINATION,
    NOBODY,
    SHARED,
    Inspection,
    measure_of,
    measures_for,
    measures_of,
    sides,
    texts_of,
    won,
)
from eftlocal.study.survey import CLASSES, SurveyPrompt, classes_of, read_prompts, survey

PROMPT = "Where is Braga?"
ANSWER = " Braga is in the north, because 12 + 30 = 42.\n"
GREEDY = Sampling(temperature=0.0)
TRIO = ("base", "tuned", "reference")
NONE = np.empty(0, dtype=np.intp)


def softmax(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def rows_of(emulator: Emulator, answer: str, recipe: Recipe) -> dict[str, NDArray[np.float32]]:
    """(n, vocab) logits of every role and of the combination, by way of `Ensemble.score`."""
    tokens = emulator.models["tuned"].tokenize(answer)
    found: dict[str, list[NDArray[np.float32]]] = {}
    for part in (recipe, *map(Recipe.single, emulator.roles)):
        name, prompts = COMBINATION if part is recipe else part.name, emulator.tokenize(PROMPT)
        for _, row, _ in text_rows(emulator.ensemble, prompts, tokens, recipe=part):
            found.setdefault(name, []).append(row.copy())
    return {name: np.array(rows) for name, rows in found.items()}


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe.upscale(),
        Recipe.proxy(1.5).stabilise(delta_top_p=0.9),
        Recipe.upscale().stabilise(first_tokens=3),
        Recipe.realign(1.5),
        Recipe.single("base"),
    ],
    ids=str,
)
def test_the_numbers_are_those_of_plain_numpy(demo: Emulator, recipe: Recipe) -> None:
    found = inspect(demo, PROMPT, ANSWER, recipe=recipe, candidates=4)
    chances = {name: softmax(rows) for name, rows in rows_of(demo, ANSWER, recipe).items()}
    assert found.distributions == (*TRIO, COMBINATION) and found.text == ANSWER
    for i, token in enumerate(found.tokens):
        for name, of in chances.items():
            assert token.probabilities[name] == pytest.approx(of[i, token.token], abs=1e-6)
            assert token.ranks[name] == 1 + np.sum(of[i] > of[i, token.token])
            best = np.sort(of[i])[::-1][:4]
            assert [c.probability for c in token.candidates[name]] == pytest.approx(best, abs=1e-6)
            assert all(
                of[i, c.token] == pytest.approx(c.probability, abs=1e-6)
                for c in token.candidates[name]
            )
        for (one, other), distance in token.distances.items():
            expected = 0.5 * np.abs(chances[one][i] - chances[other][i]).sum()
            assert distance == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("role", TRIO)
def test_a_role_alone_is_no_distance_from_itself(tiny: Emulator, role: str) -> None:
    found = inspect(tiny, "Hello", " there you are", recipe=Recipe.single(role))
    for token in found.tokens:
        assert token.logprobs[COMBINATION] == token.logprobs[role]
        assert token.candidates[COMBINATION] == token.candidates[role]
        assert token.distances.get((COMBINATION, role), 0.0) == 0.0
        # Every other role is scored too, though the recipe leaves it out.
        assert set(token.ranks) == {*TRIO, COMBINATION}
    if role in found.sides:
        other = next(side for side in found.sides if side != role)
        at = found.pairs.index((COMBINATION, other))
        assert found.columns.distances[at].min() > 0.01
        assert measures_of(found)[0].name == f"tv-{other}"


def test_a_generated_answer_is_measured_as_the_same_answer_given(demo: Emulator) -> None:
    made = inspect(demo, PROMPT, sampling=GREEDY, max_tokens=40)
    again = inspect(demo, PROMPT, made.ids)
    assert made.seed is not None and made.finish_reason is not None
    assert again.seed is None and again.finish_reason is None
    assert made.ids == again.ids and made.tokens == again.tokens
    scored = demo.logprobs(made.text, prompt=PROMPT)
    if scored.tokens == made.ids[: len(scored.tokens)]:
        ours = made.distribution(COMBINATION)[: len(scored.tokens)]
        assert ours == pytest.approx(scored.logprobs, abs=2e-3)
    assert demo.generate(PROMPT, sampling=GREEDY, max_tokens=40).tokens == made.ids


def test_a_long_answer_is_the_same_in_whatever_blocks(tiny: Emulator) -> None:
    text = " word and more" * 12
    whole = inspect(tiny, "Hello", text)
    assert len(whole) > 2 * 32
    row = rows_of_tiny(tiny, whole)
    # Other kernels for one row than for many: see ARCHITECTURE.md.
    assert whole.distribution("base") == pytest.approx(row, abs=0.02)


def rows_of_tiny(emulator: Emulator, found: Inspection) -> NDArray[np.float64]:
    """The base's log-probabilities, one token decoded at a time."""
    prompts, base, values = emulator.tokenize("Hello"), Recipe.single("base"), []
    for i, token in enumerate(found.ids):
        before = {role: [*ids, *found.ids[:i]] for role, ids in prompts.items()}
        for _, row, _ in text_rows(emulator.ensemble, before, [token], recipe=base):
            values.append(float(np.log(softmax(row[None])[0, token])))
    return np.array(values)


def test_texts_add_up_and_controls_are_told_apart(demo: Emulator) -> None:
    end = next(iter(demo.ensemble.stop_tokens))
    ids = [*demo.models["tuned"].tokenize(" 日本 é\n"), end]
    found = inspect(demo, PROMPT, ids)
    assert "".join(token.text for token in found.tokens) == found.text == " 日本 é\n"
    assert [token.control for token in found.tokens] == [False] * (len(ids) - 1) + [True]
    last = found.tokens[-1]
    assert last.text == "" and last.label == found.label(end) != ""
    assert all(token.label for token in found.tokens)


def test_shifts_count_ranks(demo: Emulator) -> None:
    found = inspect(demo, PROMPT, ANSWER)
    ranks = [token.ranks["base"] for token in found.tokens]
    assert found.shifts("base") == {
        "unshifted": sum(rank == 1 for rank in ranks),
        "marginal": sum(1 < rank <= 3 for rank in ranks),
        "shifted": sum(rank > 3 for rank in ranks),
    }


def test_what_is_refused(demo: Emulator, tiny: Emulator) -> None:
    for options, says in (
        ({"candidates": 0}, "candidates is 0"),
        ({"recipe": Recipe({"base": 1.0, "warm": 0.0001}, any_sum=True)}, "the role warm"),
        ({"max_tokens": 3}, "max_tokens is for generated answers"),
        ({"sampling": GREEDY}, "sampling is for generated answers"),
        ({"stop": ["x"]}, "stop is for generated answers"),
    ):
        with pytest.raises(UsageError, match=says):
            inspect(demo, PROMPT, ANSWER, **options)  # type: ignore[arg-type]
    for answer, says in (
        ("", "the answer is empty"),
        ([], "the answer is empty"),
        ("\ud800", "an unpaired surrogate at character 0"),
        ([demo.ensemble.vocab_size], "all roles share is 0 to"),
    ):
        with pytest.raises(PromptError, match=says):
            inspect(demo, PROMPT, answer)
    with pytest.raises(PromptError, match="fit after its prompt"):
        inspect(tiny, "Hello", [1] * 256)
    assert not demo.ensemble.running and not tiny.ensemble.running


# The rows -------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([7, 256, 700]))
def test_candidates_are_those_of_a_sort(seed: int, k: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-4, 5, size=(3, size)).astype(np.float32)  # many ties
    rows[0, 1:][rng.random(size - 1) < 0.9] = -np.inf
    found = compare([(0, {"a": row}) for row in rows], size, ["a"], [], k, NONE)
    for row, ids in zip(rows, found.ids[0], strict=True):
        order = [i for i in np.argsort(-row, kind="stable") if row[i] > -np.inf][:k]
        assert ids.tolist() == order + [-1] * (k - len(order))


def test_rows_of_any_kind_leave_no_nan_in_a_probability() -> None:
    rows = {
        "a": np.array([[0, np.nan, 1, 2], [np.inf, 0, 0, 0]], dtype=np.float32),
        "b": np.array([[-np.inf] * 4, [0, 0, 0, -np.inf]], dtype=np.float32),
    }
    before = {name: of.copy() for name, of in rows.items()}
    scored = [(token, {name: of[i] for name, of in rows.items()}) for i, token in enumerate((2, 3))]
    found = compare(scored, 4, ("a", "b"), [("a", "b")], 5, np.array([0], dtype=np.intp))
    assert all(np.array_equal(rows[name], before[name], equal_nan=True) for name in rows)
    chances = np.exp(found.logprobs)
    assert chances[0] == pytest.approx([1 / (1 + np.e), 1 / 3])  # id 0 is unusable
    assert chances[1, 1] == 0.0
    assert found.ranks[1, 1] == 3
    assert found.ids[0].tolist() == [[3, 2, -1, -1, -1], [1, 2, 3, -1, -1]]
    assert found.distances[0, 1] == pytest.approx(1 / 3)
    assert np.isnan(found.distances[0, 0])  # in "b" nothing is possible there
    same = [(0, {"a": rows["b"][1], "b": rows["b"][1]})]
    assert compare(same, 4, ("a", "b"), [("a", "b")], 2, NONE).distances[0, 0] == 0.0


# Who won --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "winner"),
    [
        ({"base": True, "tuned": True, COMBINATION: True}, AGREED),
        ({"base": True, "tuned": True, COMBINATION: False}, AGREED),
        ({"base": False, "tuned": True, COMBINATION: True}, "tuned"),
        ({"base": True, "tuned": False, COMBINATION: False}, "base"),
        ({"base": False, "tuned": False, COMBINATION: True}, COMBINATION),
        ({"base": False, "tuned": False, COMBINATION: False}, NOBODY),
    ],
)
def test_who_won(first: dict[str, bool], winner: str) -> None:
    assert won(first, ("base", "tuned")) == winner


def test_who_won_between_three() -> None:
    first = {"base": True, "warm": True, "plain": False, COMBINATION: True}
    assert won(first, ("base", "warm", "plain")) == SHARED


def test_the_sides_of_recipes() -> None:
    assert sides(TRIO, Recipe.upscale()) == ("base", "tuned")
    assert sides(TRIO, Recipe.steer(-1.0)) == ("base", "tuned")
    assert sides(TRIO, Recipe.single("reference")) == ("base", "tuned")
    assert sides(("tuned", "reference"), Recipe.realign(2.0)) == ("tuned", "reference")
    blend = Recipe.interpolate({"warm": 0.5, "plain": 0.5}, {"plain": "other"})
    loaded = ("base", "warm", "plain", "reference", "other")
    assert sides(loaded, blend) == ("base", "warm", "plain")


# Measures -------------------------------------------------------------------------------------


def test_measures_and_their_ranges(demo: Emulator) -> None:
    found = inspect(demo, PROMPT, ANSWER)
    names = [measure.name for measure in measures_of(found)]
    assert names[0] == "tv-base"
    assert set(names) == {
        *("tv-base", "tv-tuned", "tv-base-tuned", "tv-tuned-reference"),
        *("gain-base", "gain-tuned", "rank-base", "rank-tuned"),
    }
    for measure in measures_of(found):
        values = measure.values(found)
        assert values.shape == (len(found),)
        assert values.min() >= (-1.0 if measure.signed else 0.0) and values.max() <= 1.0
    token = found.tokens[2]
    gain = measure_of(measures_of(found), "gain-base").values(found)[2]
    assert gain == pytest.approx(token.probabilities[COMBINATION] - token.probabilities["base"])
    rank = measure_of(measures_of(found), "rank-tuned").values(found)[2]
    assert rank == pytest.approx(1.0 - 1.0 / token.ranks["tuned"])


def test_an_unknown_measure_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean tv-tuned"):
        measure_of(measures_for(TRIO, Recipe.upscale()), "tv-tund")
    with pytest.raises(UsageError, match="unknown measure 'rank-warm'"):
        measure_of(measures_for(TRIO, Recipe.upscale()), "rank-warm")


# Classes of token -----------------------------------------------------------------------------


def classes(*texts: str) -> list[str]:
    return classes_of(texts, [text == "<end>" for text in texts])


def test_classes_of_token() -> None:
    texts = ["The", " answer", " is", " 42", ",", " be", "cause", " Bra", "ga", "\n\n", " ", "3.5"]
    assert classes(*texts) == [
        *("word", "word", "word", "number", "punctuation", "reasoning", "continuation"),
        *("name", "continuation", "newline", "white space", "number"),
    ]
    assert classes(" However", ",", " it", " may", " be", "n't") == [
        *("caution", "punctuation", "word", "caution", "word", "continuation")
    ]
    assert classes("Sure", "!", " Here", " we", " go", ".", " Lima") == [
        *("style", "punctuation", "style", "word", "word", "punctuation", "word")
    ]
    assert classes("", "日", " 日") == ["continuation", "word", "word"]
    assert classes(" there", "fore", "!")[0] == "reasoning"
    assert classes("-12", "$", "²") == ["number", "punctuation", "number"]


@given(st.lists(st.text(max_size=6), max_size=12))
def test_every_token_has_one_known_class(texts: list[str]) -> None:
    assert [kind in CLASSES for kind in classes_of(texts, [False] * len(texts))] == [True] * len(
        texts
    )


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=8))
def test_texts_of_pieces_add_up(data: bytes, cuts: list[int]) -> None:
    ends = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(ends)]
    assert "".join(texts_of(pieces)) == data.decode("utf-8", "replace")


# Surveys --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(demo: Emulator) -> list[Inspection]:
    texts = (ANSWER, " Because 7 is 7, so is 8.", " Yes.\n It is in the north.", " No, 5 of 6.")
    return [inspect(demo, PROMPT, text) for text in texts]


def test_a_survey_is_the_mean_over_tokens(answers: list[Inspection]) -> None:
    figures = survey(answers, "tv-tuned", least=2)
    tokens = [token for one in answers for token in one.tokens]
    values = [token.distances[COMBINATION, "tuned"] for token in tokens]
    assert figures["tokens"] == len(tokens) == figures["all"]["n"]
    assert figures["all"]["mean"].value == pytest.approx(np.mean(values))
    assert figures["all"]["mean"].low < figures["all"]["mean"].value < figures["all"]["mean"].high
    assert sum(group["n"] for group in figures["classes"].values()) == len(tokens)
    assert {"number", "reasoning", "punctuation"} <= set(figures["classes"])
    for group in (figures["all"], *figures["classes"].values(), *figures["most"]):
        assert sum(share.value for share in group["won"].values()) == pytest.approx(1.0)
    numbers = figures["classes"]["number"]
    kinds = [
        kind
        for one in answers
        for kind in classes_of([t.text for t in one.tokens], [t.control for t in one.tokens])
    ]
    assert numbers["n"] == kinds.count("number")
    shares = [token.won == AGREED for token in tokens]
    assert figures["all"]["won"][AGREED].value == pytest.approx(np.mean(shares))


def test_the_tokens_listed_occur_often_enough(answers: list[Inspection]) -> None:
    figures = survey(answers, least=3)
    assert figures["most"] and all(group["n"] >= 3 for group in figures["most"])
    means = [abs(group["mean"].value) for group in figures["most"]]
    assert means == sorted(means, reverse=True)
    dots = [group for group in figures["most"] if group["label"] == "."]
    assert all(group["context"].count(".") for group in dots)


def test_the_interval_is_over_answers(answers: list[Inspection]) -> None:
    """Answers that are all alike leave no doubt, however many tokens they have."""
    same = survey([answers[0]] * 6)["all"]["mean"]
    assert same.low == pytest.approx(same.value) == same.high
    caution = survey(answers[1:])["classes"]["caution"]  # " No" of the last answer
    assert caution["n"] == 1 and np.isnan(caution["mean"].low)
    one = survey([answers[0]])["all"]["mean"]
    assert np.isnan(one.low) and np.isnan(one.high) and one.value == pytest.approx(same.value)


def test_a_survey_can_be_repeated(answers: list[Inspection]) -> None:
    assert survey(answers) == survey(answers)
    moved = replace(answers[0], recipe=Recipe.proxy())
    assert survey([moved])["measure"] == "tv-base"


# Prompts of a file ----------------------------------------------------------------------------


def test_prompts_with_and_without_answers(tmp_path: Path) -> None:
    lines, records = tmp_path / "p.txt", tmp_path / "p.jsonl"
    lines.write_text("\ufeffone\n\n two \n", "utf-8")
    assert read_prompts(lines) == (SurveyPrompt("one"), SurveyPrompt("two"))
    records.write_text('{"prompt": "a", "answer": " b"}\n{"prompt": "c", "id": 1}\n', "utf-8")
    assert read_prompts(records) == (SurveyPrompt("a", " b"), SurveyPrompt("c"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", b" \n", "holds no prompt"),
        ("p.txt", b"fine\nab\xff", "not valid UTF-8: byte 0xff at offset 7"),
        ("p.jsonl", b'{"prompt": "a"}\n{', "p.jsonl, line 2: not JSON"),
        ("p.jsonl", b"\n[1]", "line 2: not an object"),
        ("p.jsonl", b"[" * 100_000, "line 1: nested more than 200 deep"),
        ("p.jsonl", b'{"answer": "a"}', 'no text under "prompt"'),
        ("p.jsonl", b'{"prompt": 3}', 'line 1: no text under "prompt"'),
        ("p.jsonl", b'{"prompt": "a", "answer": 3}', '"answer" must be a text'),
    ],
)
def test_files_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(PromptError, match=says):
        read_prompts(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / "missing.txt")


def test_the_benchmark_measures_what_it_says(demo: Emulator) -> None:
    found = measure_cost(demo, tokens=40, pairs=2)
    assert 30 <= found["tokens"] <= 40 and found["pairs"] == 2
    assert found["vocabulary"] == demo.ensemble.vocab_size
    for key in ("score_us_per_token", "inspect_us_per_token"):
        assert 0 < found[key]["low"] <= found[key]["value"] <= found[key]["high"]
