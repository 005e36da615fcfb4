"""What every model would have said in a token's place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.text import Text
from textual.widgets import Static

from eftlocal.study.inspection import COMBINATION, Candidate, InspectedToken
from eftlocal.study.verdict import percent
from eftlocal.terminal_text import one_line
from eftlocal_tui.text import fitted

_LONGEST = 16  # cells of a candidate
_GAP = "  "


class TokenTable(Static):
    """A row for each model and one for all together: what the token's probability is there, and
    the most probable ones, as many as there is room for."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._token: InspectedToken | None = None

    def show(self, token: InspectedToken) -> None:
        rows = len(token.probabilities)
        if self._token is None or rows != len(self._token.probabilities):
            self.styles.height = rows
        self._token = token
        self.refresh()

    def render(self) -> Text:
        return Text() if self._token is None else table(self._token, self.size.width)


def table(token: InspectedToken, width: int) -> Text:
    """The rows, in a width of cells."""
    names = [*(name for name in token.probabilities if name != COMBINATION), COMBINATION]
    shown = ["together" if name == COMBINATION else name for name in names]
    longest = max(map(cell_len, shown))
    used = longest + len(" 100.0% │ ")
    labels = [[_label(candidate) for candidate in token.candidates.get(n, ())] for n in names]
    columns: list[int] = []
    for column in zip_longest(*labels, fillvalue=""):
        cells = max(map(cell_len, column)) + len(" 100%")
        if columns and used + cells > width:
            break
        columns.append(cells)
        used += cells + len(_GAP)
    text = Text()
    for name, of, row in zip(names, shown, labels, strict=True):
        text.append("\n" if text else "")
        text.append(f"{of:<{longest}} {token.probabilities[name]:>6.1%} │ ")
        text.append_text(_row(token, token.candidates.get(name, ()), row, columns))
    return text


def _row(
    token: InspectedToken,
    candidates: Sequence[Candidate],
    labels: Sequence[str],
    columns: Sequence[int],
) -> Text:
    text = Text()
    for candidate, label, cells in zip(candidates, labels, columns, strict=False):
        share = percent(candidate.probability)
        blank = " " * (cells - cell_len(label) - len(share))
        itself = candidate.token == token.token
        text.append(f"{label}{blank}{share}", "bold reverse" if itself else "")
        text.append(_GAP)
    return text


def _label(candidate: Candidate) -> str:
    """A leading blank is a dot, so that it can be told from none."""
    text = candidate.label.replace("\n", "↵")
    if text.startswith(" "):
        text = "·" + text[1:]
    return fitted(one_line(text, 2 * _LONGEST) or "·", _LONGEST)
