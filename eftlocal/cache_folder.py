"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder; EFTLOCAL_CACHE overrides it. It may not be there yet."""
    folder = os.environ.get("EFTLOCAL_CACHE")
    return Path(folder) if folder else platformdirs.user_cache_path("eftlocal")
