"""Evaluation: what the emulation recovers of a large tuned model, measured with intervals."""
