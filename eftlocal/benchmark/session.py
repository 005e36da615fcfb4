"""One benchmark from loaded models to a report: plain data, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eftlocal.benchmark.energy import meters
from eftlocal.benchmark.figures import figures
from eftlocal.benchmark.measuring import measure, prefill, prefill_length
from eftlocal.benchmark.memory import device_used, peak_resident
from eftlocal.benchmark.modes import BASE, LLAMA_CPP, Mode, llama_cpp_drafts, modes
from eftlocal.emulator import Emulator
from eftlocal.loading.loader import Progress
from eftlocal.logits.sampling import Sampling
from eftlocal.sources import Sources
from eftlocal.speculation.settings import Speculation

CANNOT_REWIND = "a model of these cannot rewind"


@dataclass(frozen=True)
class Memory:
    """Bytes: resident at the peak and, beyond what was in use before, on all GPUs."""

    peak: int
    device: int


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


def memory_of_base(
    sources: Sources,
    settings: Settings,
    *,
    force: bool,
    progress: Progress | None = None,
    checking: Progress | None = None,
) -> Memory | None:
    """Loads the base by itself and decodes a prompt; None where there is no base.

    A peak cannot be taken back: call it before anything larger is loaded.
    """
    if "base" not in sources.roles:
        return None
    before = device_used()
    with sources.load_base(force=force, progress=progress, checking=checking) as alone:
        recipe = alone.defaults.recipe
        prefill(alone, recipe, prefill_length(alone, settings.prompt_tokens))
        return Memory(peak_resident(), max(0, device_used() - before))


def benchmark(
    emulator: Emulator,
    sources: Sources,
    settings: Settings,
    *,
    machine: dict[str, Any],
    base_memory: Memory | None,
    device_before: int,
    started: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> dict[str, Any]:
    """Runs all modes in turn and tells what they took.

    Args:
        machine: of `machine.machine`, asked while nothing was loaded.
        device_before: bytes in use on GPUs before the emulator was loaded.
        started: called with the number of steps; what it returns, after each.
    """
    recipe = emulator.defaults.recipe
    length = prefill_length(emulator, settings.prompt_tokens)
    chosen = modes(emulator.roles, recipe, settings.speculation, settings.lengths)
    not_measured = {LLAMA_CPP: llama_cpp_drafts()}
    if emulator.measure() is None:
        not_measured |= {m.name: CANNOT_REWIND for m in chosen if not m.speculation.off}
        chosen = [mode for mode in chosen if mode.speculation.off]
    with meters() as found:
        measured = measure(
            emulator,
            chosen,
            settings.prompts,
            sampling=settings.sampling,
            repeat=settings.repeat,
            max_tokens=settings.max_tokens,
            prompt_tokens=length,
            meters=found,
            advance=started(2 * len(chosen) * settings.repeat * len(settings.prompts)),
        )
        told = [meter.name for meter in found]
    together = Memory(peak_resident(), max(0, device_used() - device_before))
    return {
        "machine": machine,
        "preset": sources.name or None,
        "models": {
            role: {"file": model.path.name, "model": model.description, "bytes": model.weight_bytes}
            for role, model in emulator.models.items()
        },
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
        "modes": {
            mode.name: of | _memory(mode, base_memory, together)
            for mode, of in zip(chosen, figures(measured, chosen).values(), strict=True)
        },
        "not_measured": not_measured,
    }


def _memory(mode: Mode, base: Memory | None, together: Memory) -> dict[str, int]:
    found = base if mode.name == BASE and base else together
    return {"peak_bytes": found.peak, "device_bytes": found.device}
