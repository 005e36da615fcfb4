"""Times speculative emulation against plain emulation and the base alone, beside what is possible.

Usage: python scripts/bench_speculation.py [--shapes 8b,1b,1b] [--rates 0,0.6,0.8,0.9] [--json]

Two parts. The demo's models answer questions, with the acceptance they have. Models of real shapes
with random weights decode with a synthetic acceptance rate, beside the ceiling: the speed that the
measured costs of n rows and that rate allow if nothing else took time. Short runs have their luck:
"by draws" is the ceiling for the very decisions of these runs. A busy machine slows decodes of many
rows most: "in runs" takes the decode times of the runs themselves. All modes take turns, those of
several quantizations too: --quantization Q4_0 --quantization IQ4_NL compares two.
"""

from __future__ import annotations

import argparse
import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

from benchmark import machine, one_line, say, show_machine
from draft_ceiling import ceiling
from draft_lanes import DecodeTimes, Lane, figures
from draft_shapes import TURN, Run, curves, loaded, middle, plan_of, read_rates, run_in_turn
from random_models import folder, quantizations
from small_models import demo_files

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.decoding.rounds import Rounds
from eftlocal.errors import UsageError
from eftlocal.evaluation.questions import FOLDER, read
from eftlocal.speculation.measurement import measure
from eftlocal.speculation.settings import Speculation

GOAL_SHARE, GOAL_AT_ZERO, GOAL_OUTSIDE = 0.95, 0.98, 0.03


# The demo, with its own acceptance ---------------------------------------------------------------


def demo(options: argparse.Namespace) -> dict[str, Any]:
    """Each question is a turn; answers end where they end."""
    say("demo")
    asked = read(FOLDER / "questions.json", "validation").first(options.questions).questions
    with Emulator.from_files(**demo_files(), n_ctx=256, threads=1) as emulator:
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
    run = Run(
        options.rates,
        options.tokens,
        options.repeats,
        n_past=options.n_past,
        cold_tokens=options.cold_tokens,
        fixed=options.fixed,
        seconds=60.0 * options.minutes,
    )
    engine = {"threads": options.threads, "force": options.force}
    with loaded(
        options.shapes, options.quantization, folder(options.cache), run, **engine
    ) as trios:
        run_in_turn(trios)
        return {
            "shapes": options.shapes,
            "n_past": options.n_past,
            "trios": {trio.name: trio.report(trios[0]) for trio in trios},
        }


# Showing -----------------------------------------------------------------------------------------


def show_costs(costs: dict[str, dict[int, float]]) -> None:
    rows = list(next(iter(costs.values())))
    print(f"{'ms of a decode of n rows':<26}" + "".join(f"{n:>8}" for n in rows))
    for role, times in costs.items():
        print(f"  {role:<24}" + "".join(f"{times[n]:>8.4g}" for n in rows))


HEAD = f"{'':<16}{'tok/s':>8}{'over plain [95%]':>22}{'over base [95%]':>22}{'accepted':>9}"


def interval(found: dict[str, Any], key: str) -> str:
    low, high = found[f"{key}_interval_95"]
    return f"{found[key]:.3f} [{low:.3f}, {high:.3f}]"


def line(name: str, found: dict[str, Any]) -> str:
    accepted = "-" if found["acceptance"] is None else f"{found['acceptance']:.2f}"
    return (
        f"{name:<16}{found['tokens_per_second']:>8.2f}{interval(found, 'speed_up'):>22}"
        f"{interval(found, 'over_base'):>22}{accepted:>9}"
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
    for name, trio in found["trios"].items():
        sizes = ", ".join(f"{role} {size / 2**30:.2f}" for role, size in trio["bytes"].items())
        print(
            f"\nShapes {found['shapes']}, {name} (GiB: {sizes}), vocabulary {trio['vocab']:,}, "
            f"{found['n_past']} tokens before"
        )
        show_trio(trio)
    first = next(iter(found["trios"]))
    for name, trio in found["trios"].items():
        if trio["over_first"]:
            print(f"\n{name} over {first} [95%]")
            for mode, (value, low, high) in trio["over_first"].items():
                print(f"  {mode:<16}{value:>8.3f} [{low:.3f}, {high:.3f}]")


def show_trio(found: dict[str, Any]) -> None:
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
    print(f"\n{'outside llama_decode':<26}{'of a round':>12}{'ms a round':>12}{'combine':>12}")
    lanes = {"base alone": found["base"], "plain": found["plain"]}
    lanes |= {f"auto at {rate}": of["auto"] for rate, of in found["rates"].items()}
    for name, of in lanes.items():
        print(
            f"  {name:<24}{of['outside_decode_share']:>12.2%}"
            f"{of['outside_decode_ms_a_round']:>12.3f}{of['combine_share']:>12.2%}"
        )
    print(f"goal for real shapes: <= {GOAL_OUTSIDE:.0%}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", default="8b,1b,1b", help="of random models; '' leaves them out")
    parser.add_argument(
        "--quantization",
        action="append",
        help="one, or one for each role (default: preset); again: compared with the first",
    )
    parser.add_argument("--rates", default="0,0.6,0.8,0.9", help="synthetic acceptance rates")
    parser.add_argument("--cache", type=Path, help="folder of random models (default: the user's)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: physical cores)")
    parser.add_argument("--tokens", type=int, default=40, help="per mode and repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60.0, help="at most, after the loading")
    parser.add_argument("--fixed", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cold-tokens", type=int, default=256, help="of the cold start; 0: none")
    parser.add_argument("--n-past", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--questions", type=int, default=6, help="of every family; 0: no demo")
    parser.add_argument("--force", action="store_true", help="load even if memory seems too small")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    with one_line("bench_speculation"):
        options.rates = read_rates(options.rates)
        if min(options.tokens // TURN, options.repeats, options.n_past) < 1:
            raise UsageError(f"--tokens must be {TURN} or more, --repeats and --n-past 1 or more")
        options.quantization = list(dict.fromkeys(options.quantization or ["preset"]))
        for kinds in options.quantization:
            quantizations(kinds)
        report = {
            "machine": machine(),
            "demo": demo(options) if options.questions else None,
            "shapes": shapes(options) if options.shapes else None,
        }
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    show_machine(report["machine"])
    if report["demo"]:
        show_demo(report["demo"])
    if report["shapes"]:
        show_shapes(report["shapes"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
