"""Decode rates of the modes, and acceptance by position, as a picture. Needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from eftlocal.output_file import write_picture


def plot(report: dict[str, Any], path: Path) -> None:
    """Writes the picture in the format that the file's ending names (see `check_plot`).

    Raises:
        UsageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = picture.subplots(1, 2)
    found = {name: of["decode_tokens_per_second"] for name, of in report["modes"].items()}
    found = {name: rate for name, rate in found.items() if not math.isnan(rate[0])}
    medians = [rate[0] for rate in found.values()]
    below = [rate[0] - rate[1] for rate in found.values()]
    above = [rate[2] - rate[0] for rate in found.values()]
    left.barh(list(found), medians, xerr=[below, above], color="tab:blue", ecolor="black")
    left.invert_yaxis()
    left.set(xlabel="tokens a second (median, 95%)", title="Decoding")
    for name, of in report["modes"].items():
        judged = [
            accepted / tried
            for accepted, tried in zip(
                of["accepted_by_position"], of["tried_by_position"], strict=True
            )
            if tried
        ]
        if judged:
            right.plot(range(1, len(judged) + 1), judged, "o-", label=name)
    right.set(xlabel="position in the draft", ylabel="share accepted", title="Drafts")
    right.set_ylim(0, 1.02)
    if right.lines:
        right.legend()
    write_picture(picture, path)
