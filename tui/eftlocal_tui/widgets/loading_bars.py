"""How far a load has come: a line for each file and stage."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widgets import Static

from eftlocal.disk import readable
from eftlocal.terminal_text import one_line
from eftlocal_tui.engine import Progress
from eftlocal_tui.pace import Pace, duration
from eftlocal_tui.text import bar

_AGAIN = 0.5  # seconds between two looks at the clock
_MOMENT = 1.0  # seconds that pass without a word of time
_DOING = {
    "waiting": "Waiting for {}",
    "download": "Downloading {}",
    "checking": "Checking for the first time: {}",
    "weights": "Loading {}",
    "measuring": "Measuring {} for drafts",
}


class LoadingBars(Static):
    """Nothing where no load is on its way."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._paces: dict[tuple[str, str], Pace] = {}

    def on_mount(self) -> None:
        self.set_interval(_AGAIN, self._draw)

    def show(self, batch: Sequence[Progress]) -> None:
        for progress in batch:
            key = progress.stage, progress.name
            if progress.stage != "waiting":  # then it is over
                self._paces = {k: pace for k, pace in self._paces.items() if k[0] != "waiting"}
            self._paces.setdefault(key, Pace()).told(progress.done, progress.total)
        self._draw()

    def clear(self) -> None:
        self._paces.clear()
        self._draw()

    def _draw(self) -> None:
        self.display = bool(self._paces)
        if self._paces:
            self.update("\n".join(_line(*key, pace) for key, pace in self._paces.items()))


def _line(stage: str, name: str, pace: Pace) -> str:
    what = _DOING[stage].format(one_line(name, 40))
    if stage == "waiting":
        return f"{what} · {duration(pace.elapsed)}"
    done = f"{bar(pace.share)} {pace.share:4.0%}"
    if stage == "download":
        parts = [f"{readable(pace.done)} of {readable(pace.total)}"]
        if pace.rate and pace.left is not None and pace.share < 1:
            parts.append(f"{readable(pace.rate)}/s, about {duration(pace.left)} left")
        return " · ".join([f"{done}  {parts[0]}", *parts[1:], what])
    if pace.elapsed < _MOMENT or pace.share >= 1:
        return f"{done}  {what}"
    return f"{done}  {what} · {pace.times()}"
