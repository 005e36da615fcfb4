"""Building llama-cpp-python from its source distribution, with the plan's settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .child import WINDOWS, clean_environment, work
from .diagnose import diagnose, last_lines
from .machine import default_jobs
from .plan import Plan
from .report import SetupError, say

USUAL_TIME = {
    "cpu": "usually 3 to 8 minutes",
    "metal": "usually 2 to 5 minutes",
    "cuda": "usually 5 to 40 minutes, by the number of cores and GPU architectures",
}


def builder(plan: Plan, python: Path, jobs: int | None, log: Path) -> Callable[[Path], None]:
    """A function that builds the plan's wheel into the folder it is given."""

    def make(folder: Path) -> None:
        count = jobs or default_jobs()
        say(
            f"building llama-cpp-python {plan.version} for {plan.accelerator.name} with {count} "
            f"job(s): {USUAL_TIME[plan.accelerator.name]}, once for this machine"
        )
        # pip's own cache knows neither CMAKE_ARGS nor CXXFLAGS: keep it out.
        command = [
            *(str(python), "-m", "pip", "wheel", "--verbose", "--no-cache-dir", "--no-deps"),
            *("--no-binary", "llama-cpp-python", "--wheel-dir", str(folder)),
            f"llama-cpp-python=={plan.version}",
        ]
        log.unlink(missing_ok=True)
        env = clean_environment(plan.build_environment(count))
        if not WINDOWS:  # where paths are too short for it
            # pip leaves its folders behind when it is stopped: here they go with `folder`.
            (folder / "tmp").mkdir()
            env["TMPDIR"] = str(folder / "tmp")
        if work(command, log=log, label="building", env=env) == 0:
            return
        text = log.read_text(encoding="utf-8", errors="replace")
        for line in last_lines(text):
            say(f"  | {line}")
        cause, advice = diagnose(text)
        raise SetupError(
            "llama-cpp-python could not be built" + (f": {cause}" if cause else ""),
            next_step=advice or "read the log, then run this again",
            log=log,
        )

    return make
