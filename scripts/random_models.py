"""Random models that are written once and kept, under names that say what they are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs
from random_gguf import QUANTIZATIONS, SHAPES, is_quantization, write_random_model

from eftlocal.errors import UsageError
from eftlocal.logits.recipe import TRIO

NAMED = {"preset": "base=Q4_K_M,tuned=Q8_0,reference=Q8_0"}  # what presets hold


def folder(chosen: Path | None = None) -> Path:
    """Where they are kept: the folder that was given, or one in the user's cache."""
    return chosen or platformdirs.user_cache_path("eftlocal") / "benchmarks"


def random_file(where: Path, shape: str, quantization: str, seed: int) -> Path:
    """The file of this shape, quantization and seed; written where it is missing."""
    where.mkdir(parents=True, exist_ok=True)
    path = where / f"random-{shape}-{quantization}-{seed}.gguf"
    if not path.is_file():
        print(f"writing {path}", file=sys.stderr)
        write_random_model(path, shape, quantization, seed)
    return path


def random_trio(shapes: str, quantization: str, where: Path) -> dict[str, Path]:
    """Files for base, tuned and reference.

    Args:
        shapes: three, as in 8b,1b,1b.
        quantization: of `quantizations`.

    Raises:
        UsageError: there is no such shape, role or quantization.
    """
    names = shapes_of(shapes)
    kinds = quantizations(quantization)
    return {
        role: random_file(where, shape, kinds[role], seed)
        for seed, (role, shape) in enumerate(zip(TRIO, names, strict=True))
    }


def shapes_of(text: str) -> list[str]:
    """The names of three shapes with one vocabulary.

    Raises:
        UsageError: there is no such shape, or they cannot be combined.
    """
    names = text.split(",")
    if len(names) != len(TRIO) or not set(names) <= set(SHAPES):
        raise UsageError(f"--shapes {text}: give three of {', '.join(SHAPES)}, as in 3b,1b,1b")
    if len({SHAPES[name].n_vocab for name in names}) > 1:
        raise UsageError(f"--shapes {text}: these have different vocabularies")
    return names


def quantizations(text: str) -> Mapping[str, str]:
    """Role to quantization, of one for all, of base=Q4_K_M,tuned=Q8_0,reference=Q8_0, or a name.

    Raises:
        UsageError: a role or a quantization does not exist.
    """
    whole = NAMED.get(text, text)
    kinds = dict.fromkeys(TRIO, whole)
    if "=" in whole:
        given = dict(part.partition("=")[::2] for part in whole.split(","))
        kinds = {role: given.pop(role, "Q4_0") for role in TRIO}
        if given:
            raise UsageError(f"--quantization: there is no role {', '.join(given)}")
    require(*kinds.values(), option=f"--quantization {text}")
    return kinds


def require(*names: str, option: str) -> None:
    """Raises UsageError where one of the quantizations does not exist."""
    if not all(map(is_quantization, names)):
        raise UsageError(f"{option}: use {', '.join(QUANTIZATIONS)}, or two as in Q4_0+Q6_K")
