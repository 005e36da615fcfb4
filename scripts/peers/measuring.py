"""Every way answers every prompt, in turn, each from a process of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmark import say

from eftlocal import Recipe, Sampling
from eftlocal.child_process import ChildDiedError, ChildProcess
from eftlocal.errors import EngineError
from eftlocal.speculation.settings import OFF
from peers.child import LONGEST_S
from peers.ours import emulator
from peers.table import TORCH, WAYS, Asked, Heard

LONGEST_BYTES = 1 << 24
TORCH_PACKAGES = ("torch", "transformers")
DTYPES = ("float32", "bfloat16")


@dataclass
class Peer:
    """A way, its process, what it answered (by turn and prompt; prompt -1: all at once)."""

    name: str
    process: ChildProcess
    heard: dict[tuple[int, int], Heard]
    facts: dict[str, Any]

    @classmethod
    def of(cls, name: str, asked: Asked) -> Peer:
        threads = str(asked.threads)
        process = ChildProcess(
            "peers.child",
            lambda: (name, json.dumps(asdict(asked))),
            f"the way '{name}'",
            lambda: LONGEST_BYTES,
            {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        )
        return cls(name, process, {}, {})

    def answer(self, prompts: Sequence[Sequence[int]]) -> Heard:
        return Heard(**self._ask({"prompts": prompts}))

    def tell(self) -> None:
        """What its process took until now."""
        self.facts = self._ask({"facts": True})

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.process.ask(request, LONGEST_S)
        except ChildDiedError as died:
            why = died.words.split("\n")[-1] or str(died)
            raise EngineError(f"the process of '{self.name}' ended: {why}") from None


class Yardstick(NamedTuple):
    """What is asked, and what this program answers to it.

    Attributes:
        prompts: tokens of each.
        answers: tokens of each answer without drafts.
        gaps: how far the best token was above the second, of each answer's tokens, in nats.
        ends: tokens that end an answer.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    gaps: list[list[float]]
    ends: tuple[int, ...]


def yardstick(asked: Asked, texts: Sequence[str]) -> Yardstick:
    """Every role reads a prompt as the tuned one does."""
    with emulator(asked) as em:
        prompts = [em.tokenize(text)["tuned"] for text in texts]
        answers = [
            em.generate(
                prompt,
                recipe=Recipe.proxy(asked.alpha),
                sampling=Sampling(temperature=0.0),
                speculation=OFF,
                max_tokens=asked.tokens,
                loop_guard="off",
                logprobs=True,
                top_logprobs=2,
            )
            for prompt in prompts
        ]
        ends = tuple(sorted(em.ensemble.stop_tokens))
    gaps = [[best[1] - second[1] for best, second in of.top_logprobs or ()] for of in answers]
    return Yardstick(prompts, [list(of.tokens) for of in answers], gaps, ends)


def measure(asked: Asked, given: Yardstick, turns: int, folder: Path | None) -> list[Peer]:
    """All ways on all prompts, `turns` times; their order is another in each turn.

    Args:
        folder: for models as transformers keeps them; None leaves it out.
    """
    with started(replace(asked, ends=given.ends), given, folder) as peers:
        for turn in range(turns):
            order = list(peers)
            random.Random(turn).shuffle(order)
            for i, prompt in enumerate(given.prompts):
                for peer in order:
                    if not WAYS[peer.name].together:
                        peer.heard[turn, i] = peer.answer([prompt])
            for peer in order:
                if WAYS[peer.name].together:
                    peer.heard[turn, -1] = peer.answer(given.prompts)
            say(f"turn {turn + 1} of {turns}")
        for peer in peers:
            peer.tell()
        return peers


@contextmanager
def started(asked: Asked, given: Yardstick, folder: Path | None) -> Iterator[list[Peer]]:
    """The ways' processes, loaded, each warmed up by a prompt."""
    with ExitStack() as stack:
        peers = []
        told = {}
        if folder is not None:
            told["torch_way"] = _for_torch(asked, given.prompts[0], folder)
        for name, way in WAYS.items():
            if way.module == "torch_way" and folder is None:
                continue
            places = len(given.prompts) if way.together else 1
            of = told.get(way.module, asked)
            peer = Peer.of(name, replace(of, kind=way.kind, places=places))
            stack.enter_context(closing(peer.process))
            peer.answer(given.prompts[:1])
            say(f"ready: {name}")
            peers.append(peer)
        yield peers


def no_torch() -> str | None:
    """Why transformers cannot be asked; None where it can."""
    missing = [name for name in TORCH_PACKAGES if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (the extra `tune`)" if missing else None


def _for_torch(asked: Asked, prompt: list[int], folder: Path) -> Asked:
    """The models converted, and the dtype of weights with which PyTorch answers faster here."""
    from peers.torch_way import converted

    say("converting for transformers")
    files = converted(asked.files, asked.adapters, folder)
    asked, rates = replace(asked, kind=WAYS[TORCH].kind, files=files, adapters={}), {}
    for dtype in DTYPES:
        peer = Peer.of(TORCH, replace(asked, dtype=dtype))
        with closing(peer.process):
            peer.answer([prompt])
            rates[dtype] = peer.answer([prompt]).rate
        say(f"transformers, {dtype}: {rates[dtype]:.1f} tokens/s")
    return replace(asked, dtype=max(rates, key=rates.__getitem__))
