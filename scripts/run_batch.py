"""Answers a JSONL file of prompts: `eftlocal batch` as a script, the same code and options.

Usage: python scripts/run_batch.py IN.jsonl OUT.jsonl [options of `eftlocal batch`]
       python scripts/run_batch.py merge OUT.jsonl SHARD...
"""

from __future__ import annotations

import sys

from eftlocal.cli.interrupts import stop_at_once

if __name__ == "__main__":
    stop_at_once()
    from eftlocal.cli.app import app
    from eftlocal.cli.streams import prepare_streams

    prepare_streams()
    app(["batch", *sys.argv[1:]], prog_name="run_batch.py")
