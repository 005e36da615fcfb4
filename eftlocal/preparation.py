"""Roles as they are asked for, checked and placed; nothing is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from eftlocal.arguments import LoadOptions, split_load_options
from eftlocal.loading.loader import Prepared, prepare
from eftlocal.loading.placement import Held
from eftlocal.loading.roles import RoleSource, require_roles, with_made, with_settings
from eftlocal.logits.recipe import Recipe

if TYPE_CHECKING:
    from typing_extensions import Unpack


def prepare_roles(
    sources: Mapping[str, RoleSource],
    recipe: Recipe,
    vocabulary_exceptions: Collection[int] = (),
    freed: Held | None = None,
    host_free: int | None = None,
    **options: Unpack[LoadOptions],
) -> Prepared:
    """What `Emulator.from_sources` loads.

    Args:
        recipe: that answers have by default.
        freed: memory of models that are closed before these are loaded.
        host_free: bytes of the host's memory that are free; None looks.
        options: as there, without `progress`.

    Raises:
        EftlocalError: they cannot be loaded; see `loading.loader.prepare`.
    """
    of_roles, loading = split_load_options(options)
    sources = with_made(with_settings(sources, **of_roles), recipe)
    require_roles(recipe, sources)
    return prepare(
        sources,
        vocabulary_exceptions=vocabulary_exceptions,
        freed=freed,
        host_free=host_free,
        **loading,
    )
