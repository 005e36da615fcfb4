"""Two bases: what is closed at the end of a `with` block, and what never changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Generic, TypeVar

S = TypeVar("S", bound="Closing")


class Closing(ABC):
    """Closes itself at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Gives everything back. A second call does nothing."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


K = TypeVar("K")
V = TypeVar("V")
F = TypeVar("F", bound="Frozen")


class Frozen:
    """Its own copy, shallow or deep: it cannot change."""

    def __copy__(self: F) -> F:
        return self

    def __deepcopy__(self: F, _memo: object) -> F:
        return self


class FrozenMapping(Mapping[K, V], Generic[K, V]):
    """A copy of a mapping, read only. Equal to any mapping with the same items."""

    def __init__(self, items: Mapping[K, V]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[K, V]:
        """What `dataclasses.asdict` gives: plain, to be changed or written as JSON."""
        return deepcopy(self._items, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMapping, (self._items,)
