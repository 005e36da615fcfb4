"""Grammars over real vocabularies: what may follow, what is refused, what comes out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llama_grammar import LlamaGrammar
from llguidance import LLParserLimits

from eftlocal import Emulator, Sampling
from eftlocal.constraint import Constraint, Kind, schema_text
from eftlocal.errors import EngineError, UsageError
from eftlocal.llama import Context, Model, Span
from eftlocal.llama.guide import Guide


def guide(model: Model, text: str, ends: Sequence[int] = ()) -> Guide:
    return Guide(model, Constraint("grammar", text), ends=ends)


def guide_of(model: Model, schema: Any) -> Guide:
    return Guide(model, Constraint("json_schema", schema_text(schema)))


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[Model]:
    with Model(smollm2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def random_model(tiny_files: dict[str, Path]) -> Iterator[Model]:
    with Model(tiny_files["tuned"]) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def pieces(model: Model) -> list[bytes]:
    return [model.piece(t) for t in range(model.vocab_size)]


@pytest.fixture(scope="module")
def ends(model: Model) -> frozenset[int]:
    return model.end_tokens(range(model.vocab_size))


def generate(model: Model, grammar: Guide, prompt: str, most: int) -> tuple[str, bool]:
    """Greedy decoding under the mask: the text, and whether it ended by itself."""
    finished = model.end_tokens(range(model.vocab_size))
    answer: list[int] = []
    with Context(model, n_ctx=512, n_threads=1) as context:
        fed = model.tokenize(prompt, add_bos=True)
        while len(answer) < most:
            row = context.decode([Span(0, fed)])[0].copy()
            row[~grammar.allowed(answer)] = -np.inf
            best = int(row.argmax())
            assert np.isfinite(row[best])
            if best in finished:
                return b"".join(map(model.piece, answer)).decode(), True
            answer.append(best)
            fed = [best]
    return b"".join(map(model.piece, answer)).decode(), False


# Generation ------------------------------------------------------------------------------------


def test_an_answer_matches_its_grammar(model: Model) -> None:
    with guide(model, 'root ::= ("red" | "green") ", " [0-9]{3} "!"{2,4}') as grammar:
        text, ended = generate(model, grammar, "A colour and a number:", 40)
    assert ended
    assert re.fullmatch(r"(red|green), [0-9]{3}!{2,4}", text)


def test_an_answer_matches_its_json_schema(model: Model) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["a", 'b"\\é', 3]}, "maxItems": 2},
            "born": {"type": "string", "format": "date-time"},
        },
        "required": ["name", "tags", "born"],
    }
    with guide_of(model, json.dumps(schema)) as grammar:
        text, ended = generate(model, grammar, "JSON of a person called Ada, aged 36:\n", 120)
    value = json.loads(text)
    assert ended
    assert list(value) in (["name", "age", "tags", "born"], ["name", "tags", "born"])
    assert len(value["name"]) <= 12
    assert type(value.get("age", 0)) is int
    assert all(tag in ("a", 'b"\\é', 3) for tag in value["tags"]) and len(value["tags"]) <= 2
    datetime.strptime(value["born"][:19], "%Y-%m-%dT%H:%M:%S")


def test_a_model_that_says_nothing_is_constrained_too(random_model: Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "number"}}}
    with guide_of(random_model, schema) as grammar:
        text, ended = generate(random_model, grammar, "x", 100)
    assert ended
    assert set(json.loads(text)) <= {"n"}


@pytest.mark.parametrize(
    ("kind", "text", "whole"),
    [
        ("regex", "[a-z]{3}-[0-9]{2,5}", "[a-z]{3}-[0-9]{2,5}"),
        ("regex", "^yes$|no+", "yes|no+"),
        ("regex", "a/b\\\\/", r"a/b\\/"),
        ("regex", "", ""),
        (
            "lark",
            'start: word ("," word){2}\nword: /[A-Z][a-z]{1,3}/',
            r"[A-Z][a-z]{1,3}(,[A-Z][a-z]{1,3}){2}",
        ),
        ("lark", '%ignore / {1,2}/\nstart: "a" "b"', " *a *b *"),
        ("grammar", 'root ::= "a" [^a]{2} | ""', "a[^a]{2}|"),
    ],
)
def test_the_whole_answer_matches(demo: Emulator, kind: str, text: str, whole: str) -> None:
    """Drawn at a temperature at which anything comes that may; drafts change nothing."""
    texts = []
    for drafts in (0, 4):
        for seed in range(4):
            answer = demo.generate(
                "Where is Toulouse?",
                sampling=Sampling(temperature=5.0, seed=seed),
                speculation=drafts,
                max_tokens=60,
                **{kind: text},  # type: ignore[arg-type]
            )
            assert answer.finish_reason == "stop"
            assert re.fullmatch(whole, answer.text, re.DOTALL), answer.text
            texts.append(answer.text)
    assert texts[:4] == texts[4:]


def test_an_answer_without_a_longest_form_ends_at_its_maximum_length(demo: Emulator) -> None:
    blanks = demo.generate("Hi", max_tokens=5, lark='%ignore /[ \\n]+/\nstart: "x"{1000}')
    assert blanks.finish_reason == "length"
    assert set(blanks.text) <= set(" \nx")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"regex": "a("}, "regex: unclosed group"),
        ({"regex": "(?=a)b"}, "regex: look-around, including look-ahead and look-behind, is not"),
        ({"regex": r"a\b"}, "regex: lookarounds not supported yet; WordUnicode"),
        ({"regex": "a\\"}, "regex: it ends with a lone backslash"),
        ({"regex": "\x1b[31m("}, "regex: unclosed character class"),
        ({"lark": "begin: /a/"}, "Lark grammar: no start rule found"),
        ({"lark": "start: b\n\nb: x"}, 'Lark grammar: line 3, column 4: unknown name: "x"'),
        ({"lark": "start: /(/"}, "Lark grammar: line 1, column 8: invalid regex: unclosed group"),
        ({"lark": 'start: "\x1b[31m" x'}, "Lark grammar: line 1, column 9: lexer error"),
        ({"lark": "start: <|nothing|>"}, "Lark grammar: llguidance itself failed"),
        ({"lark": "start: a\na[temperature=0.5]: /x/"}, "temperature is not supported"),
        ({"lark": 'start: a\na[capture="x", temperature=0.5]: /x/'}, "temperature is not"),
        ({"lark": "start: start"}, "Lark grammar: no text can follow"),
        ({"regex": "a", "json_schema": {}}, "json_schema and regex exclude each other"),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    demo: Emulator, given: dict[str, Any], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as raised:
        demo.generate("Hi", **given)
    assert says in str(raised.value)
    assert str(raised.value).isprintable()
    assert capfd.readouterr() == ("", "")


# Which tokens may follow -----------------------------------------------------------------------

# A word of a's, b's and é's in pairs, then a number: its prefixes are easily said otherwise.
GBNF = 'root ::= (("a" | "é" | "ab") [b-dü])+ "-" [0-9]{1,3}'
_PAIR = r"(?:(?:a|é|ab)[b-dü])"
_WHOLE = re.compile(rf"{_PAIR}+-[0-9]{{1,3}}")
_PREFIX = re.compile(rf"{_PAIR}*(?:a|é|ab)?|{_PAIR}+-[0-9]{{0,3}}")


def may_stand(data: bytes) -> bool:
    """Whether some text of the grammar begins with these bytes."""
    for cut in range(min(4, len(data) + 1)):
        try:
            text = data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
        if cut == 0:
            return _PREFIX.fullmatch(text) is not None
        tail = data[len(data) - cut :]
        return any(
            c.encode().startswith(tail) and _PREFIX.fullmatch(text + c) is not None for c in "éü"
        )
    return False


def oracle(answer: bytes, pieces: list[bytes], ends: frozenset[int]) -> set[int]:
    try:
        complete = _WHOLE.fullmatch(answer.decode()) is not None
    except UnicodeDecodeError:
        complete = False
    # Every allowed byte is one of these, which spares the oracle most of the vocabulary.
    alphabet = set("abcd-0123456789éü".encode())
    found = {
        t
        for t, piece in enumerate(pieces)
        if piece and t not in ends and set(piece) <= alphabet and may_stand(answer + piece)
    }
    return found | (set(ends) if complete else set())


# The same texts for llguidance. Without forcing, they may be spelled in any tokens.
LARK = Constraint("lark", "start: /((a|é|ab)[b-dü])+-[0-9]{1,3}/")


REGEX = Constraint("regex", "((a|é|ab)[b-dü])+-[0-9]{1,3}")
SAME = {"grammar": Constraint("grammar", GBNF), "regex": REGEX}


@pytest.fixture(scope="module", params=SAME.values(), ids=SAME)
def shared(model: Model, request: pytest.FixtureRequest) -> Iterator[Guide]:
    with Guide(model, request.param) as guide:
        yield guide


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_mask_is_that_of_an_independent_matcher(
    data: st.DataObject,
    shared: Guide,
    pieces: list[bytes],
    ends: frozenset[int],
) -> None:
    answer: list[int] = []
    for _ in range(data.draw(st.integers(1, 8))):
        mask = shared.allowed(answer)
        expected = oracle(b"".join(pieces[t] for t in answer), pieces, ends)
        assert set(np.flatnonzero(mask)) == expected
        following = sorted(expected - ends)
        if not following:
            break
        answer.append(data.draw(st.sampled_from(following)))


def test_back_and_forth_gives_the_masks_of_a_fresh_grammar(model: Model, shared: Guide) -> None:
    paths = [model.tokenize(text) for text in ("abbéü-12", "ab", "abc-1", "", "éüéü-", "abbé")]
    for path in [*paths, *reversed(paths), *paths]:
        with Guide(model, LARK) as fresh:
            assert np.array_equal(shared.allowed(path), fresh.allowed(path))


def test_an_answer_longer_than_what_is_kept_can_go_back_to_its_start(model: Model) -> None:
    token = model.tokenize("ab")[0]
    with guide(model, 'root ::= "ab"{1,400}') as grammar:
        first = grammar.allowed([token])
        for length in range(2, 301):
            grammar.allowed([token] * length)
        assert len(grammar._masks) <= 20
        assert np.array_equal(grammar.allowed([token]), first)
        assert np.array_equal(grammar.allowed([token] * 299), first)


def test_an_interrupt_while_the_matcher_moves_loses_nothing(model: Model) -> None:
    paths = [model.tokenize(text) for text in ("abbéü-12", "ab", "éüéü-1", "abb")]
    with Guide(model, LARK) as shared, Guide(model, LARK) as fresh:
        for path in paths:
            if (call := shared._matcher) is not None:
                call.try_consume_tokens(paths[0][:1])  # moved, and then the interrupt came
            shared._consumed = -1
            assert np.array_equal(shared.allowed(path), fresh.allowed(path))


# Terms whose meaning a lexer would change, and the classes and escapes of GBNF.
_TEXTS = ('"a"', '"ab"', '"true"', '"é🦙"', r'"\x41\n"', '""')
_CLASSES = (".", "[a-c]", "[^a]", r'[^"\\\x00-\x1f]', "[éè]", "[a-zé-ü]", "[-b]", "[0-9]")
_TERMS = st.sampled_from((*_TEXTS, *_CLASSES, "x", "y", "z"))
_TIMES = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}", "{0}", "{0,1}"])
_SEQUENCES = st.recursive(
    st.builds(lambda term, times: term + (times if term != '""' else ""), _TERMS, _TIMES),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(" ".join)
        | st.builds(
            "({}){}".format, st.lists(inner, min_size=1, max_size=3).map(" | ".join), _TIMES
        )
    ),
    max_leaves=8,
)


# Rules that end with one another, or themselves.
_ENDS = st.lists(
    st.builds(
        "{} {}{}".format,
        st.sampled_from(_TEXTS[:4]),
        _SEQUENCES,
        st.sampled_from(["", " u", " v?"]),
    ),
    max_size=3,
).map(lambda alternatives: " | ".join([*alternatives, '"w"']))
_GRAMMARS = st.builds(
    'root ::= {} | "q"\nx ::= "(" x ")" | [ab] y\ny ::= "b" z? | ""\nz ::= "z" | "zz"'.format,
    _SEQUENCES,
) | st.builds(
    'root ::= u | "<" root ">"\nu ::= {}\nv ::= {}\nx ::= u\ny ::= "y"\nz ::= v? "."'.format,
    _ENDS,
    _ENDS,
)


@settings(max_examples=60, deadline=None)
@given(text=_GRAMMARS, data=st.data())
def test_gbnf_means_what_it_means_to_llama_cpp(
    demo: Emulator, text: str, data: st.DataObject
) -> None:
    """llama.cpp's own engine allows the same tokens, all along an answer."""
    model = demo.models["tuned"]
    ends = model.end_tokens(range(model.vocab_size))
    # llama.cpp lets bytes through that stand in no character.
    never = [t for t in range(model.vocab_size) if {192, 193, *range(245, 256)} & {*model.piece(t)}]
    answer: list[int] = []
    theirs = LlamaGrammar(model, text)
    assume(theirs.taken)  # it refuses what may be empty and is repeated
    with theirs, guide(model, text) as ours:
        for _ in range(6):
            mask = ours.allowed(answer)
            expected = theirs.allowed(answer)
            expected[never] = False
            assert np.array_equal(mask, expected), (text, answer)
            following = sorted(set(np.flatnonzero(mask).tolist()) - ends)
            if not following:
                break
            # llama.cpp goes on after bytes that begin no character.
            token = data.draw(st.sampled_from(following))
            if model.piece(token)[-1] >= 0x80:
                break
            answer.append(token)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param('"a" root "b" | "a" root "c" | "d"', id="a stack for every way to read it"),
        pytest.param(" ".join(['"a"?'] * 500), id="hundreds of optional items"),
        pytest.param('("a"? "a"?){0,200}', id="optional items, repeated"),
        pytest.param('root "a" | "a"', id="left recursion"),
    ],
)
def test_what_has_many_readings_takes_no_time(model: Model, rule: str) -> None:
    """llama.cpp's stacks would take minutes or all memory for these."""
    a = model.tokenize("a")[0]
    with guide(model, f"root ::= {rule}") as grammar:
        for length in range(0, 60, 6):
            assert grammar.allowed([a] * length)[a]


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param('root ::= "a" root | "a"', id="right recursion"),
        pytest.param('root ::= "a" x?\nx ::= ("a" | "b" y) root?\ny ::= root', id="through others"),
        pytest.param('root ::= "(" root ")" | x\nx ::= "a" | "a" x', id="within other recursion"),
        pytest.param('root ::= "a"* "a"* "a"* [a-c]*', id="many ways to cut it"),
    ],
)
def test_the_cost_of_a_mask_does_not_grow_with_the_answer(
    model: Model, rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it grew, this answer would have more states than llguidance is allowed here."""
    monkeypatch.setattr("eftlocal.llama.guide._LIMITS", LLParserLimits(max_items_in_row=100))
    a = model.tokenize("a")[0]
    with guide(model, rules) as grammar:
        assert grammar.allowed([a] * 400)[a]


def test_what_cannot_end_is_not_begun(model: Model, pieces: list[bytes]) -> None:
    with guide(model, 'root ::= "a" x | "b" x? | "c" x*\nx ::= "x" x') as grammar:
        assert {pieces[t] for t in np.flatnonzero(grammar.allowed([]))} == {b"b", b"c"}


def test_the_same_answer_is_looked_at_once(shared: Guide) -> None:
    mask = shared.allowed([])
    assert shared.allowed(()) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True


@pytest.mark.parametrize(
    "gbnf", ['root ::= "" | [^é]+', r'root ::= "" | [^\u00e9]+', 'root ::= "" | [^xé] [^x]*']
)
def test_a_negated_class_beyond_ascii_spares_its_neighbours(model: Model, gbnf: str) -> None:
    """The lead byte of é leads other characters too, which stay allowed where é is not."""
    with guide(model, gbnf) as grammar:
        mask = grammar.allowed([])
        for text, fine in (("è", True), ("é", False), ("a", True)):
            tokens = model.tokenize(text)
            assert len(tokens) == 1
            assert mask[tokens[0]] == fine


def test_a_character_may_be_split_over_tokens(model: Model, pieces: list[bytes]) -> None:
    split = model.tokenize("🦙")
    assert len(split) > 1
    with guide(model, 'root ::= "🦙" "x"') as grammar:
        for done in range(len(split)):
            mask = grammar.allowed(split[:done])
            assert mask[split[done]]
            left = "🦙x".encode()[len(b"".join(pieces[t] for t in split[:done])) :]
            assert all(left.startswith(pieces[t]) for t in np.flatnonzero(mask))
        assert [pieces[t] for t in np.flatnonzero(grammar.allowed(split))] == [b"x"]


def test_no_answer_ends_within_a_character(model: Model, pieces: list[bytes]) -> None:
    token = pieces.index(b" \xe2\x80")
    with guide(model, 'root ::= " " "’"?') as grammar:
        assert model.eos is not None
        assert grammar.allowed(model.tokenize(" "))[model.eos]
        assert not grammar.allowed([token])[model.eos]
        assert [pieces[t] for t in np.flatnonzero(grammar.allowed([token]))] == [b"\x99"]


def test_control_tokens_follow_where_a_grammar_names_them(model: Model) -> None:
    special = next(
        t for t in model.special_tokens() if model.piece(t, special=True) == b"<|im_start|>"
    )
    x = model.tokenize("x")
    for kind, text in (
        ("lark", 'start: "x" <|im_start|> "y"'),
        ("grammar", 'root ::= "x" <|im_start|> "y"'),
    ):
        with Guide(model, Constraint(kind, text)) as grammar:  # type: ignore[arg-type]
            assert np.flatnonzero(grammar.allowed(x)).tolist() == [special]
            assert grammar.allowed([*x, special])[model.tokenize("y")[0]]
    with pytest.raises(UsageError, match='unknown special token: "<nothing>"'):
        Guide(model, Constraint("lark", "start: <nothing>"))


def test_only_end_tokens_follow_a_complete_match(model: Model, ends: frozenset[int]) -> None:
    extra = next(t for t in model.special_tokens() if t not in ends)
    x = model.tokenize("x")
    with guide(model, 'root ::= "x"', ends=[extra]) as grammar:
        assert not grammar.allowed([])[sorted({*ends, extra})].any()
        for answer in (x, [*x, min(ends)], [*x, extra], [*x, extra, min(ends)]):
            assert set(np.flatnonzero(grammar.allowed(answer))) == {*ends, extra}


def test_control_tokens_are_no_text(model: Model, ends: frozenset[int]) -> None:
    control = [t for t in model.special_tokens(user_defined=False) if t not in ends]
    with guide(model, "root ::= .+") as grammar:
        assert control
        assert not grammar.allowed([])[control].any()
        assert not grammar.allowed([])[control[0]]


@pytest.mark.parametrize("wrong", ["y", "end", "outside", "negative"])
def test_tokens_that_the_grammar_does_not_accept_are_refused(
    model: Model, ends: frozenset[int], wrong: str
) -> None:
    x = model.tokenize("x")[0]
    tokens = {"y": model.tokenize("y")[0], "end": min(ends), "outside": 10**6, "negative": -1}
    with guide(model, 'root ::= "xx"') as grammar:
        with pytest.raises(EngineError, match=rf"token {tokens[wrong]} at index 1"):
            grammar.allowed([x, tokens[wrong]])
        assert grammar.allowed([x])[x]  # nothing was harmed


def test_a_closed_grammar_says_so(model: Model) -> None:
    grammar = guide(model, 'root ::= "x"')
    grammar.allowed(model.tokenize("x"))
    grammar.close()
    grammar.close()
    with pytest.raises(EngineError, match="closed"):
        grammar.allowed([])


# What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gbnf", "says"),
    [
        ("", "empty"),
        ("# nothing", "there is no rule 'root'"),
        ('root ::= "a"\n\nb :: "c"', "line 3: expecting ::="),
        ('root ::= item\nother ::= "x"', "line 1: undefined rule at 'item'"),
        ('root ::= "b"\nother ::= "a\n', "line 2: nothing closes this at '\"a'"),
        ("root ::= [a-z\n\n", "line 1: nothing closes this at '[a-z'"),
        ('root ::= "a" (\n"b"', "line 2: expecting ')'"),
        ('root ::= "a" (\n"b"\n\n\n', "line 2: expecting ')' at its end"),
        ('root ::= ("a"\r\nb = 3\r\n' + 'c ::= "d"\r\n' * 99, "line 2: expecting ')' at '= 3'"),
        ('root ::= "\\x4"\n', "line 1: expecting 2 hex chars at '4\"'"),
        ('root ::= "\\q"', "line 1: unknown escape"),
        ('other ::= "a"', "'root'"),
        ('root ::= "b"\nw ::= "a"{3,2}', "line 2: not a repetition of 0 to 2000 times at '{3,2}'"),
        ("root ::= root", "no text can follow"),
        ("root ::= <nothing>", "<nothing> is not a token of the model"),
        ("root ::= <[99999999]>", "<[99999999]> is not a token of the model"),
        ('root ::= "a" <|im_end|>', "<|im_end|> ends an answer; leave it out"),
        ('root ::= "a" \\- b', "line 1: unexpected at"),
        ('root ::= "" | root "' + "ab" * 40_000 + '"', "more parts than llguidance can hold"),
        ('root ::= "a"{0,5000}', "0 to 2000"),
        ('root ::= "a"{' + "9" * 5000 + "}", "0 to 2000"),
        ("root ::= " + "(" * 50_000 + '"a"', "nested"),
        ('root ::= "a"\0', "NUL"),
        ('root ::= "\ud800"', "surrogate"),
    ],
)
def test_a_wrong_grammar_is_refused_with_its_line(
    model: Model, gbnf: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as raised:
        guide(model, gbnf)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 150
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("regex", r"a\bc", "lookarounds not supported"),
        ("regex", "(?=a)b", "look-ahead"),
        ("regex", r"(a)\1", "backreferences are not supported"),
        ("regex", "[a&&b]", "regex: no text matches it"),
        ("regex", "(" * 50_000 + ")" * 50_000, "nested"),
        ("lark", "start: <[2]>", "no text can follow"),
        ("lark", "start: <[999999]>", "line 1, column 8: Token range end too large"),
        ("lark", 'start: <|nope|> "a"', 'unknown special token: "<|nope|>"'),
        ("lark", "start: X\n%import common.X", "Unknown common regex: common.X"),
        ("lark", '%llguidance {"lazy": true}\nstart: "a"', "%llguidance: lazy is not supported"),
        ("lark", "start: " + "(" * 50_000, "nested"),
    ],
)
def test_a_wrong_regex_or_lark_grammar_is_refused_by_name(
    model: Model, kind: Kind, text: str, says: str
) -> None:
    with pytest.raises(UsageError) as raised:
        Guide(model, Constraint(kind, text))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_any_token_but_one(model: Model, ends: frozenset[int]) -> None:
    control = next(t for t in model.special_tokens() if t not in ends)
    name = model.piece(control, special=True).decode()
    for text in (f"root ::= !<[{control}]>", f"root ::= !{name}"):
        with guide(model, text) as grammar:
            assert set(np.flatnonzero(~grammar.allowed([]))) == {control, *ends}
    with guide(model, f"root ::= !<[{min(ends)}]>") as grammar:
        assert set(np.flatnonzero(~grammar.allowed([]))) == ends


def test_recursion_that_ends_is_no_error(model: Model) -> None:
    with guide(model, 'root ::= ws root | "x"\nws ::= " "*') as grammar:
        assert grammar.allowed(model.tokenize("  "))[model.tokenize("x")[0]]


# JSON schemas ----------------------------------------------------------------------------------


def accepted(model: Model, schema: Any, text: str) -> bool:
    with guide_of(model, schema) as guide:
        tokens = model.tokenize(text)
        if not all(guide.allowed(tokens[:i])[token] for i, token in enumerate(tokens)):
            return False
        return bool(guide.allowed(tokens)[model.eos])


TREE = {
    "$ref": "#/$defs/Tree_of",
    "$defs": {
        "Tree_of": {
            "properties": {
                "sub": {"anyOf": [{"$ref": "#/$defs/Tree_of"}, {"type": "null"}]},
            },
            "required": ["sub"],
        }
    },
}
POINT = {"properties": {k: {"type": "integer"} for k in "abc"}, "required": ["b"]}


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({}, '[1, {"a": null}, "x\\n"]', "[1,]"),
        ({"type": "object"}, '{"a": [true], "é": {}}', "[]"),
        ({"type": "object"}, '{\n  "a": -1.5e+10\n}', '{"a": 01}'),
        ({"type": "string"}, '"\\u00e9"', '"a\tb"'),
        ({"type": ["string", "null"], "maxLength": 2}, '"ab"', '"abc"'),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1}, "[true,false]", "[]"),
        ({"type": "array", "minItems": 2, "maxItems": 3}, "[1,2,3]", "[1,2,3,4]"),
        ({"maxItems": 0}, "[]", "[1]"),
        ({"prefixItems": [{"type": "null"}, {"const": 1}]}, "[null,1]", "[1]"),
        ({"enum": ["a\\b", 'c"d', None, 1.5, {"k": []}]}, '"a\\\\b"', '"a\\b"'),
        ({"type": ["string", "integer"], "enum": ["a", 1, True]}, "1", "true"),
        ({"const": {"k": ["🦙"]}}, '{"k": ["🦙"]}', "{}"),
        (POINT, '{"a": 1, "b": 2, "c": 3}', '{"a": 1, "c": 3}'),
        (POINT, '{"b":2}', "{}"),
        ({"properties": {"a": True, "b": {}}}, '{"b": []}', '{"b": [], "a": 1}'),
        ({"properties": {"a": {"type": "null"}}}, "{}", "{,}"),
        ({"additionalProperties": {"type": "null"}}, '{"x": null, "y": null}', '{"x": 1}'),
        ({"additionalProperties": False}, "{}", '{"x": 1}'),
        ({"allOf": [{"type": "integer"}], "title": "n"}, "-12", "1.5"),
        (TREE, '{"sub": {"sub": null}}', '{"sub": {}}'),
        ({"type": "string", "format": "date"}, '"2024-12-31"', '"2024-11-31"'),
        ({"type": "string", "format": "time"}, '"23:59:59.5+01:00"', '"24:00:00Z"'),
        (
            {"format": "uuid"},
            '"00000000-0000-4000-8000-00000000000f"',
            '"00000000-0000-4000-8000-0000"',
        ),
        ({"type": "integer", "minimum": 3, "exclusiveMaximum": 12}, "11", "12"),
        ({"type": "integer", "multipleOf": 7}, "21", "22"),
        ({"type": "number", "minimum": -0.5, "maximum": 1.25}, "-0.25", "1.26"),
        ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, '"AB-7"', '"AB-"'),
        ({"type": "string", "format": "email"}, '"a.b@example.org"', '"a.b"'),
        ({"type": "string", "format": "ipv4"}, '"10.0.0.255"', '"10.0.0.256"'),
        (
            {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
            '{"a": 1, "b": null}',
            '{"a": 1, "b": 2}',
        ),
        ({"patternProperties": {"^x": {"type": "null"}}}, '{"xy": null}', '{"xy": 1}'),
        ({"propertyNames": {"pattern": "^[a-z]+$"}}, '{"ab": [1]}', '{"Ab": [1]}'),
        (
            {"propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}},
            '{"b": null}',
            '{"c": null}',
        ),
        ({"propertyNames": {"maxLength": 2}}, '{"ab": 1}', '{"abc": 1}'),
        ({"propertyNames": {"format": "date"}}, '{"2024-12-31": 1}', '{"2024-11-31": 1}'),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "-4" + "0" * 18, "1.5"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1e300}, "1.5", "-1"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "[null]", "[1]"),
        ({"allOf": [POINT, {"required": ["a"]}]}, '{"a":1,"b":2}', '{"b":2}'),
        ({"anyOf": [{"type": "null"}, {"items": {"$ref": "#/anyOf/0"}}]}, "[null]", "[1]"),
        ({"$defs": {"a b": {"type": "null"}}, "$ref": "#/$defs/a%20b"}, "null", "1"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "1", '"1"'),
        ({"minProperties": 1, "maxProperties": 2, "type": "object"}, '{"a":1}', "{}"),
        ({"type": "string", "maxLength": 5000}, '"abc"', "1"),
    ],
)
def test_a_schema_accepts_what_it_describes(
    model: Model, schema: dict[str, Any], right: str, wrong: str
) -> None:
    assert accepted(model, schema, right)
    assert accepted(model, json.dumps(schema), right)
    assert not accepted(model, schema, wrong)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("{", "not JSON: "),
        ("[]", "an object or true"),
        ("false", "an object or true"),
        ("[" * 100_000, "deep"),
        ({"not": {"type": "string"}}, "not is not supported"),
        ({"properties": {"a": {"if": {}, "then": {}}}}, "if, then is not supported"),
        ({"contains": {}}, "contains is not supported"),
        ({"type": "string", "format": "hostess"}, "Unknown format: hostess"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": []}, "Unsatisfiable"),
        ({"type": None}, "type must be a string"),
        ({"format": []}, "Expected string for 'format'"),
        ({"required": [[]]}, "Expected string for 'required'"),
        ({"anyOf": {}}, "anyOf must be an array"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum (3) is greater"),
        ({"$ref": "https://example.org/schema"}, "https://example.org/schema"),
        ({"$ref": "#/$defs/x"}, "'/$defs/x' does not exist"),
        ({"type": "string", "enum": [1, True, None]}, "Unsatisfiable"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance is not supported"),
        ({"propertyNames": {"format": "time"}}, "propertyNames with format"),
        ({"const": float("nan")}, "not a JSON value"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_by_name(
    model: Model, schema: Any, says: str
) -> None:
    with pytest.raises(UsageError) as raised:
        guide_of(model, schema)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_numbers_and_blanks_come_to_an_end(model: Model) -> None:
    """Neither has a longest form in JSON, and a small model may go on with either for ever."""
    three = model.tokenize("3")[0]
    with guide_of(model, {"type": "number"}) as guide:
        answer: list[int] = []
        while guide.allowed(answer)[three]:
            answer.append(three)
        assert len(answer) == 32
        assert guide.allowed(answer)[model.eos]
    written = Constraint("lark", 'start: "n=" %json {"type": "number"}')
    with Guide(model, written) as guide:
        answer = [*model.tokenize("n=", continues=True), *[three] * 31]
        assert guide.allowed(answer)[three] and not guide.allowed([*answer, three])[three]
    blanks = {"type": "array", "items": {"type": "null"}}
    assert accepted(model, blanks, "[\n" + " " * 20 + "null]")
    assert not accepted(model, blanks, "[\n" + " " * 21 + "null]")
    digits = {"type": "string", "pattern": "^[0-9]{40}$"}
    assert accepted(model, digits, '"' + "7" * 40 + '"')


def test_a_text_may_be_spelled_in_any_tokens(model: Model, pieces: list[bytes]) -> None:
    """Allowing the tokenizer's own tokens alone would change the model's distribution."""
    with guide_of(model, {"properties": {"country": {}}, "required": ["country"]}) as g:
        mask = g.allowed(model.tokenize('{"'))
    expected = {t for t, piece in enumerate(pieces) if piece and b'country":'.startswith(piece)}
    assert {pieces[t] for t in expected} > {b"c", b"count", b"country"}
    assert set(np.flatnonzero(mask)) == expected


# Its vocabulary lacks some bytes of what lies beyond. A DEL is written as an escape.
texts = st.text(
    st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x7f"),
    max_size=4,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=20, deadline=None)
@given(value=json_values)
def test_any_json_value_is_accepted(model: Model, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert accepted(model, {}, text)
    assert accepted(model, {"const": value}, text)
