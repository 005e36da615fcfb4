"""Rows of logits: how they are weighed, combined, filtered and drawn from. numpy only."""
