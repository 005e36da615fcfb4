"""What a batch is. Limit, parallel sequences, threads and GPU layers are no part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from eftlocal.batch.formats import Format
from eftlocal.journal.manifest import Manifest, brief, of_roles, of_versions
from eftlocal.loading.roles import RoleSource
from eftlocal.request import RequestDefaults

SHARD = "shard"  # the one key in which the manifests of one batch's shards differ


def batch_manifest(
    defaults: RequestDefaults,
    *,
    input_sha256: str,
    lines: int | None = None,
    roles: Mapping[str, RoleSource],
    seed: int,
    max_tokens: int | None,
    stop: Sequence[str],
    loop_guard: int,
    format: Format,
    shard: tuple[int, int] | None = None,
) -> Manifest:
    """Everything that the rows depend on beside the kernels' rounding.

    What a line says itself is in the input.

    Args:
        defaults: of every line.
        lines: of the whole input, whatever the limit and the shard; a merge tells by it whether
            rows are missing.
        seed: of the run; that of the sampling does not count.
        shard: which, from 1, of how many; None is the whole, 1/1.

    Raises:
        ModelFileError: a model file cannot be read.
    """
    recipe, sampling, speculation = defaults.recipe, defaults.sampling, defaults.speculation
    drawn = {**vars(sampling), "logit_bias": dict(sorted(sampling.logit_bias.items()))}
    length = "auto" if speculation.length is None else speculation.length
    drafts = f"{length}, rule {speculation.rule}, source {speculation.source}"
    exactly = hashlib.sha256(repr(recipe).encode()).hexdigest()  # its text rounds the weights
    return {
        **of_versions(),
        "input": f"sha256 {input_sha256}",
        **({} if lines is None else {"lines": str(lines)}),
        "preset": defaults.model or "none",
        "recipe": f"{recipe} (sha256 {exactly})",
        **{name.replace("_", "-"): brief(str(value)) for name, value in drawn.items()},
        "seed": str(seed),
        "max-tokens": "none" if max_tokens is None else str(max_tokens),
        "stop": brief(repr(list(stop))),
        "loop-guard": str(loop_guard or "off"),
        "raw": str(defaults.raw).lower(),
        **({"special": "true"} if defaults.special else {}),
        "system": _text(defaults.system),
        "grammar": _text(defaults.grammar),
        "json-schema": _text(defaults.json_schema),
        "speculative": "off" if speculation.off else drafts,
        "format": format,
        SHARD: "1/1" if shard is None else f"{shard[0]}/{shard[1]}",
        **of_roles(roles),
    }


def _text(given: str | None) -> str:
    return "none" if given is None else brief(repr(given))
