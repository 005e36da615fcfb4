"""The child process that writes a model file in another type."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from eftlocal.child_service import Tell, serve
from eftlocal.errors import EftlocalError
from eftlocal.llama.quantize import quantize_file

EVERY_S = 0.2  # seconds between lines of progress
_LONGEST_S = 7 * 86_400.0


def answer(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """`{"fault": ""}`, or with what went wrong.

    The request: source, target (paths), type, output, embedding (names of types), threads.
    Progress is the number of bytes written.
    """
    target, done = Path(request.pop("target")), threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_S):
            with suppress(OSError):
                tell({"progress": target.stat().st_size})

    watching = threading.Thread(target=watch, name="eftlocal-growth", daemon=True)
    watching.start()
    try:
        quantize_file(Path(request.pop("source")), target, request.pop("type"), **request)
    except EftlocalError as error:
        return {"fault": str(error)}
    finally:
        done.set()
        watching.join()
    return {"fault": ""}


if __name__ == "__main__":
    serve(answer, seconds=_LONGEST_S)
