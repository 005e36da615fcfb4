"""Drafts that cost no forward pass: what followed the same tokens earlier in the conversation.

Prompt lookup decoding (Saxena 2023): quoting, editing and code repeat whole passages.
"""

from __future__ import annotations

from collections.abc import Sequence

_GRAM = 3  # tokens that must agree before a continuation is worth a look
_LONGEST = 16  # agreement beyond this tells no more


class PromptLookup:
    """Finds the last earlier place where the conversation's last tokens stood."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Appends what the conversation gained."""
        known = self._tokens
        for token in tokens:
            # Entered when its continuation is known: the last tokens never find themselves.
            if len(known) >= _GRAM:
                self._after[tuple(known[-_GRAM:])] = len(known)
            known.append(token)

    def clear(self) -> None:
        """Forgets everything, for a conversation that was cut back."""
        self._tokens.clear()
        self._after.clear()

    def find(self, length: int) -> tuple[list[int], int]:
        """At most `length` tokens that may follow, and how many tokens before them agreed.

        Both empty and 0 where the last tokens occurred nowhere before.
        """
        known = self._tokens
        start = self._after.get(tuple(known[-_GRAM:])) if len(known) >= _GRAM else None
        if start is None:
            return [], 0
        agreed = _GRAM
        while agreed < min(_LONGEST, start) and known[start - agreed - 1] == known[-agreed - 1]:
            agreed += 1
        return known[start : start + length], agreed
