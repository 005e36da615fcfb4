"""Where the conversations lie."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_folder() -> Path:
    """The folder of what users keep. EFTLOCAL_DATA overrides it."""
    folder = os.environ.get("EFTLOCAL_DATA")
    return Path(folder) if folder else platformdirs.user_data_path("eftlocal")


def database_path() -> Path:
    return data_folder() / "chat.db"
