"""Set this checkout up: a virtual environment, llama.cpp built for this machine, a self-test.

Standard library only. Quick when there is nothing to do, so other scripts call it every time.
This file stays readable to old Pythons, so that they get one clear line and no syntax error.
"""

import sys

OLDEST_PYTHON = (3, 10)


def python_too_old(version: "tuple[int, ...]") -> "str | None":
    """The one line for a Python that is too old, or None."""
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return None
    return (
        f"setup: Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer is needed and this is "
        f"{version[0]}.{version[1]}: run the script with a newer one, such as "
        "python3.12 scripts/setup.py"
    )


if __name__ == "__main__":
    complaint = python_too_old(sys.version_info)
    if complaint:
        sys.exit(complaint)
    from _setup.main import main

    sys.exit(main(sys.argv[1:]))
