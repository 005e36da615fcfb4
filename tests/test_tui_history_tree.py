"""The tree of turns against a model of plain dicts, over any order of operations."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from eftlocal_tui.history import AnswerWriter, History, database, from_json, to_json

texts = st.text(max_size=12)


@pytest.fixture(autouse=True)
def not_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The power stays on: trees need not wait for the disk."""
    monkeypatch.setattr(database, "SYNCHRONOUS", {True: "OFF", False: "OFF"})


class Trees(RuleBasedStateMachine):
    """Keeps for every turn its parent, role, text, state, and where its branch was left."""

    chats = Bundle("chats")
    questions = Bundle("questions")
    turns = Bundle("turns")
    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="history"))
        self.history = History(self.folder / "chat.db")
        self.model: dict[int, dict[str, Any]] = {}
        self.leaf: dict[int, int | None] = {}

    def teardown(self) -> None:
        self.history.close()
        shutil.rmtree(self.folder)

    def path(self, turn: int | None) -> Iterator[int]:
        while turn is not None:
            yield turn
            turn = self.model[turn]["parent"]

    def put(self, chat: int, parent: int | None, turn: int, **values: Any) -> int:
        self.model[turn] = {"chat": chat, "parent": parent, **values}
        self.leave_at(chat, turn)
        return turn

    def leave_at(self, chat: int, leaf: int) -> None:
        self.leaf[chat] = leaf
        for turn in self.path(leaf):
            self.model[turn]["left at"] = leaf

    def alive(self, turn: int) -> bool:
        return turn in self.model

    @initialize(target=chats)
    def begin(self) -> Any:
        return self.create()

    @rule(target=chats)
    def create(self) -> int:
        chat = self.history.conversations.create().id
        self.leaf[chat] = None
        return chat

    @rule(target=questions, chat=chats, text=texts)
    def ask(self, chat: int, text: str) -> int:
        if chat not in self.leaf:
            return 0
        parent = self.leaf[chat]
        turn = self.history.turns.ask(chat, text).id
        return self.put(chat, parent, turn, role="user", text=text, state="done")

    @rule(target=questions, turn=st.one_of(turns, questions), text=texts)
    def ask_there(self, turn: int, text: str) -> int:
        if not self.alive(turn):
            return 0
        chat = self.model[turn]["chat"]
        new = self.history.turns.ask(chat, text, parent=turn).id
        return self.put(chat, turn, new, role="user", text=text, state="done")

    @rule(target=questions, question=questions, text=texts)
    def edit(self, question: int, text: str) -> int:
        if not self.alive(question):
            return 0
        old = self.model[question]
        new = self.history.turns.edit(question, text).id
        return self.put(old["chat"], old["parent"], new, role="user", text=text, state="done")

    @rule(target=writers, question=questions, prefix=texts)
    def answer(self, question: int, prefix: str) -> AnswerWriter | None:
        if not self.alive(question):
            return None
        writer = self.history.answer(question, prefix=prefix)
        values = {"role": "assistant", "text": prefix, "state": "streaming"}
        self.put(self.model[question]["chat"], question, writer.id, **values)
        return writer

    @rule(writer=writers, text=texts)
    def append(self, writer: AnswerWriter | None, text: str) -> None:
        if writer and self.alive(writer.id) and self.model[writer.id]["state"] == "streaming":
            writer.append(text)
            self.model[writer.id]["text"] += text

    @rule(target=turns, writer=writers, state=st.sampled_from(["done", "stopped", "error"]))
    def close(self, writer: AnswerWriter | None, state: str) -> int:
        if not writer or not self.alive(writer.id):
            return 0
        if self.model[writer.id]["state"] == "streaming":
            if state == "done":
                writer.finish()
            elif state == "stopped":
                writer.stop()
            else:
                writer.fail("?")
            self.model[writer.id]["state"] = state
        return writer.id

    @rule(turn=st.one_of(turns, questions))
    def switch(self, turn: int) -> None:
        if not self.alive(turn):
            return
        chat, leaf = self.model[turn]["chat"], self.model[turn]["left at"]
        assert [t.id for t in self.history.turns.switch(turn)] == [*self.path(leaf)][::-1]
        self.leave_at(chat, leaf)

    @rule(chat=chats, by_file=st.booleans(), target=chats)
    def copy(self, chat: int, by_file: bool) -> int:
        if chat not in self.leaf:
            return 0
        if by_file:
            text = to_json(self.history, [chat])
            (new,) = from_json(self.history, text, "copy")
            assert to_json(self.history, [new.id]) == text
        else:
            new = self.history.conversations.duplicate(chat)
        old = [t for t, values in self.model.items() if values["chat"] == chat]
        ids = dict(zip(old, (t.id for t in self.history.turns.all(new.id)), strict=True))
        self.leaf[new.id] = ids.get(self.leaf[chat] or 0)
        for turn, copied in ids.items():
            values = dict(self.model[turn], chat=new.id)
            values["parent"] = ids.get(values["parent"])
            values["left at"] = ids[values["left at"]]
            if values["state"] == "streaming":
                values["state"] = "stopped"
            self.model[copied] = values
        return new.id

    @rule(chat=chats)
    def delete(self, chat: int) -> None:
        if chat in self.leaf:
            self.history.conversations.delete(chat)
            del self.leaf[chat]
            self.model = {t: v for t, v in self.model.items() if v["chat"] != chat}

    @rule()
    def reopen(self) -> None:
        self.history.close()
        self.history = History(self.folder / "chat.db")
        for values in self.model.values():
            if values["state"] == "streaming":
                values["state"] = "stopped"

    @invariant()
    def agrees(self) -> None:
        listed = {found.id: found.leaf for found in self.history.conversations.list(limit=1000)}
        assert listed == self.leaf
        for chat, leaf in self.leaf.items():
            assert [t.id for t in self.history.turns.path(chat)] == [*self.path(leaf)][::-1]
            for turn in self.history.turns.all(chat):
                values = self.model[turn.id]
                assert (turn.parent, turn.role) == (values["parent"], values["role"])
                assert (turn.text, turn.state) == (values["text"], values["state"])
                peers = [
                    t
                    for t, v in self.model.items()
                    if v["chat"] == chat and v["parent"] == values["parent"]
                ]
                assert (turn.branch, turn.branches) == (peers.index(turn.id) + 1, len(peers))


TestTrees = Trees.TestCase
TestTrees.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
