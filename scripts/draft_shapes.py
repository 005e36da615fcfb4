"""Trios of random models that decode in turn, with a synthetic acceptance, and their figures.

The lanes of all trios take turns, so that each mode of one trio can be compared with the same mode
of the first, turn by turn: what other quantizations of the same shapes bring.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmark import say
from draft_ceiling import ceiling as best_length
from draft_ceiling import expected, simulated_ceiling
from draft_lanes import DecodeTimes, Lane, figures, ratio
from random_models import quantizations, random_trio
from synthetic_rule import SyntheticRule, even_seeds

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.decoding.rounds import Rounds
from eftlocal.decoding.sequence import RunningSequence
from eftlocal.errors import UsageError
from eftlocal.loading.roles import RoleSource
from eftlocal.logits.recipe import TRIO
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.speculation.drafting import Acceptance, Plan
from eftlocal.speculation.measurement import measure
from eftlocal.speculation.settings import Speculation

DRAFTER, VERIFIERS = ("tuned",), ("base", "reference")
WARM_UP, TURN = 32, 8  # tokens
OFTEN = 5  # decodes in runs that make a median
_ROOM = 64  # tokens of a context beyond those asked for: rounds bring several


def read_rates(text: str) -> list[float]:
    """Rates of acceptance, as in 0,0.6,0.9.

    Raises:
        UsageError: there are none, or one is out of its range.
    """
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0.0 <= rate < 1.0 for rate in rates):
        raise UsageError(f"--rates {text}: give numbers from 0 to below 1, as in 0,0.6,0.8,0.9")
    return list(dict.fromkeys(rates))


@dataclass(frozen=True)
class Run:
    """What every trio does.

    Attributes:
        rates: of acceptance, imposed.
        tokens, repeats: of each lane and repeat; each repeat has a seed of its own.
        n_past: tokens of the prompt.
        cold_tokens: of a first run at acceptance 0, when nothing is known; 0 is none.
        fixed: run beside the chosen draft lengths also the best fixed ones.
        seconds: ends after the turn in which so many are over, the loading left out.
    """

    rates: Sequence[float]
    tokens: int
    repeats: int
    n_past: int = 64
    cold_tokens: int = 0
    fixed: bool = True
    seconds: float = float("inf")

    @property
    def n_ctx(self) -> int:
        needed = self.n_past + max(self.tokens, self.cold_tokens, WARM_UP) + _ROOM
        return -(-needed // 256) * 256

    @property
    def lanes(self) -> int:
        """Sequences that are open at once."""
        rates = len(self.rates)
        return 2 + rates + (sum(rate > 0 for rate in self.rates) if self.fixed else 0)


@contextmanager
def loaded(
    shapes: str,
    kinds: Sequence[str],
    where: Path,
    run: Run,
    *,
    threads: int | None = None,
    gpu_layers: int | None = None,
    force: bool = False,
) -> Iterator[list[Trio]]:
    """Trios of these shapes, one for each entry of `kinds` (see `random_models.quantizations`)."""
    files = {kind: random_trio(shapes, kind, where) for kind in kinds}
    with ExitStack() as stack:
        emulators = {}
        for kind, paths in files.items():
            say(f"loading {shapes}, {kind}")
            sources = {
                role: RoleSource(
                    path, prompt="plain", n_ctx=run.n_ctx, threads=threads, gpu_layers=gpu_layers
                )
                for role, path in paths.items()
            }
            emulator = Emulator.from_sources(sources, n_seq_max=run.lanes, force=force, trust=True)
            emulators[kind] = stack.enter_context(emulator)
        yield [Trio(emulator, kind, run) for kind, emulator in emulators.items()]


class Trio:
    """The lanes of all rates on one ensemble."""

    def __init__(self, emulator: Emulator, name: str, run: Run) -> None:
        self.emulator, self.ensemble, self.name, self.run = emulator, emulator.ensemble, name, run
        self.ensemble.stop_tokens = frozenset()
        rng = np.random.default_rng(0)
        ids = [int(t) for t in rng.integers(0, self.ensemble.vocab_size * 3 // 4, run.n_past)]
        self.prompts = dict.fromkeys(TRIO, ids)
        self.sampling = Sampling()
        say(f"measuring rows, {name}")
        self.measured = [measure(self.ensemble.contexts, 0)]
        self.costs = deepcopy(self.measured[0])  # corrected while rounds run
        self.watch = DecodeTimes(self.ensemble.contexts)
        self.rules = {rate: SyntheticRule(rate) for rate in run.rates}
        self.rounds = {
            rate: Rounds(self.ensemble, costs=self.costs, rules={"coupled": rule})
            for rate, rule in self.rules.items()
        }
        plain = next(iter(self.rounds.values()))
        self.base = Lane("base alone", plain, Recipe.single("base"))
        self.plain = Lane("plain", plain, Recipe.upscale())
        self.auto = {rate: self._lane(f"auto at {rate:g}", rate, None) for rate in run.rates}
        self.fixed: dict[float, Lane] = {}
        self.learned: dict[float, Acceptance] = {}
        self.cold = self._cold_start() if run.cold_tokens else None
        self._warm_up()
        first = plan_of(self.measured[0])
        for rate in run.rates if run.fixed else ():
            best = max(range(1, MAX_DRAFT + 1), key=lambda k: expected(first, k, rate))
            if rate > 0:
                self.fixed[rate] = self._lane(f"fixed {best} at {rate:g}", rate, best)

    def _lane(self, name: str, rate: float, length: int | None) -> Lane:
        # Not what was looked up: the synthetic rule would accept that too, free of cost.
        speculation = Speculation(length=length, source="model")
        return Lane(name, self.rounds[rate], Recipe.upscale(), speculation)

    @property
    def lanes(self) -> list[Lane]:
        return [self.base, self.plain, *self.auto.values(), *self.fixed.values()]

    def open(self, lane: Lane, seed: int) -> RunningSequence:
        sequence = lane.open(self.prompts, self.sampling, seed)
        for rate, auto in self.auto.items():
            if lane is auto:
                sequence.drafting.acceptance = self.learned[rate]
        return sequence

    def _warm_up(self) -> None:
        """The first tokens of each rate do not count: they tell the rate."""
        for rate, lane in self.auto.items():
            if rate not in self.learned:
                say(f"warming up at {rate:g}, {self.name}")
                sequence = lane.open(self.prompts, self.sampling, 10_000)
                lane.turn(sequence, WARM_UP, self.watch)
                self.learned[rate] = sequence.drafting.acceptance
                self.ensemble.close(sequence)
            lane.turns.clear()

    def _cold_start(self) -> dict[str, Any]:
        """Plain and auto at acceptance 0, from the first token on, when nothing is known."""
        say(f"cold start at acceptance 0, {self.name}")
        rule = {"coupled": SyntheticRule(0.0)}
        plain = Lane("plain", self.plain.rounds, Recipe.upscale())
        rounds = Rounds(self.ensemble, costs=self.costs, rules=rule)
        auto = Lane("auto", rounds, Recipe.upscale(), Speculation(source="model"))
        running = [lane.open(self.prompts, self.sampling, 20_000) for lane in (plain, auto)]
        for turn in range(max(1, self.run.cold_tokens // TURN)):
            pair = list(zip((plain, auto), running, strict=True))
            for lane, sequence in pair if turn % 2 else pair[::-1]:
                lane.turn(sequence, TURN, self.watch)
        for lane, sequence in zip((plain, auto), running, strict=True):
            lane.close(sequence)
        if 0.0 in self.auto:
            self.learned[0.0] = running[1].drafting.acceptance
        return figures(auto, plain, plain)

    def measure_again(self) -> None:
        seen = deepcopy(self.watch.by_rows)  # before the watch takes these for decodes of a run
        self.measured.append(measure(self.ensemble.contexts, 0))
        self.watch.by_rows = seen

    def report(self, first: Trio) -> dict[str, Any]:
        costs = middle(self.measured)
        plan = plan_of(costs)
        own_costs, seen = in_runs(costs, self.watch)
        own_plan = plan_of(own_costs)
        by_rate = {}
        for rate, auto in self.auto.items():
            best = best_length(plan, rate)
            lanes = {"auto": auto} | ({"fixed": self.fixed[rate]} if rate in self.fixed else {})
            of: dict[str, Any] = {"ceiling": best.speed_up, "ceiling_length": best.length}
            for name, lane in lanes.items():
                accepts = self.rules[rate].accepts
                drawn = simulated_ceiling(plan, accepts, lane.runs)
                own = simulated_ceiling(own_plan, accepts, lane.runs, seen)
                found = figures(lane, self.plain, self.base)
                of[name] = {
                    "length": lane.speculation.length,
                    "ceiling_by_draws": drawn.speed_up,
                    "share_of_ceiling": found["speed_up"] / drawn.speed_up,
                    "ceiling_in_runs": own.speed_up,
                    "share_in_runs": found["speed_up"] / own.speed_up,
                    **found,
                }
            by_rate[f"{rate:g}"] = of
        return {
            "quantization": dict(quantizations(self.name)),
            "bytes": {role: m.path.stat().st_size for role, m in self.emulator.models.items()},
            "vocab": self.ensemble.vocab_size,
            "costs_ms": curves(costs),
            "costs_in_runs_ms": {
                role: {
                    n: round(float(np.median(times)) * 1000.0, 3)
                    for (of, n), times in sorted(self.watch.by_rows.items())
                    if of == role and len(times) >= OFTEN
                }
                for role in TRIO
            },
            "plain": figures(self.plain, self.plain, self.base),
            "base": figures(self.base, self.plain, self.base),
            "cold_start_at_0": self.cold,
            "rates": by_rate,
            "over_first": {
                own.name: list(ratio(own, other))
                for own, other in zip(self.lanes, first.lanes, strict=True)
                if own is not other and own.name == other.name
            },
        }


def run_in_turn(trios: Sequence[Trio], between: Callable[[], object] = lambda: None) -> None:
    """The lanes of all trios, each on a sequence of its own, until the run is over.

    Args:
        between: called before each turn of each lane.
    """
    run = trios[0].run
    ends = time.monotonic() + run.seconds
    for repeat, seed in enumerate(even_seeds(run.rates, run.tokens, run.repeats)):
        say(f"repeat {repeat + 1} of {run.repeats}")
        lanes = [(trio, lane) for trio in trios for lane in trio.lanes]
        running = [trio.open(lane, seed) for trio, lane in lanes]
        for turn in range(run.tokens // TURN):
            for i in range(len(lanes)):
                at = (i + turn) % len(lanes)
                (trio, lane), sequence = lanes[at], running[at]
                between()
                lane.turn(sequence, TURN, trio.watch)
            if time.monotonic() > ends:
                break
        for (_, lane), sequence in zip(lanes, running, strict=True):
            lane.close(sequence)
        if time.monotonic() > ends:
            break
    for trio in trios:
        trio.measure_again()


# Costs -------------------------------------------------------------------------------------------


def middle(measured: Sequence[Costs]) -> Costs:
    """Point by point the median of several measurements."""
    return Costs(
        {
            role: Curve(
                {
                    n: float(np.median([costs(role, n) for costs in measured]))
                    for n in measured[0].curves[role].rows
                }
            )
            for role in TRIO
        }
    )


def plan_of(costs: Costs) -> Plan:
    return Plan.of(costs, DRAFTER, VERIFIERS, 1)


def curves(costs: Costs) -> dict[str, dict[int, float]]:
    """Milliseconds by role and rows."""
    return {
        role: {n: round(s * 1000.0, 3) for n, s in zip(curve.rows, curve.seconds, strict=True)}
        for role, curve in costs.curves.items()
    }


def in_runs(costs: Costs, watch: DecodeTimes) -> tuple[Costs, list[int]]:
    """The costs, with the median of what the runs' own decodes took where there were enough.

    Returns:
        also the draft lengths whose every decode was seen often enough.
    """
    often = {
        key: float(np.median(times)) for key, times in watch.by_rows.items() if len(times) >= OFTEN
    }
    own = {
        role: Curve(
            dict(zip(curve.rows, curve.seconds, strict=True))
            | {n: seconds for (of, n), seconds in often.items() if of == role}
        )
        for role, curve in costs.curves.items()
    }
    seen = [
        k
        for k in range(MAX_DRAFT + 1)
        if k == 0 or all((role, k + 1) in often for role in VERIFIERS)
    ]
    return Costs(own), seen
