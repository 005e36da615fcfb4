"""Model files: found where they lie, else fetched from the hub, resumed, checked and kept.

A download grows in FILE.part beside its place; FILE.part.json says of which version it is a
prefix. Whatever ends the process, the next run goes on from there. FILE appears only whole: its
length and SHA-256 checked, flushed to the disk, then renamed. huggingface_hub finds the file's
address, size and checksum; the transfer is our own, because it starts again in every process.
"""

from eftlocal.disk import readable
from eftlocal.hub.local import (
    Progress,
    download,
    locate,
    look_up,
    pinned,
    recall,
    remove,
    resolve,
    shards,
    stored_bytes,
    stored_path,
    vouched,
)

__all__ = [
    "Progress",
    "download",
    "locate",
    "look_up",
    "pinned",
    "readable",
    "recall",
    "remove",
    "resolve",
    "shards",
    "stored_bytes",
    "stored_path",
    "vouched",
]
