"""The set-up from beginning to end: choices, plan, environment, build, project, proof."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from . import wheels
from .environment import Environment, Stamp, check_extras, prove, pyproject_digest
from .plan import Choices, Plan, environment_choices, make_plan
from .report import SetupError, complain, say, shown
from .wheels import builder

ROOT = Path(__file__).resolve().parents[2]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="setup.py",
        description="Make .venv in this checkout with llama.cpp built for this machine.",
        epilog="Later set-ups of this checkout keep what you choose here (--cuda, --no-rpc, "
        "CXXFLAGS=...) until --forget. EFTLOCAL_WHEELS is the folder of built wheels.",
        allow_abbrev=False,
    )
    one = parser.add_mutually_exclusive_group()
    for name, text in (
        ("cuda", "build for NVIDIA GPUs (needs nvcc)"),
        ("vulkan", "build for GPUs of any maker by Vulkan (needs glslc and headers)"),
        ("metal", "build for Apple silicon"),
        ("cpu", "build for the CPU only"),
    ):
        one.add_argument(
            f"--{name}", dest="accelerator", action="store_const", const=name, help=text
        )
    parser.add_argument(
        "--rpc",
        action=argparse.BooleanOptionalAction,
        help="build RPC in, for devices of other machines (default: yes)",
    )
    parser.add_argument(
        "--extra", action="append", default=[], metavar="NAME", help="also install this extra"
    )
    parser.add_argument("--jobs", type=_count, metavar="N", help="parallel compile jobs")
    parser.add_argument(
        "--no-selftest", action="store_true", help="skip the self-test of the build"
    )
    parser.add_argument(
        "--rebuild", action="store_true", help="build again, even if the wheel is cached"
    )
    parser.add_argument(
        "--forget", action="store_true", help="forget the choices of earlier set-ups"
    )
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of jobs, 1 or more")
    return int(text)


def merge_choices(args: argparse.Namespace, earlier: Choices | None) -> Choices:
    """What is asked for now, and for what is not said, what was asked for earlier."""
    earlier = Choices() if earlier is None or args.forget else earlier
    return Choices(
        accelerator=args.accelerator or earlier.accelerator,
        rpc=earlier.rpc if args.rpc is None else args.rpc,
        environment=environment_choices(os.environ, earlier.environment),
    )


def set_up(root: Path, args: argparse.Namespace) -> None:
    """Bring the checkout to what `args` asks for; SetupError when that fails."""
    environment = Environment(root)
    stamp = environment.read_stamp()
    choices = merge_choices(args, stamp.choices if stamp else None)
    if stamp and stamp.choices == choices and choices.in_words():
        say(f"set-up choices: {choices.in_words()}")
    check_extras(root, args.extra)
    earlier = stamp.extras if stamp and not args.forget else ()
    extras = tuple(sorted({*args.extra, *earlier}))
    plan = make_plan(choices)

    def finished() -> bool:
        now = environment.read_stamp()
        asked = (pyproject_digest(root), plan.key, extras)
        return bool(
            now
            and now.folder == str(environment.folder.resolve())
            and environment.is_whole()
            and now.covers(*asked, proof=not args.no_selftest)
        )

    if args.rebuild or not finished():
        cache = wheels.cache_folder(os.environ)
        wheels.prepare(cache)
        here = checkout_name(root)
        with wheels.locked(cache, here, lambda: say("waiting for another set-up of this checkout")):
            if args.rebuild or not finished():
                bring_up(environment, plan, choices, extras, args, cache)
    demo = shown(root / "scripts" / "demo.py")
    say(
        f"eftlocal is set up for {environment.built_for()}. Next: python3 {demo}, or: "
        f'{shown(environment.program("eftlocal"))} run "your question"'
    )


def checkout_name(root: Path) -> str:
    """A name for this checkout in the shared folder of locks and logs."""
    return "checkout-" + hashlib.sha256(str(root).encode()).hexdigest()[:12]


def bring_up(
    environment: Environment,
    plan: Plan,
    choices: Choices,
    extras: tuple[str, ...],
    args: argparse.Namespace,
    cache: Path,
) -> None:
    """All the work, under the checkout's lock; the stamp comes last."""
    say(f"accelerator: {plan.accelerator.name} ({plan.accelerator.why})")
    if plan.cpu.has_amx:
        cure = f"adding {' '.join(plan.cure.flags)}" if plan.cure.needed else "no cure needed"
        say(f"AMX: {cure} ({plan.cure.why})")
    log = cache / "logs" / f"setup-{checkout_name(environment.root)}.log"
    log.unlink(missing_ok=True)
    digest = pyproject_digest(environment.root)
    folder = str(environment.folder.resolve())
    stamp = Stamp(digest, plan.key, extras, not args.no_selftest, choices, folder)
    environment.mark_unfinished(stamp)
    environment.make(log)
    environment.mark_unfinished(stamp)
    if args.rebuild or environment.built_key() != plan.key:
        cached = obtain(environment, plan, args, cache)
        if lacking := {*plan.accelerator.name.split("+")} - {*cached.accelerator.split("+"), "cpu"}:
            say(f"note: this build of llama.cpp has no {' and no '.join(sorted(lacking))} in it")
        say(f"installing llama-cpp-python {plan.version}")
        environment.install_build(cached, plan, log)
    environment.install_project(extras, log)
    if not args.no_selftest:
        prove(environment)
    environment.write_stamp(stamp)


def obtain(
    environment: Environment, plan: Plan, args: argparse.Namespace, cache: Path
) -> wheels.Cached:
    """The plan's wheel from the cache, or built into it."""

    def waiting() -> None:
        say("waiting for another set-up that builds the same wheel")

    with wheels.locked(cache, plan.key, waiting):
        wheels.sweep(cache, plan.key)
        found = None if args.rebuild else wheels.find(cache, plan.key)
        if found:
            say(f"using the wheel built earlier ({found.built})")
            return found
        log = cache / "logs" / f"build-{plan.key}.log"
        return wheels.build(cache, plan.key, builder(plan, environment.python, args.jobs, log))


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    args = parse(arguments)

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)  # so that a kill ends the compilers too
    try:
        set_up(root, args)
    except SetupError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        print("setup: stopped; run it again to go on", file=sys.stderr)
        return 130
    return 0
