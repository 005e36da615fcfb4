"""The figures of a benchmark: medians and ratios with intervals, their tables, their picture."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group

from eftlocal.speculation.settings import Totals
from eftlocal.study.machine import BUSY
from eftlocal.study.plot import bars, curve, panels, save
from eftlocal.study.report import interval, number, table, titled
from eftlocal.study.statistics import Interval, median

BASE, PLAIN = "base alone", "plain emulation"

_GIB = 1 << 30
_REASON = 17  # characters a line: tables are to fit 80 columns


@dataclass(frozen=True)
class Run:
    """A prefill and an answer, each from empty caches.

    Attributes:
        turn: index of the prompt and repetition; equal for the modes to be compared.
        prefill: tokens a second of a prompt of given length.
        first_token: seconds from the call to the first token.
        rate: tokens a second after the first round; 0 where the first round brought all.
        joules: of the whole answer; None where the machine does not tell.
        totals: what became of the drafts.
        text: the answer.
    """

    mode: str
    turn: int
    prefill: float
    tokens: int
    first_token: float
    rate: float
    joules: float | None
    totals: Totals
    text: str


def figures(runs: Sequence[Run], recipes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By mode: rates in tokens a second, seconds, joules a token, drafts.

    Every figure that was measured is [median, low, high] of a 95% interval, over all turns; the
    ratios are taken turn by turn.

    Args:
        recipes: mode to its recipe in words.
    """
    by_mode = {mode: [run for run in runs if run.mode == mode] for mode in recipes}

    def over(own: Sequence[Run], other: str, rate: Callable[[Run], float]) -> list[float]:
        """The ratio of rates; turns without a rate are left out."""
        below = {run.turn: rate(run) for run in by_mode.get(other, ())}
        pairs = [(rate(run), below.get(run.turn, 0.0)) for run in own]
        return list(median([a / b for a, b in pairs if a and b]))

    plain_texts = {run.turn: run.text for run in by_mode[PLAIN]}
    return {
        mode: {
            "recipe": recipes[mode],
            "answers": len(own),
            "prefill_tokens_per_second": list(median([run.prefill for run in own])),
            "first_token_seconds": list(median([run.first_token for run in own])),
            "decode_tokens_per_second": list(median([run.rate for run in own if run.rate])),
            "decode_over_plain": over(own, PLAIN, lambda run: run.rate),
            "decode_over_base": over(own, BASE, lambda run: run.rate),
            "prefill_over_plain": over(own, PLAIN, lambda run: run.prefill),
            "joules_per_token": list(
                median([run.joules / run.tokens for run in own if run.joules is not None])
            ),
            "same_text_as_plain": None
            if mode == BASE
            else sum(run.text == plain_texts[run.turn] for run in own) / len(own),
            **_drafts([run.totals for run in own]),
        }
        for mode, own in by_mode.items()
    }


def _drafts(totals: Sequence[Totals]) -> dict[str, Any]:
    """What became of the drafts of all answers together."""

    def by_position(of: Callable[[Totals], list[int]]) -> list[int]:
        longest = max(len(of(t)) for t in totals)
        return [sum(of(t)[i] for t in totals if i < len(of(t))) for i in range(longest)]

    tried, accepted = by_position(lambda t: t.tried), by_position(lambda t: t.accepted)
    drafts = sum(t.drafts for t in totals)
    seconds = {
        part: sum(getattr(t, f"{part}_seconds") for t in totals)
        for part in ("draft", "verify", "combine")
    }
    whole = sum(seconds.values()) or 1.0
    return {
        "rounds": sum(t.rounds for t in totals),
        "drafts": drafts,
        "looked_up": sum(t.looked_up for t in totals),
        "acceptance": sum(accepted) / sum(tried) if drafts else None,
        "accepted_length": sum(accepted) / drafts if drafts else None,
        "tried_by_position": tried,
        "accepted_by_position": accepted,
        "time_share": {part: spent / whole for part, spent in seconds.items()},
    }


def tables(report: dict[str, Any]) -> Iterator[Group]:
    """Speed; drafts, memory, energy."""
    settings, modes = report["settings"], report["modes"]
    columns = ("prefill tok/s", "first token", "decode tok/s", "over plain [95%]", "over base")
    rows = [
        (
            name,
            number(found["prefill_tokens_per_second"][0], ".1f"),
            number(found["first_token_seconds"][0], ".3f"),
            number(found["decode_tokens_per_second"][0], ".1f"),
            interval(found["decode_over_plain"]),
            number(found["decode_over_base"][0]),
        )
        for name, found in modes.items()
    ]
    rows += [
        (name, "", "", "", textwrap.fill(why, _REASON), "")
        for name, why in report["not_measured"].items()
    ]
    yield titled(
        f"Speed: {settings['prompts']} prompts x {settings['repeat']}, at most "
        f"{settings['max_tokens']} tokens; prefill of {settings['prompt_tokens']}",
        table(("", *columns), rows),
    )
    columns = ("accepted share", "accepted a draft", "same text", "peak memory", "joules a token")
    yield titled("Drafts, memory, energy", table(("", *columns), (
        (
            name,
            "no drafts" if found["acceptance"] is None else f"{found['acceptance']:.0%}",
            "-" if found["acceptance"] is None else f"{found['accepted_length']:.2f}",
            "-" if name == BASE else f"{found['same_text_as_plain']:.0%}",
            f"{found['peak_bytes'] / _GIB:.2f} GiB",
            number(found["joules_per_token"][0]) if report["meters"] else "not told",
        )
        for name, found in modes.items()
    )))  # fmt: skip


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What a reader must know of these figures."""
    where = report["machine"]
    yield ", ".join([where["processor"], f"{where['cores']} cores", *where["devices"]])
    if where["busy_percent"] > BUSY:
        yield (
            f"the machine was busy before ({where['busy_percent']:.0f}% of its cores): expect "
            "slower and noisier figures"
        )
    if report["meters"]:
        yield f"energy of the whole {' and '.join(report['meters'])}, other programs included"
    for name, of in report["modes"].items():
        if of["device_bytes"]:
            yield f"{name}: {of['device_bytes'] / _GIB:.2f} GiB of device memory came into use"


def plot(report: dict[str, Any], path: Path) -> None:
    """Decode rates of the modes, and acceptance by position, as a picture.

    Raises:
        UsageError: the file cannot be written.
    """
    picture, (left, right) = panels(2)
    modes = report["modes"]
    bars(left, list(modes), [Interval(*of["decode_tokens_per_second"]) for of in modes.values()])
    left.set(xlabel="tokens a second (median, 95%)", title="Decoding")
    for name, of in modes.items():
        judged = zip(of["accepted_by_position"], of["tried_by_position"], strict=True)
        shares = [accepted / tried for accepted, tried in judged if tried]
        if shares:
            curve(right, range(1, len(shares) + 1), shares, name)
    right.set(xlabel="position in the draft", ylabel="share accepted", title="Drafts")
    right.set_ylim(0, 1.02)
    if right.lines:
        right.legend()
    save(picture, path)
