"""The command: `eftlocal`, or `python -m eftlocal`. Ctrl-C is one line from its first moment on."""

try:
    from eftlocal.cli.interrupts import stop, stop_at_once
except KeyboardInterrupt:  # even here
    import os

    os.write(2, b"eftlocal: stopped\n")
    os._exit(130)


def start_quickly() -> None:
    """Spares three costs of many imports, together a sixth of a short run."""
    import gc
    import os

    # Imports leave no garbage, only some 100,000 objects.
    gc.set_threshold(200_000, 2, 2)
    # Else pydantic reads the metadata of every installed package, in search of plugins for itself.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Else numpy starts threads for a linear algebra that nothing here needs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    """The console script."""
    try:
        stop_at_once()
        start_quickly()
        from eftlocal.cli.app import main as run

        run()
    except KeyboardInterrupt:  # it came before its handler was there
        stop()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # between two lines
        stop()
