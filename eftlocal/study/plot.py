"""Pictures of figures with their intervals. Needs matplotlib, which is the extra `plot`."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.errors import UsageError
from eftlocal.output_file import write_whole
from eftlocal.study.statistics import Interval


def check_plot(path: Path | None) -> None:
    """Refuses a picture that could not be drawn, before anything is measured; None is none.

    Raises:
        UsageError: matplotlib is missing, or the file's ending names no picture format.
    """
    if path is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib, from the extra `plot`: pip install 'eftlocal[plot]'"
        ) from None
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UsageError(f"cannot write {path}: its ending must be one of {', '.join(known)}")


def panels(
    count: int, *, columns: int = 2, width: float = 5.5, height: float = 4.2
) -> tuple[Any, list[Any]]:
    """A picture of so many panels, at least one, with its axes; sizes in inches a panel."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    picture = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(picture.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[max(1, count) :]:
        unused.set_axis_off()
    return picture, axes[: max(1, count)]


def curve(
    axes: Any,
    x: Sequence[float],
    found: Sequence[Interval] | Sequence[float],
    label: str = "",
    *,
    joined: bool = True,
) -> None:
    """Points at x with a 95% band; not joined, each with a line of its own."""
    values, low, high = _ends(found)
    (drawn,) = axes.plot(x, values, "o-" if joined else "o", markersize=4, label=label)
    if joined:
        axes.fill_between(x, low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)
    else:
        axes.vlines(x, low, high, color=drawn.get_color())


def bars(axes: Any, labels: Sequence[str], found: Sequence[Interval]) -> None:
    """Horizontal bars from the top down, each with its 95% interval."""
    values, low, high = _ends(found)
    at = range(len(labels))
    axes.barh(at, values, color="#e08a3c")
    axes.hlines(at, low, high, color="black", linewidth=1)
    # A dollar sign would begin mathematics.
    axes.set_yticks(at, [label.replace("$", r"\$") for label in labels])
    axes.invert_yaxis()


def save(picture: Any, path: Path) -> None:
    """Writes the picture in the format that the file's ending names, the same for the same figures.

    Raises:
        UsageError: the file cannot be written; what was there is as it was.
    """
    from matplotlib import rc_context

    data, kind = io.BytesIO(), path.suffix[1:].lower()
    with rc_context({"svg.hashsalt": "eftlocal"}):
        picture.savefig(data, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_whole(path, data.getvalue())


def _ends(found: Sequence[Interval] | Sequence[float]) -> Any:
    """(3, n) values, low and high ends."""
    rows = [of if isinstance(of, tuple) else (of, of, of) for of in found]
    return np.array(rows, dtype=np.float64).reshape(-1, 3).T
