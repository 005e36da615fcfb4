"""What a batch is. Limit, parallel sequences, threads and GPU layers are no part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from eftlocal.batch.formats import Format
from eftlocal.journal.manifest import Manifest, brief, of_roles, of_versions
from eftlocal.recipe import Recipe
from eftlocal.roles import RoleSource
from eftlocal.sampling import Sampling
from eftlocal.speculation.settings import Speculation

SHARD = "shard"  # the one key in which the manifests of one batch's shards differ


def batch_manifest(
    *,
    input_sha256: str,
    lines: int | None = None,
    preset: str,
    roles: Mapping[str, RoleSource],
    recipe: Recipe,
    sampling: Sampling,
    seed: int,
    max_tokens: int | None,
    stop: Sequence[str],
    speculation: Speculation,
    format: Format,
    shard: tuple[int, int] | None = None,
    raw: bool = False,
    system: str | None = None,
) -> Manifest:
    """Everything that the rows depend on beside the kernels' rounding.

    Recipe, sampling, max_tokens, stop, raw and system are the run's defaults: what a line says
    itself is in the input.

    Args:
        lines: of the whole input, whatever the limit and the shard; a merge tells by it whether
            rows are missing.
        seed: of the run; that of `sampling` does not count.
        shard: which, from 1, of how many; None is the whole, 1/1.

    Raises:
        ModelFileError: a model file cannot be read.
    """
    told = {name: value for name, value in vars(sampling).items() if name != "seed"}
    told["logit_bias"] = dict(sorted(sampling.logit_bias.items()))
    exactly = hashlib.sha256(repr(recipe).encode()).hexdigest()  # its text rounds the weights
    return {
        **of_versions(),
        "input": f"sha256 {input_sha256}",
        **({} if lines is None else {"lines": str(lines)}),
        "preset": preset or "none",
        "recipe": f"{recipe} (sha256 {exactly})",
        "sampling": ", ".join(f"{name} {brief(str(value))}" for name, value in told.items()),
        "seed": str(seed),
        "max-tokens": "none" if max_tokens is None else str(max_tokens),
        "stop": brief(repr(list(stop))),
        "raw": str(raw).lower(),
        "system": "none" if system is None else brief(repr(system)),
        "speculative": "off" if speculation.off else str(speculation),
        "format": format,
        SHARD: "1/1" if shard is None else f"{shard[0]}/{shard[1]}",
        **of_roles(roles),
    }
