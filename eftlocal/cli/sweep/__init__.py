"""`eftlocal sweep`: one set of prompts at every point of a grid of dials, resumable."""

from eftlocal.cli.sweep.command import sweep

__all__ = ["sweep"]
