"""The strength curves and the interpolation frontier as a picture. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.output_file import write_picture


def check_plot(path: Path) -> None:
    """Refuses, before anything is measured, what could not be drawn.

    Raises:
        UsageError: matplotlib is missing, or the ending names no picture format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            "a plot needs matplotlib, in the extra `plot`: pip install 'eftlocal[plot]'"
        ) from None
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UsageError(f"cannot write {path}: its ending must be one of {', '.join(known)}")


def plot(figures: dict[str, Any], path: Path) -> None:
    """Writes the picture in the format that the file's ending names."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = picture.subplots(1, 2)
    scored = {name: parts["all"] for name, parts in figures["scored"].items()}
    for dial, at_zero in (("beta", "small tuned"), ("alpha", "large base")):
        points = [(0.0, scored[at_zero]), (1.0, scored["beta 1"])]
        points += [
            (float(name.removeprefix(dial)), found)
            for name, found in scored.items()
            if name.startswith(f"{dial} ") and name != "beta 1"
        ]
        points.sort(key=lambda point: point[0])
        left.plot([x for x, _ in points], [of["exact"] for _, of in points], "o-", label=dial)
    for name, line in (("large tuned", "--"), ("small tuned", ":")):
        left.axhline(scored[name]["exact"], linestyle=line, color="gray", label=name)
    left.set(xlabel="strength", ylabel="exact gold answers", title="Strength of the delta")
    left.set_ylim(0, 1)
    left.legend()

    between = figures["interpolation"]
    shares = [float(share) for share in between]
    for key in ("fact", "warm format", "plain format"):
        right.plot(shares, [found[key] for found in between.values()], "o-", label=key)
    right.set(xlabel="lambda", ylabel="share of answers", title="Between two tuned models")
    right.set_ylim(0, 1.02)
    right.legend()
    write_picture(picture, path)
