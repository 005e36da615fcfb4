"""Sweeps: one set of prompts answered at every point of a grid of dials, resumable."""
