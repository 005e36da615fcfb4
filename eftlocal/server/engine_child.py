"""The process of an engine: loads the models of one preset, then hands on what its parent asks."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from typing import Any

from eftlocal.emulator import Emulator
from eftlocal.errors import DoesNotFitError, EftlocalError
from eftlocal.server.dials import dials_of
from eftlocal.server.engine import Engine, Lines
from eftlocal.server.room import NoRoomError, leaving
from eftlocal.server.setup import Setup, unpacked


def main() -> None:
    """Loads, says so, and answers until stdin ends: then at once, in the midst of native code too,
    since the parent has stopped or died."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever native code prints is no line of ours
    say = Lines(out)
    setup: Setup = unpacked(sys.stdin.buffer.readline())
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    try:
        while names := leaving(setup, unpacked(lines.get())):
            say({"leaving": names})  # and looks again when they have
        emulator = setup.sources.load(
            n_seq_max=setup.parallel,
            force=setup.force,
            progress=lambda role, share: say({"progress": [role, share]}),
        )
        if not emulator.defaults.speculation.off:
            emulator.measure()
    except NoRoomError as error:
        say({"no_room": str(error), "busy": error.busy})
        return
    except DoesNotFitError as error:  # meanwhile there is less
        say({"no_room": str(error), "busy": False})
        return
    except EftlocalError as error:
        say({"failed": str(error)})
        return
    with emulator:
        engine = Engine(emulator, setup.sources, say)
        say({"ready": _facts(emulator)})
        while True:
            engine.hear(json.loads(lines.get()))


def _facts(emulator: Emulator) -> dict[str, Any]:
    """What the parent tells of the models without asking again."""
    prompt = emulator.prompts[emulator.text_role]
    return {
        "n_ctx": min(context.n_ctx for context in emulator.ensemble.contexts.values()),
        "vocab_size": emulator.ensemble.vocab_size,
        "roles": list(emulator.roles),
        "recipe": str(emulator.defaults.recipe),
        "dials": dials_of(emulator.defaults.recipe, emulator.defaults.sampling, emulator.roles),
        "bos_token": prompt.bos_token,
        "eos_token": prompt.eos_token,
        "chat_template": prompt.template,
        "held": asdict(emulator.held),
    }


if __name__ == "__main__":
    main()
