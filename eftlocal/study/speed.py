"""The figures of a benchmark: medians and ratios with intervals, their tables, their picture."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group

from eftlocal.answer import Answer
from eftlocal.speculation.settings import Totals
from eftlocal.study.machine import BUSY
from eftlocal.study.plot import bars, curve, panels, save
from eftlocal.study.report import interval, number, table, titled
from eftlocal.study.statistics import Interval, median

BASE, PLAIN = "base alone", "plain emulation"

_GIB = 1 << 30
_REASON = 17  # characters a line: tables are to fit 80 columns


class Run(NamedTuple):
    """A prefill and an answer, each from empty caches.

    Attributes:
        turn: index of the prompt and repetition; equal for the modes to be compared.
        prefill: tokens a second of a prompt of given length.
        joules: of the whole answer; None where the machine does not tell.
    """

    mode: str
    turn: int
    prefill: float
    joules: float | None
    answer: Answer

    @property
    def rate(self) -> float:
        """Tokens a second after the first round; 0 where that brought all."""
        return self.answer.timing.tokens_per_second


def figures(runs: Sequence[Run], recipes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By mode: rates in tokens a second, seconds, joules a token, drafts.

    Every figure that was measured is [median, low, high] of a 95% interval, over all turns; the
    ratios are taken turn by turn.

    Args:
        recipes: mode to its recipe in words.
    """
    turns = {mode: {run.turn: run for run in runs if run.mode == mode} for mode in recipes}

    def over(mode: str, other: str, rate: Callable[[Run], float]) -> list[float]:
        """Ratios of rates; turns without a rate are left out."""
        found = turns.get(other, {})
        pairs = [(rate(run), rate(found[turn])) for turn, run in turns[mode].items() if found]
        return [a / b for a, b in pairs if a and b]

    def of_mode(mode: str, own: Collection[Run]) -> dict[str, Any]:
        measured = {
            "prefill_tokens_per_second": [run.prefill for run in own],
            "first_token_seconds": [run.answer.timing.first_token for run in own],
            "decode_tokens_per_second": [run.rate for run in own if run.rate],
            "decode_over_plain": over(mode, PLAIN, lambda run: run.rate),
            "decode_over_base": over(mode, BASE, lambda run: run.rate),
            "prefill_over_plain": over(mode, PLAIN, lambda run: run.prefill),
            "joules_per_token": [
                run.joules / len(run.answer.tokens) for run in own if run.joules is not None
            ],
        }
        same = [run.answer.text == turns[PLAIN][run.turn].answer.text for run in own]
        return {
            "recipe": recipes[mode],
            "answers": len(own),
            **{name: list(median(values)) for name, values in measured.items()},
            "same_text_as_plain": None if mode == BASE else sum(same) / len(same),
            **_drafts([run.answer.speculation for run in own]),
        }

    return {mode: of_mode(mode, own.values()) for mode, own in turns.items()}


def _drafts(totals: Sequence[Totals]) -> dict[str, Any]:
    """What became of the drafts of all answers together."""
    whole = Totals()
    for name, empty in vars(whole).items():
        values = [getattr(one, name) for one in totals]
        by_position = isinstance(empty, list)
        added = (
            [sum(at) for at in zip_longest(*values, fillvalue=0)] if by_position else sum(values)
        )
        setattr(whole, name, added)
    seconds = {part: getattr(whole, f"{part}_seconds") for part in ("draft", "verify", "combine")}
    spent = sum(seconds.values()) or 1.0
    return {
        "rounds": whole.rounds,
        "drafts": whole.drafts,
        "looked_up": whole.looked_up,
        "acceptance": whole.acceptance,
        "accepted_length": whole.accepted_length if whole.drafts else None,
        "tried_by_position": whole.tried,
        "accepted_by_position": whole.accepted,
        "time_share": {part: of / spent for part, of in seconds.items()},
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
        f"Speed: {settings['prompts']} prompts x {settings['repeat']}, up to "
        f"{settings['max_tokens']} tokens; prefill of {settings['prompt_tokens']} tokens",
        table(("", *columns), rows),
    )
    columns = (
        "drafts accepted",
        "tokens per draft",
        "same text",
        "peak memory",
        "joules per token",
    )
    yield titled("Drafts, memory, energy", table(("", *columns), (
        (
            name,
            "-" if found["acceptance"] is None else f"{found['acceptance']:.0%}",
            "-" if found["acceptance"] is None else f"{found['accepted_length']:.2f}",
            "-" if name == BASE else f"{found['same_text_as_plain']:.0%}",
            f"{found['peak_bytes'] / _GIB:.2f} GiB",
            number(found["joules_per_token"][0]) if report["meters"] else "n/a",
        )
        for name, found in modes.items()
    )))  # fmt: skip


def notes(report: dict[str, Any]) -> Iterator[str]:
    """What a reader must know of these figures."""
    where = report["machine"]
    yield ", ".join([where["processor"], f"{where['cores']} cores", *where["devices"]])
    for role, of in report["models"].items():
        yield f"{role}: {of['model']}, {of['bytes'] / _GIB:.2f} GiB"
    yield from report["notes"]
    if where["busy_percent"] > BUSY:
        yield (
            f"the CPU was {where['busy_percent']:.0f}% busy before the benchmark: expect slower "
            "and noisier figures"
        )
    if report["meters"]:
        told = " and ".join(report["meters"])
        yield f"energy is that of the whole {told}, other programs included"
    for name, of in report["modes"].items():
        if of["device_bytes"]:
            yield f"{name}: {of['device_bytes'] / _GIB:.2f} GiB of GPU memory used"


def plot(report: dict[str, Any], path: Path) -> None:
    """Decode rates of the modes, and acceptance by position, as a picture.

    Raises:
        UsageError: the file cannot be written.
    """
    picture, (left, right) = panels(2)
    modes = report["modes"]
    bars(left, list(modes), [Interval(*of["decode_tokens_per_second"]) for of in modes.values()])
    left.set(xlabel="tokens per second (median, 95%)", title="Decoding")
    for name, of in modes.items():
        judged = zip(of["accepted_by_position"], of["tried_by_position"], strict=True)
        shares = [accepted / tried for accepted, tried in judged if tried]
        if shares:
            curve(right, range(1, len(shares) + 1), shares, name)
    right.set(xlabel="position in the draft", ylabel="share accepted", title="Drafts")
    right.set_ylim(0, 1.02)
    right.xaxis.get_major_locator().set_params(integer=True)
    if right.lines:
        right.legend()
    save(picture, path)
