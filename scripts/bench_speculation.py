"""Times speculative emulation against plain emulation and the base alone, beside what is possible.

Usage: python scripts/bench_speculation.py [--shapes 8b,1b,1b] [--rates 0,0.6,0.8,0.9] [--json]

Two parts. The demo's models answer questions, with the acceptance they have. Models of real shapes
with random weights decode with a synthetic acceptance rate, beside the ceiling: the speed that the
measured costs of n rows and that rate allow if nothing else took time. Short runs have their luck:
"by draws" is the ceiling for the very decisions of these runs. A busy machine slows decodes of many
rows most: "in runs" takes the decode times of the runs themselves. All modes take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from bench_combine import machine
from draft_ceiling import ceiling, expected, simulated_ceiling
from draft_lanes import DecodeTimes, Lane, figures
from random_models import ROLES, folder, random_trio
from synthetic_rule import SyntheticRule

import eftlocal
from eftlocal import Emulator, Recipe, Sampling
from eftlocal.decoding.rounds import Rounds
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.loading.roles import RoleSource
from eftlocal.settings import MAX_DRAFT
from eftlocal.speculation.costs import Costs, Curve, measure
from eftlocal.speculation.drafting import Acceptance, Plan
from eftlocal.speculation.settings import Speculation
from eftlocal.study.questions import read

DEMO = Path(eftlocal.__file__).parent / "demo"
DRAFTER, VERIFIERS = ("tuned",), ("base", "reference")
GOAL_SHARE, GOAL_AT_ZERO, GOAL_OUTSIDE = 0.95, 0.98, 0.03
WARM_UP, TURN = 32, 8  # tokens
OFTEN = 5  # decodes in runs that make a median
N_CTX = 1024


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


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
            for role in ROLES
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


# The demo, with its own acceptance ---------------------------------------------------------------


def demo(options: argparse.Namespace) -> dict[str, Any]:
    """Each question is a turn; answers end where they end."""
    say("demo")
    files = {role: DEMO / f"{role}.gguf" for role in ROLES}
    asked = read(DEMO / "questions.json", "validation").first(options.questions).questions
    with Emulator.from_files(**files, n_ctx=256, threads=1) as emulator:
        ensemble, recipe = emulator.ensemble, emulator.defaults.recipe
        costs = middle([measure(ensemble.contexts, 0) for _ in range(3)])
        watch = DecodeTimes(ensemble.contexts)
        lanes = [
            Lane("base alone", Rounds(ensemble), Recipe.single("base")),
            Lane("plain", Rounds(ensemble), recipe),
            Lane("auto", Rounds(ensemble, costs=deepcopy(costs)), recipe, Speculation()),
        ]
        lanes += [
            Lane(f"fixed {k}", Rounds(ensemble), recipe, Speculation(length=k))
            for k in (1, 2, 4, 8)
        ]
        prompts = [emulator.tokenize(question.text) for question in asked]
        ends = ensemble.stop_tokens
        for turn in range(-1, options.repeats * len(prompts)):
            for lane in lanes[turn % len(lanes) :] + lanes[: turn % len(lanes)]:
                # The base ends a chat at once; its speed shows on as many tokens as others have.
                ensemble.stop_tokens = frozenset() if lane is lanes[0] else ends
                sequence = lane.open(prompts[turn % len(prompts)], Sampling(), max(turn, 0))
                lane.turn(sequence, 24, watch)
                lane.close(sequence)
        for lane in lanes:  # the first round of all warmed up
            del lane.turns[0], lane.totals[0], lane.runs[0]
        found = {lane.name: figures(lane, lanes[1], lanes[0]) for lane in lanes}
    rate = found["auto"]["acceptance"] or found["fixed 4"]["acceptance"] or 0.0
    best = ceiling(plan_of(costs), rate)
    return {
        "questions": len(prompts),
        "repeats": options.repeats,
        "costs_ms": curves(costs),
        "ceiling": {"rate": rate, "length": best.length, "speed_up": best.speed_up},
        "modes": found,
    }


# Real shapes, with a synthetic acceptance --------------------------------------------------------


def shapes(options: argparse.Namespace) -> dict[str, Any]:
    files = random_trio(options.shapes, options.quantization, folder(options.cache))
    fixed = sum(rate > 0 for rate in options.rates)
    sources = {
        role: RoleSource(path, prompt="plain", n_ctx=N_CTX, threads=options.threads)
        for role, path in files.items()
    }
    say(f"loading {options.shapes}")
    n_seq = 2 + len(options.rates) + fixed
    with Emulator.from_sources(sources, n_seq_max=n_seq, force=options.force) as emulator:
        ensemble = emulator.ensemble
        ensemble.stop_tokens = frozenset()
        return Shapes(emulator, options).run()


class Shapes:
    """The lanes of all rates on one ensemble."""

    def __init__(self, emulator: Emulator, options: argparse.Namespace) -> None:
        self.ensemble, self.options = emulator.ensemble, options
        rng = np.random.default_rng(0)
        ids = [int(t) for t in rng.integers(0, self.ensemble.vocab_size * 3 // 4, options.n_past)]
        self.prompts = dict.fromkeys(ROLES, ids)
        self.sampling = Sampling()
        say("measuring rows")
        self.measured = [measure(self.ensemble.contexts, 0)]
        self.costs = deepcopy(self.measured[0])  # corrected while rounds run
        self.watch = DecodeTimes(self.ensemble.contexts)
        self.rules = {rate: SyntheticRule(rate) for rate in options.rates}
        self.rounds = {
            rate: Rounds(self.ensemble, costs=self.costs, rules={"coupled": rule})
            for rate, rule in self.rules.items()
        }
        plain = next(iter(self.rounds.values()))
        self.base = Lane("base alone", plain, Recipe.single("base"))
        self.plain = Lane("plain", plain, Recipe.upscale())
        self.auto = {rate: self.lane(f"auto at {rate:g}", rate, None) for rate in options.rates}
        self.fixed: dict[float, Lane] = {}
        self.learned: dict[float, Acceptance] = {}

    def lane(self, name: str, rate: float, length: int | None) -> Lane:
        # Not what was looked up: the synthetic rule would accept that too, free of cost.
        speculation = Speculation(length=length, source="model")
        return Lane(name, self.rounds[rate], Recipe.upscale(), speculation)

    def run(self) -> dict[str, Any]:
        cold = self.cold_start() if self.options.cold_tokens else None
        for rate, lane in self.auto.items():
            if rate not in self.learned:
                say(f"warming up at {rate:g}")
                sequence = lane.open(self.prompts, self.sampling, 10_000)
                lane.turn(sequence, WARM_UP, self.watch)
                self.learned[rate] = sequence.drafting.acceptance
                self.ensemble.close(sequence)
            lane.turns.clear()
        first = plan_of(self.measured[0])
        for rate in self.options.rates:
            best = max(range(1, MAX_DRAFT + 1), key=lambda k: expected(first, k, rate))
            if rate > 0:
                self.fixed[rate] = self.lane(f"fixed {best} at {rate:g}", rate, best)
        for repeat in range(self.options.repeats):
            say(f"repeat {repeat + 1} of {self.options.repeats}")
            if repeat:
                # Before the stopwatch would take these for decodes of a run.
                seen = deepcopy(self.watch.by_rows)
                self.measured.append(measure(self.ensemble.contexts, 0))
                self.watch.by_rows = seen
            self.repeat(repeat)
        return self.report(cold)

    def repeat(self, seed: int) -> None:
        lanes = [self.base, self.plain, *self.auto.values(), *self.fixed.values()]
        running = [lane.open(self.prompts, self.sampling, seed) for lane in lanes]
        for rate, lane in self.auto.items():
            running[lanes.index(lane)].drafting.acceptance = self.learned[rate]
        for turn in range(self.options.tokens // TURN):
            for i in range(len(lanes)):
                at = (i + turn) % len(lanes)
                lanes[at].turn(running[at], TURN, self.watch)
        for lane, sequence in zip(lanes, running, strict=True):
            lane.close(sequence)

    def cold_start(self) -> dict[str, Any]:
        """Plain and auto at acceptance 0, from the first token on, when nothing is known."""
        say("cold start at acceptance 0")
        rule = {"coupled": SyntheticRule(0.0)}
        plain = Lane("plain", self.plain.rounds, Recipe.upscale())
        rounds = Rounds(self.ensemble, costs=self.costs, rules=rule)
        auto = Lane("auto", rounds, Recipe.upscale(), Speculation(source="model"))
        running = [lane.open(self.prompts, self.sampling, 20_000) for lane in (plain, auto)]
        for turn in range(max(1, self.options.cold_tokens // TURN)):
            pair = list(zip((plain, auto), running, strict=True))
            for lane, sequence in pair if turn % 2 else pair[::-1]:
                lane.turn(sequence, TURN, self.watch)
        for lane, sequence in zip((plain, auto), running, strict=True):
            lane.close(sequence)
        if 0.0 in self.auto:
            self.learned[0.0] = running[1].drafting.acceptance
        return figures(auto, plain, plain)

    def report(self, cold: dict[str, Any] | None) -> dict[str, Any]:
        costs = middle(self.measured)
        plan = plan_of(costs)
        own_costs, seen = in_runs(costs, self.watch)
        own_plan = plan_of(own_costs)
        by_rate = {}
        for rate, auto in self.auto.items():
            best = ceiling(plan, rate)
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
            "shapes": self.options.shapes,
            "quantization": self.options.quantization,
            "vocab": self.ensemble.vocab_size,
            "n_past": self.options.n_past,
            "costs_ms": curves(costs),
            "costs_in_runs_ms": {
                role: {
                    n: round(float(np.median(times)) * 1000.0, 3)
                    for (of, n), times in sorted(self.watch.by_rows.items())
                    if of == role and len(times) >= OFTEN
                }
                for role in ROLES
            },
            "plain": figures(self.plain, self.plain, self.base),
            "base": figures(self.base, self.plain, self.base),
            "cold_start_at_0": cold,
            "rates": by_rate,
        }


# Showing -----------------------------------------------------------------------------------------


def show_costs(costs: dict[str, dict[int, float]]) -> None:
    rows = list(next(iter(costs.values())))
    print(f"{'ms of a decode of n rows':<26}" + "".join(f"{n:>8}" for n in rows))
    for role, times in costs.items():
        print(f"  {role:<24}" + "".join(f"{times[n]:>8.4g}" for n in rows))


HEAD = f"{'':<16}{'tok/s':>8}{'over plain [95%]':>22}{'median':>8}{'over base':>10}{'accepted':>9}"


def line(name: str, found: dict[str, Any]) -> str:
    low, high = found["speed_up_interval_95"]
    speed = f"{found['speed_up']:.3f} [{low:.3f}, {high:.3f}]"
    accepted = "-" if found["acceptance"] is None else f"{found['acceptance']:.2f}"
    return (
        f"{name:<16}{found['tokens_per_second']:>8.2f}{speed:>22}{found['median_turn']:>8.3f}"
        f"{found['over_base']:>10.3f}{accepted:>9}"
    )


def show_demo(found: dict[str, Any]) -> None:
    print(f"\nThe demo, {found['questions']} questions x {found['repeats']}, real acceptance")
    show_costs(found["costs_ms"])
    print(HEAD + f"{'outside decode':>16}")
    for name, of in found["modes"].items():
        print(line(name, of) + f"{of['outside_decode_share']:>16.1%}")
    best = found["ceiling"]
    print(
        f"by arithmetic, at a constant acceptance of {best['rate']:.2f}: at most "
        f"{best['speed_up']:.3f}x plain, with drafts of {best['length']}"
    )


def show_shapes(found: dict[str, Any]) -> None:
    print(
        f"\nShapes {found['shapes']}, {found['quantization']}, vocabulary {found['vocab']:,}, "
        f"{found['n_past']} tokens before"
    )
    show_costs(found["costs_ms"])
    print("in runs, median ms by rows")
    for role, times in found["costs_in_runs_ms"].items():
        print(f"  {role:<10}" + "  ".join(f"{n}: {ms:.4g}" for n, ms in times.items()))
    print(HEAD + f"{'ceiling':>9}{'by draws':>9}{'share':>7}{'in runs':>9}{'share':>7}")
    print(line("base alone", found["base"]))
    print(line("plain", found["plain"]))
    for rate, of in found["rates"].items():
        for mode in ("auto", "fixed"):
            if mode in of:
                name = f"{mode} {of[mode]['length'] or ''}".strip() + f" at {rate}"
                print(
                    line(name, of[mode])
                    + f"{of['ceiling']:>9.3f}{of[mode]['ceiling_by_draws']:>9.3f}"
                    + f"{of[mode]['share_of_ceiling']:>7.1%}{of[mode]['ceiling_in_runs']:>9.3f}"
                    + f"{of[mode]['share_in_runs']:>7.1%}"
                )
    print(f"goals: share >= {GOAL_SHARE:.0%}; auto at 0 >= {GOAL_AT_ZERO} of plain")
    if cold := found["cold_start_at_0"]:
        print(line("cold start at 0", cold) + f"   over {cold['tokens']} tokens")
    print(f"\n{'outside llama_decode':<26}{'of a round':>12}{'ms a round':>12}")
    lanes = {"base alone": found["base"], "plain": found["plain"]}
    lanes |= {f"auto at {rate}": of["auto"] for rate, of in found["rates"].items()}
    for name, of in lanes.items():
        print(
            f"  {name:<24}{of['outside_decode_share']:>12.2%}"
            f"{of['outside_decode_ms_a_round']:>12.3f}"
        )
    print(f"goal for real shapes: <= {GOAL_OUTSIDE:.0%}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", default="8b,1b,1b", help="of random models; '' leaves them out")
    parser.add_argument("--quantization", default="Q4_0", help="one, or base=Q4_0,tuned=Q8_0,...")
    parser.add_argument("--rates", default="0,0.6,0.8,0.9", help="synthetic acceptance rates")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    parser.add_argument("--tokens", type=int, default=40, help="per mode and repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold-tokens", type=int, default=256, help="of the cold start; 0: none")
    parser.add_argument("--n-past", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--questions", type=int, default=6, help="of every family; 0: no demo")
    parser.add_argument("--force", action="store_true", help="load even if memory seems too small")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    try:
        options.rates = _rates(options.rates)
        if min(options.tokens // TURN, options.repeats, options.n_past) < 1:
            raise UsageError(f"--tokens must be {TURN} or more, --repeats and --n-past 1 or more")
        if options.n_past + max(options.tokens, options.cold_tokens) > N_CTX // 2:
            raise UsageError(f"--n-past with --tokens or --cold-tokens: at most {N_CTX // 2}")
        report = {
            "machine": machine(),
            "demo": demo(options) if options.questions else None,
            "shapes": shapes(options) if options.shapes else None,
        }
    except (EftlocalError, OSError) as error:
        print(f"bench_speculation: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    for warning in report["machine"]["warnings"]:
        print(f"warning: {warning}")
    print(f"{report['machine']['system']}\nllama.cpp: {report['machine']['llama_system_info']}")
    if report["demo"]:
        show_demo(report["demo"])
    if report["shapes"]:
        show_shapes(report["shapes"])
    return 0


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0.0 <= rate < 1.0 for rate in rates):
        raise UsageError(f"--rates {text}: give numbers from 0 to below 1, as in 0,0.6,0.8,0.9")
    return list(dict.fromkeys(rates))


if __name__ == "__main__":
    sys.exit(main())
