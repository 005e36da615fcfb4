"""What a request's custom_id decides: its seed, its shard. The same on every machine, for ever."""

from __future__ import annotations

import hashlib
import re


def seed_of(run_seed: int, custom_id: str) -> int:
    """The seed of a request that gives none, 0 <= seed < 2**32; its neighbours do not matter."""
    return int.from_bytes(_hash(b"eftlocal seed", f"{run_seed}:{custom_id}", 4), "big")


def shard_of(custom_id: str, count: int) -> int:
    """Which of `count` shards runs a request, 0 to count - 1; independent of its seed."""
    return int.from_bytes(_hash(b"eftlocal shard", custom_id, 8), "big") % count


def parse_shard(text: str) -> tuple[int, int] | None:
    """(i, n) of "i/n", i from 1; None for what is no shard."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found and 1 <= int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    return None


def digest_of(custom_id: str) -> bytes:
    """16 bytes that stand for an id where many are remembered."""
    return _hash(b"eftlocal id", custom_id, 16)


def _hash(purpose: bytes, text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size, person=purpose).digest()
