"""What a sweep is. The grid is no part of it: points may be added to a sweep, or left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eftlocal.journal.manifest import Manifest, of_roles, of_versions
from eftlocal.loading.roles import RoleSource
from eftlocal.speculation.settings import Speculation
from eftlocal.sweep.prompts import Item, digest

__all__ = ["Manifest", "manifest"]


def manifest(
    *,
    preset: str,
    roles: Mapping[str, RoleSource],
    items: Sequence[Item],
    seed: int,
    max_tokens: int | None,
    stop: Sequence[str],
    loop_guard: int,
    speculation: Speculation,
) -> Manifest:
    """Everything that the answers depend on beside the points.

    Raises:
        ModelFileError: a model file cannot be read.
    """
    return {
        **of_versions(),
        "preset": preset or "none",
        "prompts": f"{len(items)}, sha256 {digest(items)}",
        "seed": str(seed),
        "max-tokens": "none" if max_tokens is None else str(max_tokens),
        "stop": repr(list(stop)),
        "loop-guard": str(loop_guard or "off"),
        "speculative": "off" if speculation.off else str(speculation),
        **of_roles(roles),
    }
