"""Speculative decoding: exact acceptance of drafts, where they come from, how long they are."""
