"""Roles with another vocabulary: a small pair steers a base of another family.

The answer stays in the base's tokens. What a small role is given is its own tokens of the same
bytes (`spelling`), and its row of logits becomes a row over the base's tokens (`rows`), by where
the bytes of the one vocabulary stand in the other (`lattice`). numpy and bytes only: nothing here
knows llama.cpp.
"""
