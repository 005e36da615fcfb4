"""How many texts change when the same question is asked in another way, on an everyday model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eftlocal import Emulator, Sampling
from eftlocal.llama.engine import llama_cpp
from eftlocal.scheduler import Scheduler

BATCH = 4  # lines side by side
DRAFTS = 4  # tokens of a draft
_N_CTX, _MOST = 512, 24
_BEFORE = "Answer in two or three full sentences, and say why. Take your time, and be kind. " * 3
_PROMPTS = {"base": "{{ messages[-1]['content'] }}\nAnswer:", "reference": "plain"}
Texts = list[tuple[int, ...]]


def requantized(source: Path, quantization: str, folder: Path, threads: int = 1) -> Path:
    """The file in another quantization, by llama.cpp's own quantizer; Q4_1 is the file itself."""
    if quantization in source.stem:
        return source
    path = folder / f"{source.stem}.{quantization}.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantization}")
    params.allow_requantize, params.nthread = True, threads
    if llama_cpp.llama_model_quantize(bytes(source), bytes(path), params):
        raise OSError(f"{path}: llama.cpp could not requantize {source}")
    return path


def changed(base: Path, pair: Path, asked: Sequence[str], **loading: Any) -> dict[str, int]:
    """Texts of a question, drawn with a seed of its own, that are not those of the first ask.

    First: from empty caches, without drafts. The combination is no role, because each has a prompt
    of its own. Then: at once again; after other questions, which leave the beginning of the prompt
    in the caches; with drafts; as a line of a batch.
    """
    asked = [_BEFORE + question for question in asked]
    files: dict[str, Any] = {"base": base, "tuned": pair, "reference": pair}
    loading = {"n_ctx": _N_CTX, "prompts": _PROMPTS, "trust": True} | loading
    first: Texts = []
    ways: dict[str, Texts] = {"again": [], "after others": [], "drafts": [], "batch": []}
    with Emulator.from_files(**files, **loading) as emulator:

        def answer(index: int, drafts: int = 0) -> tuple[int, ...]:
            return emulator.generate(
                asked[index],
                sampling=Sampling(seed=index),
                max_tokens=_MOST,
                speculation=drafts,
            ).tokens

        for i in range(len(asked)):
            emulator.ensemble.clear()
            first.append(answer(i))
            ways["again"].append(answer(i))
        ways["after others"] = [answer(i) for i in range(len(asked))]
        ways["drafts"] = [answer(i, DRAFTS) for i in range(len(asked))]
    with Emulator.from_files(**files, **loading, n_seq_max=BATCH) as emulator:
        scheduler = Scheduler(emulator)
        calls = [
            scheduler.add(q, sampling=Sampling(seed=i), max_tokens=_MOST, speculation=0)
            for i, q in enumerate(asked)
        ]
        while scheduler:
            scheduler.step()
        ways["batch"] = [call.answer().tokens for call in calls]
    return {
        way: sum(a != b for a, b in zip(first, texts, strict=True)) for way, texts in ways.items()
    }
