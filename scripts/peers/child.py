"""The process of one way: loads what it needs at the first request, then answers prompts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module
from typing import Any, Protocol

from eftlocal import child_service
from peers.table import WAYS, Asked, Heard

LONGEST_S = 3600.0


class Answering(Protocol):
    """What a way's module opens."""

    def answer(self, prompts: list[list[int]]) -> Heard:
        """Answers from empty caches."""
        ...

    def facts(self) -> dict[str, Any]:
        """What else is to be told, once the answers are there."""
        ...


class Child:
    """Answers {"prompts": ...}, and {"facts": true} with what the process took."""

    def __init__(self, name: str, asked: Asked) -> None:
        self._name, self._asked = name, asked
        self._way: Answering | None = None

    def answer(self, request: dict[str, Any], _tell: child_service.Tell) -> dict[str, Any]:
        if self._way is None:
            module = import_module(f"peers.{WAYS[self._name].module}")
            self._way = module.open_way(self._asked)
        if "prompts" in request:
            return asdict(self._way.answer(request["prompts"]))
        from eftlocal.study.machine import peak_resident  # it loads llama.cpp

        return {"peak_bytes": peak_resident(), **self._way.facts()}


if __name__ == "__main__":
    child = Child(sys.argv[1], Asked(**json.loads(sys.argv[2])))
    child_service.serve(child.answer, seconds=LONGEST_S)
