"""What the runs say, as plain data: medians with intervals, and ratios within a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eftlocal.benchmark.estimate import estimate
from eftlocal.benchmark.measuring import Measured, Prefill, Run
from eftlocal.benchmark.modes import BASE, PLAIN, Mode
from eftlocal.speculation.settings import Totals


def figures(measured: Measured, modes: Sequence[Mode]) -> dict[str, dict[str, Any]]:
    """By mode: rates in tokens a second, seconds, joules a token, drafts.

    Every figure that was measured is [median, low, high] of a 95% interval, over all turns; the
    ratios are taken turn by turn.
    """
    runs = {m.name: [run for run in measured.runs if run.mode == m.name] for m in modes}
    fills = {m.name: [p for p in measured.prefills if p.mode == m.name] for m in modes}
    return {
        mode.name: {
            "recipe": str(mode.recipe),
            "answers": len(runs[mode.name]),
            "prefill_tokens_per_second": _figure([p.rate for p in fills[mode.name]]),
            "first_token_seconds": _figure([run.first_token for run in runs[mode.name]]),
            "decode_tokens_per_second": _figure([r.rate for r in runs[mode.name] if r.rate]),
            "decode_over_plain": _over(runs, mode.name, PLAIN),
            "decode_over_base": _over(runs, mode.name, BASE),
            "prefill_over_plain": _over(fills, mode.name, PLAIN),
            "joules_per_token": _figure(
                [r.joules / r.tokens for r in runs[mode.name] if r.joules is not None]
            ),
            "same_text_as_plain": None
            if mode.name == BASE
            else _same(runs[mode.name], runs[PLAIN]),
            **_drafts([run.totals for run in runs[mode.name]]),
        }
        for mode in modes
    }


def _figure(values: Sequence[float]) -> list[float]:
    return list(estimate(values))


def _over(
    runs: Mapping[str, Sequence[Run]] | Mapping[str, Sequence[Prefill]], name: str, other: str
) -> Any:
    """The ratio of rates, turn by turn; turns without a rate are left out."""
    below = {run.turn: run.rate for run in runs.get(other, ())}
    pairs = [(run.rate, below.get(run.turn, 0.0)) for run in runs[name]]
    return _figure([a / b for a, b in pairs if a and b])


def _same(runs: Sequence[Run], plain: Sequence[Run]) -> float:
    """Share of the answers that are plain emulation's, to the letter."""
    texts = {run.turn: run.text for run in plain}
    return sum(run.text == texts[run.turn] for run in runs) / len(runs)


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
