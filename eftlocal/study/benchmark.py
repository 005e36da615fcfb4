"""How fast this machine answers: base alone, plain and speculative emulation, side by side.

Noise of a shared machine comes and goes over seconds to minutes. Modes that take turns on the same
prompt with the same seed meet it alike, so that ratios within a turn tell more than absolute times.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from llama_cpp import llama_speculative

from eftlocal.emulator import Emulator
from eftlocal.errors import UsageError
from eftlocal.evaluation.questions import FOLDER, read
from eftlocal.loading.loader import Progress
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.sampling import Sampling
from eftlocal.prompt.messages import read_records, text_of
from eftlocal.sources import Sources
from eftlocal.speculation.settings import OFF, Speculation
from eftlocal.study.machine import Meter, device_used, machine, meters, peak_resident
from eftlocal.study.speed import BASE, PLAIN, Run, figures

AUTO, LLAMA_CPP = "speculative, auto", "llama.cpp's own drafts"
NOT_OFFERED, CANNOT_REWIND = (
    "not offered by this build",
    "one of the models cannot rewind its cache",
)

# Telling, explaining, code, quoting, a list, a summary: drafts fare differently on each.
BUILT_IN = (
    "What is the difference between weather and climate? Explain it to a ten-year-old.",
    "Write a Python function that merges two sorted lists, with a docstring and type hints.",
    "Correct the spelling and give the whole text back: Teh quick brown fox jumps ovr the lazy "
    "dog, and the dog, beeing lazy, does not even look up when the fox jumps ovr it agian.",
    "Give me five tips for a first job interview, one line each.",
    "Summarise in two sentences: A glacier is a large mass of ice that moves slowly over land. It "
    "forms where more snow falls each year than melts. Its weight presses the lower layers to ice, "
    "and the ice flows downhill, carving valleys and carrying rock with it.",
    "Write a short letter to a neighbour about a parcel that was delivered to the wrong house.",
)

Advance = Callable[[], object]
GREEDY = Sampling(temperature=0.0)
_PREFILLED = 512  # tokens of the prompt that prefill is measured on, or half a context
_WARM_UP = 8  # tokens answered by each mode before anything counts


def nothing() -> None:
    """What to call after a step where nobody counts them."""


@dataclass(frozen=True)
class Mode:
    """One way to answer.

    Attributes:
        endless: end tokens end nothing. A base answers a chat with one of these at once, or never:
            how fast it is shows on a given number of tokens.
    """

    name: str
    recipe: Recipe
    speculation: Speculation = OFF
    endless: bool = False


def modes(
    roles: Collection[str], recipe: Recipe, speculation: Speculation, lengths: Sequence[int]
) -> list[Mode]:
    """Base alone where there is a base, plain emulation, and speculation of chosen and given
    lengths; the rule and the source of drafts are those of `speculation`."""
    alone = [Mode(BASE, Recipe.single("base"), endless=True)] if "base" in roles else []
    drafts = [Mode(AUTO, recipe, replace(speculation, length=None))]
    drafts += [
        Mode(f"speculative, {k}", recipe, replace(speculation, length=k))
        for k in dict.fromkeys(lengths)
    ]
    return [*alone, Mode(PLAIN, recipe), *drafts]


def llama_cpp_drafts() -> str:
    """What to say of llama.cpp's own speculation with a draft model.

    The installed package offers it if it has a concrete LlamaDraftModel that takes a model:
    version 0.3.36 has prompt lookup only, and its library has no function for more (llama.cpp
    keeps speculation in its `common` folder, which the package does not build).
    """
    base = llama_speculative.LlamaDraftModel
    offered = [
        name
        for name, kind in vars(llama_speculative).items()
        if inspect.isclass(kind)
        and issubclass(kind, base)
        and not inspect.isabstract(kind)
        and "model" in " ".join(inspect.signature(kind).parameters)
    ]
    return f"offered as {offered[0]}, not measured yet" if offered else NOT_OFFERED


@dataclass(frozen=True)
class Settings:
    """What is asked of every mode.

    Attributes:
        lengths: given draft lengths, measured beside the chosen ones.
        prompt_tokens: None is 512, or half a context.
    """

    prompts: Sequence[str]
    sampling: Sampling
    speculation: Speculation
    lengths: Sequence[int] = ()
    max_tokens: int = 64
    repeat: int = 3
    prompt_tokens: int | None = None


class Memory(NamedTuple):
    """Bytes: resident at the peak and, beyond what was in use before, on all GPUs."""

    peak_bytes: int
    device_bytes: int

    @classmethod
    def since(cls, device_before: int) -> Memory:
        return cls(peak_resident(), max(0, device_used() - device_before))


class Baseline(NamedTuple):
    """What was measured before the models were loaded together.

    Attributes:
        machine: of `machine.machine`.
        base: of the base loaded by itself, where there is one.
        device: bytes in use on GPUs.
    """

    machine: dict[str, Any]
    base: Memory | None
    device: int


def built_in(preset: str) -> tuple[str, ...]:
    """The prompts for a preset. The demo's models know nothing but what they are asked here."""
    if preset == "demo":
        asked = read(FOLDER / "questions.json", "validation").first(2)
        return tuple(question.text for question in asked.questions)
    return BUILT_IN


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file; the errors are those of `read_records`."""
    return tuple(text_of(where, record) for where, record in read_records(path, ("id", "prompt")))


def measure_baseline(
    sources: Sources,
    settings: Settings,
    *,
    force: bool,
    progress: Progress | None = None,
    checking: Progress | None = None,
) -> Baseline:
    """Looks at the machine, then loads the base by itself and decodes a prompt.

    A peak cannot be taken back: call it before anything larger is loaded.
    """
    found, device, memory = machine(), device_used(), None
    if "base" in sources.roles:
        with sources.load_base(force=force, progress=progress, checking=checking) as alone:
            length = prefill_length(alone, settings.prompt_tokens)
            prefill(alone, alone.defaults.recipe, length)
            memory = Memory.since(device)
    return Baseline(found, memory, device_used())


def benchmark(
    emulator: Emulator,
    sources: Sources,
    settings: Settings,
    baseline: Baseline,
    started: Callable[[int], Advance] = lambda total: nothing,
) -> dict[str, Any]:
    """Runs all modes in turn and tells what they took, as plain data ready for JSON.

    Args:
        started: called with the number of steps; what it returns, after each.
    """
    recipe = emulator.defaults.recipe
    length = prefill_length(emulator, settings.prompt_tokens)
    chosen = modes(emulator.roles, recipe, settings.speculation, settings.lengths)
    not_measured = {LLAMA_CPP: llama_cpp_drafts()}
    if emulator.measure() is None:
        not_measured |= {m.name: CANNOT_REWIND for m in chosen if not m.speculation.off}
        chosen = [mode for mode in chosen if mode.speculation.off]
    steps = started(2 * len(chosen) * settings.repeat * len(settings.prompts))
    with meters() as found:
        runs = measure(emulator, chosen, settings, length, meters=found, advance=steps)
        told = [meter.name for meter in found]
    together = Memory.since(baseline.device)
    memory = {mode.name: together for mode in chosen}
    if baseline.base is not None:
        memory[BASE] = baseline.base
    by_mode = figures(runs, {mode.name: str(mode.recipe) for mode in chosen})
    return {
        "machine": baseline.machine,
        "preset": sources.name or None,
        "models": {
            role: {"file": model.path.name, "model": model.description, "bytes": model.weight_bytes}
            for role, model in emulator.models.items()
        },
        "notes": list(emulator.notes()),
        "settings": {
            "prompts": len(settings.prompts),
            "repeat": settings.repeat,
            "max_tokens": settings.max_tokens,
            "prompt_tokens": length,
            "recipe": str(recipe),
            "temperature": settings.sampling.temperature,
            "rule": settings.speculation.rule,
            "source": settings.speculation.source,
        },
        "meters": told,
        "modes": {name: of | memory[name]._asdict() for name, of in by_mode.items()},
        "not_measured": not_measured,
    }


def prefill_length(emulator: Emulator, asked: int | None) -> int:
    """Tokens of the prompt that prefill is measured on.

    Raises:
        UsageError: what was asked for does not fit a context.
    """
    n_ctx = emulator.ensemble.n_ctx
    if asked is not None and not 1 <= asked < n_ctx - 1:
        raise UsageError(
            f"--prompt-tokens {asked}: a context holds {n_ctx} tokens; give 1 to {n_ctx - 2}, or "
            "raise --n-ctx"
        )
    return min(_PREFILLED, n_ctx // 2) if asked is None else asked


def measure(
    emulator: Emulator,
    chosen: Sequence[Mode],
    settings: Settings,
    prompt_tokens: int,
    *,
    meters: Sequence[Meter] = (),
    advance: Advance = nothing,
) -> list[Run]:
    """Every mode on every prompt, as often as the settings say, one prefill of each mode a turn.

    The mode that begins changes from turn to turn. A first, short answer of each does not count:
    it brings the weights into memory. The seed of a repetition is the same for every mode.

    Args:
        advance: called after each prefill and after each answer that counts.
    """

    def run(mode: Mode, prompt: str, turn: int, seed: int, most: int, rate: float = 0.0) -> Run:
        emulator.ensemble.clear()
        before = sum(meter.joules() for meter in meters)
        answer = emulator.generate(
            prompt,
            recipe=mode.recipe,
            sampling=replace(settings.sampling, seed=seed),
            speculation=mode.speculation,
            max_tokens=most,
            ignore_end=mode.endless,
        )
        spent = sum(meter.joules() for meter in meters) - before
        return Run(mode.name, turn, rate, spent if meters else None, answer)

    for mode in chosen:
        run(mode, settings.prompts[0], -1, 0, _WARM_UP)
    runs = []
    for turn in range(settings.repeat * len(settings.prompts)):
        repetition, at = divmod(turn, len(settings.prompts))
        first = turn % len(chosen)
        for mode in [*chosen[first:], *chosen[:first]]:
            rate = prompt_tokens / prefill(emulator, mode.recipe, prompt_tokens)
            advance()
            prompt = settings.prompts[at]
            runs.append(run(mode, prompt, turn, repetition, settings.max_tokens, rate))
            advance()
    return runs


def prefill(emulator: Emulator, recipe: Recipe, length: int) -> float:
    """Seconds from a prompt of so many tokens, and empty caches, to the first token."""
    emulator.ensemble.clear()
    ids = {}
    for role, model in emulator.models.items():
        tokens = model.tokenize(" ".join(BUILT_IN), add_bos=True)
        ids[role] = (tokens * (length // len(tokens) + 1))[:length]
    sequence = emulator.ensemble.open(ids, recipe=recipe, sampling=GREEDY)
    try:
        began = time.perf_counter()
        emulator.rounds([sequence])
        return time.perf_counter() - began
    finally:
        emulator.ensemble.close(sequence)
