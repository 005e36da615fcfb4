"""Medians, ratios and agreement of the ways; their tables, page and picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median as middle
from typing import Any

from eftlocal.study.plot import bars, panels, save
from eftlocal.study.report import interval, number
from eftlocal.study.statistics import Interval, median
from peers.measuring import Peer, Yardstick
from peers.table import PLAIN, TOGETHER, WAYS, Heard

MIB = 1 << 20
BEGIN, END = "<!-- figures -->\n", "<!-- end -->\n"


def figures(peers: Sequence[Peer], given: Yardstick) -> dict[str, dict[str, Any]]:
    """By way. What was measured is [median, low, high] of a 95% interval: of one answer over the
    prompts (a prompt's turns are one item, by their median), of all prompts over the turns."""
    by_name = {peer.name: peer for peer in peers}
    turns = 1 + max(turn for turn, _ in by_name[PLAIN].heard)
    totals = {peer.name: [_whole(peer, turn) for turn in range(turns)] for peer in peers}

    def over_prompts(value: Callable[[int, int], float]) -> list[float]:
        found = []
        for prompt in range(len(given.prompts)):
            values = [value(turn, prompt) for turn in range(turns)]
            if finite := [of for of in values if math.isfinite(of)]:
                found.append(middle(finite))
        return list(median(found))

    def of(peer: Peer) -> dict[str, Any]:
        heard, plain = peer.heard, by_name[PLAIN].heard
        all_at_once = [a / b for a, b in zip(totals[peer.name], totals[TOGETHER], strict=True)]
        found: dict[str, Any] = {
            "all_tokens_per_second": list(median(totals[peer.name])),
            "all_over_together": list(median(all_at_once)),
            **peer.facts,
        }
        if not WAYS[peer.name].together:
            found |= {
                "tokens_per_second": over_prompts(lambda t, i: heard[t, i].rate),
                "over_plain": over_prompts(lambda t, i: heard[t, i].rate / plain[t, i].rate),
                "first_seconds": over_prompts(lambda t, i: heard[t, i].first),
            }
        if WAYS[peer.name].combines:
            found |= agreement(_answers(peer, len(given.prompts)), given)
        return found

    return {peer.name: of(peer) for peer in peers}


def agreement(answers: Sequence[Sequence[int]], given: Yardstick) -> dict[str, Any]:
    """How far answers are those of this program, and how nearly tied the tokens were where one
    first went another way.

    Returns:
        tokens: of this program's answers; agreed: how many come before a difference; gaps: nats
        between the two best tokens at each answer's first difference.
    """
    agreed, gaps = 0, []
    for answer, ours, gap in zip(answers, given.answers, given.gaps, strict=True):
        same = next(
            (i for i, (a, b) in enumerate(zip(answer, ours, strict=False)) if a != b),
            min(len(answer), len(ours)),
        )
        agreed += same
        if same < len(ours):
            gaps.append(gap[same])
    return {"tokens": sum(map(len, given.answers)), "agreed": agreed, "gaps": gaps}


def _answers(peer: Peer, prompts: int) -> list[list[int]]:
    if WAYS[peer.name].together:
        return peer.heard[0, -1].tokens
    return [peer.heard[0, i].tokens[0] for i in range(prompts)]


def _whole(peer: Peer, turn: int) -> float:
    """Tokens a second of all prompts, from the first call to the last token."""
    heard: list[Heard] = [of for (at, _), of in peer.heard.items() if at == turn]
    return sum(of.count for of in heard) / sum(of.seconds for of in heard)


# Showing ------------------------------------------------------------------------------------------


def rows_of(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *rest = cells
    lines = [head, ["---"] * len(head), *rest]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _memory(found: Mapping[str, Any]) -> str:
    return f"{found['peak_bytes'] / MIB:,.0f} MiB"


def _same(found: Mapping[str, Any]) -> str:
    if "agreed" not in found:
        return "-"
    gaps = found["gaps"]
    apart = f"; {len(gaps)} part, at {middle(gaps):.2f} (at most {max(gaps):.2f})" if gaps else ""
    return f"{found['agreed']} of {found['tokens']}{apart}"


def tables(report: Mapping[str, Any]) -> Iterator[str]:
    """One answer at a time; all prompts."""
    ways: Mapping[str, dict[str, Any]] = report["ways"]
    count = report["settings"]["prompts"]
    one = [("one answer", "tokens/s", f"over {PLAIN} [95%]", "first token, ms", "peak memory",
            "tokens as ours; nats between the best two where answers part")]  # fmt: skip
    one += [
        (
            name,
            number(of["tokens_per_second"][0], ".1f"),
            interval(of["over_plain"]),
            number(1e3 * of["first_seconds"][0], ".0f"),
            _memory(of),
            _same(of),
        )
        for name, of in ways.items()
        if "tokens_per_second" in of
    ]
    yield rows_of(one)
    every = [(f"{count} prompts", "tokens/s, prompts included", f"over {TOGETHER} [95%]",
              "peak memory", "tokens as ours")]  # fmt: skip
    every += [
        (
            name if WAYS[name].together else f"{name}, one after another",
            number(of["all_tokens_per_second"][0], ".1f"),
            interval(of["all_over_together"]),
            _memory(of),
            _same(of) if WAYS[name].together else "",
        )
        for name, of in ways.items()
    ]
    yield rows_of(every)


def facts(report: Mapping[str, Any]) -> Iterator[str]:
    """The machine, the versions, what was asked, and how each way was set."""
    where, asked = report["machine"], report["settings"]
    yield (
        f"{where['processor']}, {where['cores']} cores, {where['busy_percent']:.0f}% busy before "
        f"the run (load {where['load_average']:.1f}), {where['system']}"
    )
    yield ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    yield (
        f"{asked['models']}; base + {asked['alpha']:g} (tuned - reference), greedy; "
        f"{asked['prompts']} prompts, answers of up to {asked['tokens']} tokens, {asked['turns']} "
        f"turns; contexts of {asked['n_ctx']} tokens, empty before each answer; threads for each: "
        f"{asked['threads']}{'; seconds are CPU time' if asked['clock'] == 'process_time' else ''}"
    )
    for name, of in report["ways"].items():
        more = f"; {of['dtype']}" if "dtype" in of else ""
        if of.get("drafted"):
            more += f"; {of['accepted'] / of['drafted']:.0%} of drafts accepted"
        yield f"{name}: {WAYS[name].settings}{more}"
    for name, why in report["not_measured"].items():
        yield f"{name}: not measured, {why}"


def markdown(report: Mapping[str, Any], picture: str = "") -> str:
    """Tables and facts."""
    shown = [*tables(report)]
    if picture:
        shown.append(f"![Tokens a second and peak memory of each way]({picture})\n")
    shown.append("".join(f"- {line}\n" for line in facts(report)))
    return "\n".join(shown)


def write(page: Path, report: Mapping[str, Any]) -> None:
    """Puts the figures where the page has its marks, and the picture beside it."""
    picture = page.with_suffix(".svg")
    before, mark, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    text = f"{before}{mark}\n{markdown(report, picture.name)}\n{end}{after}"
    page.write_text(text, encoding="utf-8", newline="\n")
    draw(report, picture)


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Bars of speed, one answer and all prompts, and of memory."""
    picture, (left, centre, right) = panels(3, columns=3)
    ways: Mapping[str, dict[str, Any]] = report["ways"]
    single = {name: of for name, of in ways.items() if "tokens_per_second" in of}
    bars(left, list(single), [Interval(*of["tokens_per_second"]) for of in single.values()])
    left.set(xlabel="tokens per second (median, 95%)", title="One answer")
    bars(centre, list(ways), [Interval(*of["all_tokens_per_second"]) for of in ways.values()])
    centre.set(xlabel="tokens per second, prompts included", title="All prompts")
    peaks = [of["peak_bytes"] / MIB for of in ways.values()]
    bars(right, list(ways), [Interval(of, of, of) for of in peaks])
    right.set(xlabel="MiB at the peak", title="Memory of the process")
    save(picture, path)
