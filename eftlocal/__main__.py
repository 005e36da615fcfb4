"""The command: `eftlocal`, or `python -m eftlocal`. Ctrl-C is one line from its first moment on."""

try:
    from eftlocal.cli.interrupts import stop, stop_at_once
except KeyboardInterrupt:  # even here
    import os

    os.write(2, b"eftlocal: stopped\n")
    os._exit(130)


def main() -> None:
    """The console script."""
    try:
        stop_at_once()
        from eftlocal.cli.app import main as run

        run()
    except KeyboardInterrupt:  # it came before its handler was there
        stop()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # between two lines
        stop()
