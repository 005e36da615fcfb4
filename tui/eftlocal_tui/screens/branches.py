"""The map of a conversation: all its branches as a tree, and where the chat is in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static, Tree
from textual.widgets.tree import TreeNode

from eftlocal_tui.history import Turn
from eftlocal_tui.keys import bindings
from eftlocal_tui.screens.base import BaseScreen
from eftlocal_tui.text import fitted
from eftlocal_tui.widgets.key_bar import KeyBar

_INDENT = 2  # columns a level
_SHORTEST = 16  # cells of a label


@dataclass
class _Below:
    """What is below a turn: how many turns, and when one of them was the leaf last."""

    turns: int
    visited: int


class BranchesScreen(BaseScreen[int | None]):
    """Gives the turn to go to, or None.

    Turns that follow each other stand below each other, however many there are; only other
    branches are set in, under the turn that stands in their place on this one.

    Args:
        turns: the whole tree, parents before their children.
        shown: those of the branch that the chat shows.
        at: where the cursor is.
    """

    BINDINGS = bindings("branches")
    PLACE = "branches"

    def __init__(self, turns: Sequence[Turn], shown: Collection[int], at: int | None) -> None:
        super().__init__()
        self._shown, self._at = set(shown), at
        self._children: dict[int | None, list[Turn]] = {}
        for turn in turns:
            self._children.setdefault(turn.parent, []).append(turn)
        self._below = {turn.id: _Below(0, turn.visited) for turn in turns}
        for turn in reversed(turns):
            if turn.parent is not None:
                above, below = self._below[turn.parent], self._below[turn.id]
                above.turns += 1 + below.turns
                above.visited = max(above.visited, below.visited)
        leaves = sum(turn.id not in self._children for turn in turns)
        self._head = (
            f"Branches · {_number(leaves, 'branch', 'es')}, {_number(len(turns), 'message')}"
        )

    def compose(self) -> ComposeResult:
        yield Static(self._head, id="head", markup=False)
        tree: Tree[int] = Tree("")
        tree.show_root, tree.guide_depth, tree.auto_expand = False, _INDENT, False
        yield tree
        yield KeyBar()

    def on_mount(self) -> None:
        tree = self.query_one(Tree)
        at = self._lay(tree)
        self.set_focus(tree)
        if at is not None:
            node: TreeNode[int] | None = at.parent
            while node is not None:  # a branch that is folded shows what is meant
                node.expand()
                node = node.parent
            self.call_after_refresh(tree.move_cursor, at)

    def _lay(self, tree: Tree[int]) -> TreeNode[int] | None:
        """Puts all turns into the tree; gives the one that the cursor is to be at."""
        tree.root.expand()
        found = None
        waiting = [(tree.root, self._children.get(None, []), 0)]
        while waiting:
            under, turns, depth = waiting.pop()
            while turns:
                first = max(turns, key=lambda turn: (turn.id in self._shown, self._last(turn)))
                node = under.add(self._label(first, depth, len(turns) > 1), first.id, expand=True)
                node.allow_expand = len(turns) > 1
                found = node if first.id == self._at else found
                for turn in turns:
                    if turn is not first:
                        below = self._children.get(turn.id, [])
                        label = self._label(turn, depth + 1, bool(below), apart=True)
                        other = node.add(label, turn.id)
                        other.allow_expand = bool(below)
                        found = other if turn.id == self._at else found
                        waiting.append((other, below, depth + 2))
                turns = self._children.get(first.id, [])
        return found

    def _last(self, turn: Turn) -> int:
        return self._below[turn.id].visited

    def _label(self, turn: Turn, depth: int, folds: bool, *, apart: bool = False) -> Text:
        notes = []
        answers = len(self._children.get(turn.id, [])) if turn.role == "user" else 1
        if answers > 1:
            notes.append(f"{answers} answers")
        if apart and (below := self._below[turn.id].turns):
            notes.append(f"{_number(below, 'message')} below")
        if turn.id in self._shown and not self._shown & self._ids(turn):
            notes.append("you are here")
        tail = "".join(f" · {note}" for note in notes)
        room = self.app.size.width - 8 - _INDENT * (depth + 1) - len(tail)
        words = fitted(turn.answer or "(no text)", max(room, _SHORTEST))
        label = Text(f"{'' if folds else '  '}{'›' if turn.role == 'user' else ' '} {words}")
        label.append(tail, "italic")
        label.stylize("bold" if turn.id in self._shown else "dim")
        return label

    def _ids(self, turn: Turn) -> set[int]:
        return {child.id for child in self._children.get(turn.id, [])}

    def action_open(self) -> None:
        node = self.query_one(Tree).cursor_node
        self.leave(node.data if node is not None else None)

    def on_tree_node_selected(self, event: Tree.NodeSelected[int]) -> None:
        self.leave(event.node.data)

    def action_back(self) -> None:
        self.leave(None)


def _number(count: int, what: str, many: str = "s") -> str:
    return f"{count:,} {what}{many * (count != 1)}"
