"""Model files: found on this machine, else downloaded from the hub, resumed, checked and kept.

A download grows in FILE.part beside its place; FILE.part.json says of which version it is a
prefix. Whatever ends the process, the next run resumes there. FILE appears only whole: its length
and SHA-256 checked, flushed to the disk, then renamed. huggingface_hub knows the token, the client
and its own cache; the transfer is ours, because it must resume in any later process.
"""

from eftlocal.hub.local import (
    Progress,
    download,
    fetched,
    hub_cache,
    in_python_package,
    is_offline,
    locate,
    look_up,
    pinned,
    recall,
    remove,
    resolve,
    shards,
    store,
    stored_bytes,
    stored_path,
    vouched,
)
from eftlocal.hub.missing import Missing, check_room, free_space, size_of
from eftlocal.hub.waiting import while_waiting

__all__ = [
    "Missing",
    "Progress",
    "check_room",
    "download",
    "fetched",
    "free_space",
    "hub_cache",
    "in_python_package",
    "is_offline",
    "locate",
    "look_up",
    "pinned",
    "recall",
    "remove",
    "resolve",
    "shards",
    "size_of",
    "store",
    "stored_bytes",
    "stored_path",
    "vouched",
    "while_waiting",
]
