"""The classes of token of a survey as a picture. Needs matplotlib (`evaluate.plot.check_plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eftlocal.output_file import write_picture


def plot_survey(figures: dict[str, Any], path: Path, *, top: int = 20) -> None:
    """Means of classes and of single tokens with their intervals, in the file's format."""
    from matplotlib.figure import Figure

    most = figures["most"][:top]
    rows = max(len(figures["classes"]), len(most), 4)
    picture = Figure(figsize=(11, 1.2 + 0.27 * rows), layout="constrained")
    left, right = picture.subplots(1, 2)
    classes = {f"{kind} ({of['n']:,})": of["mean"] for kind, of in figures["classes"].items()}
    # A dollar sign would begin mathematics.
    tokens = [(f"{of['label']!r} ({of['n']:,})".replace("$", r"\$"), of["mean"]) for of in most]
    _bars(left, list(classes.items()), "classes of token")
    _bars(right, tokens, "tokens moved most")
    left.set_xlabel(f"mean {figures['measure']} [95%]")
    right.set_xlabel(figures["about"])
    write_picture(picture, path)


def _bars(axes: Any, groups: list[tuple[str, Any]], title: str) -> None:
    axes.set_title(title)
    for at, (_, mean) in enumerate(groups):
        axes.barh(at, mean.value, color="#e08a3c")
        axes.plot([mean.low, mean.high], [at, at], color="black", linewidth=1)
    axes.set_yticks(range(len(groups)), [label for label, _ in groups])
    axes.invert_yaxis()
