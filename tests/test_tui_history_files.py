"""Export to Markdown and JSON, and import of the JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from eftlocal_tui.history import (
    Figures,
    History,
    HistoryError,
    Settings,
    database,
    export_file,
    from_json,
    import_file,
    to_json,
    to_markdown,
)
from eftlocal_tui.history.files import contained

FIGURES = Figures(tokens=40, seconds=2.04, first_token=0.5, tokens_per_second=25.3, acceptance=0.5)


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    monkeypatch.setattr(database, "SYNCHRONOUS", {True: "OFF", False: "OFF"})
    with History(tmp_path / "chat.db") as opened:
        yield opened


@pytest.fixture
def chat(history: History) -> int:
    """A conversation with everything in it."""
    chat = history.conversations.create(system="Be brief.").id
    question = history.turns.ask(chat, "Show *code*")
    with history.answer(question.id) as answer:
        answer.append("first try")
        answer.fail("out of_memory")
    with history.answer(
        question.id, Settings(preset="demo", recipe={"beta": 1.0}, seed=3)
    ) as answer:
        answer.append("Here:\n\n```py\nprint(1)\n")
        answer.mark("beta 1 -> 0.5")
        answer.append("# not a heading\n")
        answer.stop(FIGURES)
    return chat


def test_markdown_of_a_path(history: History, chat: int) -> None:
    head, body = to_markdown(history, chat).split("has them all*\n\n")
    assert head.startswith(f"# Show \\*code\\*\n\n*Conversation {chat} · 20")
    assert head.endswith("UTC · branch 2 of 2; the .json export ")
    assert body == (
        "## System\n\nBe brief.\n\n"
        "## User\n\nShow *code*\n\n"
        "## Assistant (2 of 2)\n\n"
        "Here:\n\n```py\nprint(1)\n# not a heading\n```\n\n"
        '*After token 1 ("…Here: \\`\\`\\`py print\\(1\\)"): beta 1 -\\> 0.5*\n\n'
        "*stopped · 40 tokens in 2.0 s · 25 tok/s · first 0.50 s · accepted 50% "
        "· seed 3 · preset demo*\n"
    )


def test_the_branch_that_is_on_the_screen_is_exported(history: History, chat: int) -> None:
    _question, answer = history.turns.path(chat)
    other = history.turns.siblings(answer.id)[0]
    history.turns.ask(chat, "and then?", other.id)  # another process went on there
    text = to_markdown(history, chat, leaf=answer.id)
    assert "branch 1 of 2" in text and "print(1)" in text and "and then?" not in text
    assert "and then?" in to_markdown(history, chat)
    assert "and then?" not in to_markdown(history, chat, leaf=other.id)
    for leaf, last in ((answer.id, answer.text), (other.id, "and then?"), (None, "and then?")):
        (came,) = from_json(history, to_json(history, [chat], leaf), "file")
        assert history.turns.path(came.id)[-1].text == last
        assert came.turns == 4


def test_harmless_texts_stay_as_they_are() -> None:
    text = (
        "A list:\n\n1. one\n\n   ```py\n   # x\n   ```\n\n### Part\n\n| a | b |\n|---|---|\n\n---"
    )
    assert contained(text) == text
    assert contained("a\r\nb\n\n") == "a\nb"
    assert contained("\x1b[31mred\x00\ud800") == "�[31mred��"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title\n\n## User", "### Title\n\n#### User"),
        ("```\nopen", "```\nopen\n```"),
        ("  ~~~~ sh\n~~~\nopen", "  ~~~~ sh\n~~~\nopen\n  ~~~~"),
        ("```\n# in code\n```\n# out", "```\n# in code\n```\n### out"),
        ("<!-- open", "\\<!-- open"),
        ("<details>\nx", "\\<details>\nx"),
        ("User\n----\nx", "User\n\\----\nx"),
        ("> # User", "```text\n> # User\n```"),
        ("- ```\n````\n> # x", "- ```\n````\n> # x\n````"),
    ],
)
def test_texts_that_would_leave_their_turn_are_kept_within(text: str, expected: str) -> None:
    assert contained(text) == expected


FRAGMENTS = (
    "# User|## User|User|===|---|```|````|~~~|```py|``` `|    ```|   ```|> |>|- |1. |  |"
    "\t|\n|\n|\n|\r|<!--|-->|<pre>|<script>|<div>|</div>|<?|<![CDATA[|[a]: b|x|\\|`|***|"
    "#|\x0b|\x0c|\u2028|\x85|\ufeff"
)
fragments = st.sampled_from(FRAGMENTS.split("|"))


@settings(max_examples=300, deadline=None)
@example(texts=["- a\n   ```\nb", "```", "# User"])
@given(texts=st.lists(st.lists(fragments, max_size=12).map("".join), min_size=3, max_size=3))
def test_no_text_ends_its_turn_or_begins_another(texts: list[str]) -> None:
    document = "".join(f"## Role {n}\n\n{contained(text)}\n\n" for n, text in enumerate(texts))
    tokens = MarkdownIt("commonmark").parse(document)
    headings = [
        (token.level, tokens[i + 1].content)
        for i, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag in ("h1", "h2")
    ]
    assert headings == [(0, f"Role {n}") for n in range(3)]
    assert not any(token.type == "html_block" for token in tokens)


def test_long_and_nested_texts_are_exported_quickly_enough() -> None:
    for bomb in (">" * 20_000, "[" * 50_000, "`" * 100_001, "- " * 5_000, "*a " * 30_000):
        assert bomb in contained(bomb).replace("\\", "")


def test_json_brings_everything_back_twice(history: History, chat: int, tmp_path: Path) -> None:
    history.conversations.archive(chat)
    path = export_file(history, [chat], tmp_path / "chat.json")
    (one,), (two,) = import_file(history, path), import_file(history, path)
    assert len({chat, one.id, two.id}) == 3 and one.archived
    assert to_json(history, [one.id]) == to_json(history, [two.id]) == path.read_text("utf-8")
    history.conversations.delete(chat)
    stopped = history.turns.path(one.id)[-1]
    assert stopped.settings == Settings(preset="demo", recipe={"beta": 1.0}, seed=3)
    assert (stopped.figures, stopped.state, len(stopped.marks)) == (FIGURES, "stopped", 1)
    assert [turn.error for turn in history.turns.siblings(stopped.id)] == ["out of_memory", None]
    with History(tmp_path / "other.db") as other:
        assert import_file(other, path)[0].title == "Show *code*"
        assert [hit.turn for hit in other.search("first try")] == [2]


any_text = st.text(st.characters(exclude_categories=()), max_size=30)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(any_text, min_size=1, max_size=4))
def test_json_keeps_every_text(history: History, texts: list[str]) -> None:
    chat = history.conversations.create(system=texts[0]).id
    for text in texts:
        with history.answer(history.turns.ask(chat, text).id, Settings(preset=text)) as answer:
            answer.append(text)
            answer.fail(text)
    (copied,) = from_json(history, to_json(history, [chat]), "a file")
    old, new = history.turns.path(chat), history.turns.path(copied.id)
    assert [(t.text, t.error, t.settings) for t in new] == [
        (t.text, t.error, t.settings) for t in old
    ]
    assert (copied.title, copied.system) == (history.conversations.get(chat).title, old[0].text)


def changed(document: dict[str, Any], place: str, value: Any) -> str:
    """The document as text, with the value at `a/0/b` replaced, or gone where it is `...`."""
    document = copy.deepcopy(document)
    target: Any = document
    *steps, last = [int(step) if step.isdigit() else step for step in place.split("/")]
    for step in steps:
        target = target[step]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format", "other", 'not an export of eftlocal: no "format"'),
        ("version", 3, "version 3 of the format is not supported"),
        ("extra", 1, "x.json: extra: Extra inputs"),
        ("conversations", {}, "x.json: conversations: Input should be a valid list"),
        ("conversations/0/title", ..., r"conversations\[0\].title: Field required"),
        ("conversations/0/title", 5, r"\[0\].title: .* a string is needed, not int"),
        ("conversations/0/created", 1e300, r"\[0\].created: .*less than"),
        ("conversations/0/archived", 1, r"\[0\].archived: .*boolean"),
        ("conversations/0/turns/2/role", "system", r"turns\[2\].role: Input should be 'user'"),
        ("conversations/0/turns/2/state", "streaming", r"turns\[2\].state: Input should be"),
        ("conversations/0/turns/2/parent", 3, r"turns\[2\].parent: 3 is not an earlier turn"),
        ("conversations/0/turns/2/parent", 2, r"turns\[2\].parent: an answer needs a question"),
        ("conversations/0/turns/2/parent", None, r"turns\[2\].parent: an answer needs a question"),
        ("conversations/0/turns/2/id", 1, r"turns\[2\].id: 1 is an earlier turn's"),
        ("conversations/0/turns/2/visited", 2, r"turns\[2\].visited: 2 is another turn's"),
        ("conversations/0/turns/2/visited", 2**62, r"turns\[2\].visited: .*less than"),
        ("conversations/0/turns/2/begins_at", 9, r"turns\[2\].begins_at: 9 is not an earlier turn"),
        ("conversations/0/turns/2/summary", True, r"turns\[2\]: .*only a question asks"),
        ("conversations/0/turns/0/state", "stopped", r"turns\[0\]: .*a question is done"),
        ("conversations/0/turns/2/settings/sede", 1, r"turns\[2\].settings.sede: Extra inputs"),
        ("conversations/0/turns/2/settings/recipe", [], r"settings.recipe: .*an object is needed"),
        ("conversations/0/turns/2/figures/acceptance", 2.0, r"figures.acceptance: .*less than"),
        ("conversations/0/turns/2/marks/0/token", -1, r"marks\[0\].token: .*greater than"),
    ],
)
def test_a_wrong_file_is_refused_whole_with_its_place(
    history: History, chat: int, place: str, value: Any, message: str
) -> None:
    document = json.loads(to_json(history, [chat]))
    with pytest.raises(HistoryError, match=message) as caught:
        from_json(history, changed(document, place, value), "x.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert [found.id for found in history.conversations.list()] == [chat]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"x.json: not JSON: Expecting value \(character 1\)"),
        ('{"a": 1', "not JSON"),
        ("[" * 100_000, "x.json: nested more than 200 deep"),
        ("[1, 2]", "not an export"),
        ('{"format": 1, "format": 2}', "key 'format' is given twice"),
        ('{"format": NaN}', "NaN is not a JSON number"),
        ("1" * 5000, "x.json: an integer of 5000 digits"),
    ],
)
def test_what_is_no_export_is_refused(history: History, text: str, message: str) -> None:
    with pytest.raises(HistoryError, match=message):
        from_json(history, text, "x.json")


def _count(history: History) -> int:
    """Conversations, the archived ones too."""
    return sum(len(history.conversations.list(archived, 10_000)) for archived in (False, True))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_refused_in_one_line(
    history: History, chat: int, data: st.DataObject
) -> None:
    document = json.loads(to_json(history, [chat]))
    places = [*_places(document)]
    value = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | any_text,
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(any_text, inner, max_size=2)
            ),
        )
    )
    text = changed(document, data.draw(st.sampled_from(places)), value)
    before = _count(history)
    try:
        added = from_json(history, text, "x.json")
    except HistoryError as error:
        assert "\n" not in str(error) and str(error).startswith("x.json: ")
        added = []
    assert _count(history) == before + len(added)

    for conversation in added:
        to_markdown(history, conversation.id)
        history.conversations.delete(conversation.id)


def _places(value: Any, path: str = "") -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield f"{path}{key}"
        if isinstance(inner, (dict, list)):
            yield from _places(inner, f"{path}{key}/")


def test_files_are_not_overwritten_unasked(history: History, chat: int, tmp_path: Path) -> None:
    path = export_file(history, [chat], tmp_path / "chat.md")
    assert path.read_text("utf-8") == to_markdown(history, chat)
    with pytest.raises(HistoryError, match=r"chat\.md: already exists"):
        export_file(history, [chat], path)
    with pytest.raises(HistoryError, match=r"ends in \.md or \.json"):
        export_file(history, [chat], tmp_path / "chat.txt")
    with pytest.raises(HistoryError, match="takes one conversation"):
        export_file(history, [chat, chat], tmp_path / "both.md")
    with pytest.raises(HistoryError, match="No such file"):
        export_file(history, [chat], tmp_path / "nowhere" / "chat.md")
    with pytest.raises(HistoryError, match="No such file"):
        import_file(history, tmp_path / "nothing.json")
    (tmp_path / "latin.json").write_bytes(b"\xe9")
    with pytest.raises(HistoryError, match="not valid UTF-8: byte"):
        import_file(history, tmp_path / "latin.json")
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".part"]
