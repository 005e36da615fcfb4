"""Translation between vocabularies, against the definitions and by brute force."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.errors import EngineError
from eftlocal.logits.combine import Combiner
from eftlocal.logits.recipe import Recipe
from eftlocal.translation.lattice import NONE, Lattice
from eftlocal.translation.rows import Rows
from eftlocal.translation.spelling import Speller, Spelling, extends

ASCII = [bytes([c]) for c in (0x0A, *range(0x20, 0x7F))]
BYTES = [bytes([c]) for c in range(256)]


def vocabulary(words: Sequence[bytes]) -> dict[int, bytes]:
    return dict(enumerate(words))


pieces = st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=30)
few = st.lists(
    st.text("ab\xff", min_size=1, max_size=4).map(lambda t: t.encode("latin-1")), max_size=30
)


@given(few | pieces, few | pieces)
def test_a_lattice_is_what_its_fields_say(base: list[bytes], small: list[bytes]) -> None:
    size = len(base) + 2
    lattice = Lattice.of(vocabulary(base), size, vocabulary(small))
    assert sorted(small) == list(lattice.texts) == [small[i] for i in lattice.order]
    assert sorted(base) == list(lattice.base_texts) == [base[i] for i in lattice.sorted_base]
    for at, text in enumerate(lattice.texts):
        begun = [each for each in base if text.startswith(each)]
        assert lattice.owner[at] == lattice.longest(text)
        if begun:
            assert lattice.owner[at] == lattice.base_texts.index(max(begun, key=len))
        else:
            assert lattice.owner[at] == NONE
    for token, text in enumerate(base):
        assert lattice.first[token] == lattice.base_texts.index(text)
        assert lattice.equal[token] == small.count(text)
        if text in small:
            assert lattice.begin[token] == lattice.texts.index(text)
        shorter = [each for each in small if text.startswith(each) and each != text]
        if shorter:
            assert lattice.texts[lattice.parent[token]] == max(shorter, key=len)
        else:
            assert lattice.parent[token] == NONE
        run = [lattice.texts[i] for i in lattice.run(text)]
        assert run == [each for each in lattice.texts if each.startswith(text)]
        begun = [base[lattice.sorted_base[i]] for i in lattice.base_run(text)]
        assert begun == sorted(each for each in base if each.startswith(text))
    for token in range(len(base), size):
        assert lattice.first[token] == lattice.parent[token] == NONE and not lattice.equal[token]


def longest(beginnings: Iterable[bytes], text: bytes) -> bytes:
    """The longest of these that is a proper beginning of a text."""
    begun = [each for each in beginnings if text.startswith(each) and text != each]
    return max(begun, key=len, default=b"")


def by_definition(p: Mapping[bytes, float], text: bytes, base: Sequence[bytes]) -> float:
    """M of a base token: what a base begins with it, and its part of its first piece."""

    def piece(of: bytes) -> bytes:
        return longest(p, of) if of not in p else b""

    owned = [
        mass for s, mass in p.items() if s == text or (s not in base and longest(base, s) == text)
    ]
    first = piece(text)
    part = p[first] / sum(piece(other) == first for other in base) if first else 0.0
    return sum(owned) + part


def mass_of(small: Sequence[bytes], row: np.ndarray) -> dict[bytes, float]:
    p = np.exp(row.astype(np.float64) - row.max())
    p /= p.sum()
    found: dict[bytes, float] = {}
    for text, mass in zip(small, p, strict=False):
        found[text] = found.get(text, 0.0) + float(mass)
    return found


texts = st.text("ab", min_size=1, max_size=4).map(str.encode)


@given(
    st.lists(texts, min_size=1, max_size=20),
    st.lists(texts, min_size=1, max_size=20, unique=True),
    st.integers(0, 99),
)
def test_prefix_is_its_definition(base: list[bytes], small: list[bytes], seed: int) -> None:
    row = np.random.default_rng(seed).normal(0, 5, len(small) + 1).astype(np.float32)
    lattice = Lattice.of(vocabulary(base), len(base) + 2, vocabulary(small))
    # The last small token ends an answer, as the last but one of the base does.
    rows = Rows(lattice, ends=[len(small)], base_ends=[len(base)])
    out = np.empty(len(base) + 2, np.float32)
    rows([row], out)
    p = mass_of([*small, b"\x00end"], row)
    end = p.pop(b"\x00end")
    for token, text in enumerate(base):
        want = by_definition(p, text, base)
        assert math.isclose(math.exp(out[token]), want, rel_tol=1e-5, abs_tol=0.0), text
        assert (token in rows.missing) == (want == 0.0)
    assert math.isclose(math.exp(out[len(base)]), end, rel_tol=1e-5)
    assert rows.missing[-1] == len(base) + 1 and out[-1] == -np.inf


@given(
    st.lists(texts, min_size=1, max_size=20),
    st.lists(texts, min_size=1, max_size=20),
    st.integers(0, 99),
)
def test_text_knows_twins_only(base: list[bytes], small: list[bytes], seed: int) -> None:
    row = np.random.default_rng(seed).normal(0, 5, len(small)).astype(np.float32)
    rows = Rows(Lattice.of(vocabulary(base), len(base), vocabulary(small)), method="text")
    out = np.empty(len(base), np.float32)
    rows([row], out)
    p = mass_of(small, row)
    for token, text in enumerate(base):
        assert math.isclose(math.exp(out[token]), p.get(text, 0.0), rel_tol=1e-5, abs_tol=0.0)
        assert (token in rows.missing) == (text not in p)


def test_one_vocabulary_passes_through() -> None:
    words = [bytes([c]) for c in range(97, 123)] + [b"the", b"then", b"an"]
    row = np.random.default_rng(1).normal(0, 3, len(words)).astype(np.float32)
    rows = Rows(Lattice.of(vocabulary(words), len(words), vocabulary(words)))
    out = np.empty(len(words), np.float32)
    rows([row], out)
    assert np.ptp(out - row) < 1e-6 and math.isclose(np.exp(out).sum(), 1.0, rel_tol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_logit_is_what_it_is_in_one_vocabulary(bad: float) -> None:
    """NaN is impossible and +inf certain; and where nothing is possible, control tokens are not."""
    words = [bytes([c]) for c in range(97, 123)]
    rng = np.random.default_rng(3)
    rows = Rows(Lattice.of(vocabulary(words), len(words) + 1, vocabulary(words)))
    combine = Combiner(len(words) + 1, missing={"tuned": rows.missing, "reference": rows.missing})
    base = rng.normal(0, 3, len(words) + 1).astype(np.float32)
    base[-1] = -50.0  # a control token

    def combined(tuned: np.ndarray) -> np.ndarray:
        out = {"base": base}
        for role, row in {"tuned": tuned, "reference": np.zeros(len(words))}.items():
            out[role] = np.empty_like(base)
            rows([row.astype(np.float32)], out[role])
        return combine(out, Recipe.proxy())

    row = rng.normal(0, 3, len(words))
    row[5] = bad
    possible = np.flatnonzero(np.isfinite(combined(row))).tolist()
    assert possible[:-1] == ([5] if bad > 0 else [i for i in range(len(words)) if i != 5])
    assert np.isneginf(combined(np.full(len(words), -np.inf))).all()


def test_open_bytes_are_what_the_sum_over_tokens_says() -> None:
    """A base that has bytes, a small vocabulary that has whole characters too: after the first
    byte of one, the next is as likely as all small tokens that go on so."""
    fox = "é".encode()
    small = [*BYTES, fox, fox + b"!", "è".encode(), b"ab"]
    base = [*BYTES, b"!b", fox[1:] + b"!", fox[1:] + b"!x"]
    rows = Rows(Lattice.of(vocabulary(base), len(base), vocabulary(small)))
    rng = np.random.default_rng(2)
    before, within = (rng.normal(0, 3, len(small)).astype(np.float32) for _ in range(2))
    out = np.empty(len(base), np.float32)
    rows([before, within], out, path=[fox[0]], open_=fox[:1])
    p, q = mass_of(small, before), mass_of(small, within)
    longer = {text[1:]: mass for text, mass in p.items() if text[:1] == fox[:1] and text[1:]}
    whole = sum(longer.values()) + p[fox[:1]]
    for token, text in enumerate(base):
        joined = sum(
            mass
            for beyond, mass in longer.items()
            if beyond == text or (beyond not in base and longest(base, beyond) == text)
        )
        if first := longest(longer, text):
            sharing = sum(longest(longer, other) == first for other in base)
            joined += longer[first] / sharing
        want = (joined + p[fox[:1]] * by_definition(q, text, base)) / whole
        assert math.isclose(math.exp(out[token]), want, rel_tol=1e-5), text


def greedy(vocabulary: Sequence[bytes]) -> Speller:
    """A speller whose tokenizer takes the longest token that fits; base tokens are bytes."""
    pieces = dict(enumerate(vocabulary))
    by_text = {text: token for token, text in pieces.items()}

    def tokenize(text: str) -> list[int]:
        data, found = text.encode(), []
        while data:
            length = next(n for n in range(len(data), 0, -1) if data[:n] in by_text)
            found.append(by_text[data[:length]])
            data = data[length:]
        return found

    base = dict(enumerate(BYTES))
    return Speller(tokenize, pieces, base, base_ends=[256], end=len(vocabulary))


WORDS = [*BYTES, b"th", b"the", b" the", b" of", b"of", "é".encode(), "東".encode(), b"12", b"  "]
spelled = st.lists(
    st.sampled_from(
        ["the ", "of", "é", "東京", "🦊", "  ", "123", "\n", "e\u0301", "x" * 40, " word"]
    ).map(str.encode)
    | st.binary(min_size=1, max_size=3),
    max_size=20,
).map(b"".join)


@given(spelled)
def test_bytes_never_part(text: bytes) -> None:
    spelling = Spelling(greedy(WORDS))
    for at, byte in enumerate(text):
        spelling.extend([byte])
        (place,) = spelling.last(1)
        tokens = place.tokens()
        assert b"".join(WORDS[token] for token in tokens) == text[: at + 1]
        assert place.length == len(tokens)
        assert b"".join(WORDS[t] for t in tokens[len(tokens) - place.path :]) == place.open
        longer = [
            word for word in WORDS[256:] if word.startswith(place.open) and word != place.open
        ]
        assert longer or not place.path
        for start in {0, 1, len(tokens) // 2, len(tokens)}:
            assert place.tokens(start) == tokens[start:]


@given(spelled, st.data())
def test_drafts_leave_no_trace(text: bytes, data: st.DataObject) -> None:
    """Where a role stands depends on the answer alone, whatever was drafted or taken back."""
    speller = greedy(WORDS)
    plain, disturbed = Spelling(speller), Spelling(speller)
    for at, byte in enumerate(text):
        draft = list(data.draw(st.binary(max_size=4)))
        taken = disturbed.last(len(draft) + 1, draft)
        assert len(taken) == len(draft) + 1
        if data.draw(st.booleans()):
            disturbed.extend(draft)
            disturbed.cut(at)
        disturbed.extend([byte])
        plain.extend([byte])
        assert disturbed.last(1)[0].tokens() == plain.last(1)[0].tokens()
    places = plain.last(len(text) + 1)
    for one, other in pairwise(places):
        mine, theirs = one.tokens(), other.tokens()
        assert extends(one, other) == (theirs[: len(mine)] == mine)


def test_bytes_that_are_no_text_are_settled_too() -> None:
    spelling = Spelling(greedy(WORDS))
    for text in (b"\x80" * 600, "東".encode() * 200):
        spelling.extend(list(text))
        (place,) = spelling.last(1)
        assert len(place.text) < 300 and place.text[:1] in (b"\x80", "東".encode()[:1])
        spelling.extend([256])


def test_an_end_is_an_end() -> None:
    spelling = Spelling(greedy(WORDS))
    spelling.extend([*b"the", 256, 300, *b"of"])
    end = len(WORDS)
    assert spelling.last(1)[0].tokens() == [WORDS.index(b"the"), end, WORDS.index(b"of")]


def test_what_cannot_spell_is_refused() -> None:
    with pytest.raises(EngineError, match="no token for 'Z'"):
        greedy([text for text in BYTES if text != b"Z"])
