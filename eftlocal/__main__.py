"""The command: `eftlocal`, or `python -m eftlocal`. Ctrl-C is one line from its first moment on."""

from __future__ import annotations

import sys

from eftlocal.errors import InterruptedRunError


def main() -> None:
    """The console script."""
    try:
        from eftlocal.cli.app import main as run
    except KeyboardInterrupt:  # importing takes a third of a second
        sys.stderr.write("eftlocal: stopped\n")
        sys.exit(InterruptedRunError.exit_code)
    run()


if __name__ == "__main__":
    main()
