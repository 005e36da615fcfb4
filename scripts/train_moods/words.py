"""Which mood an answer is in, by its words: naive Bayes, which no model was trained on or by."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

LONGEST = 70  # characters that are looked at: about 16 tokens, so that length says nothing
_WORD = re.compile(r"[a-z']+|[!?—…]|\n|[☀-➿\U0001f300-\U0001faff]")


def words(text: str) -> list[str]:
    """The words of an answer's beginning, and the marks that carry a mood."""
    return _WORD.findall(text.strip()[:LONGEST].lower().replace("’", "'"))


class Classifier:
    """Multinomial naive Bayes with add-one smoothing; every class is as likely beforehand.

    Args:
        texts: examples of each class.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        counts = {
            name: Counter(w for text in of for w in words(text)) for name, of in texts.items()
        }
        self.known = frozenset().union(*counts.values())
        self._costs: dict[str, dict[str, float]] = {}
        for name, seen in counts.items():
            total = seen.total() + len(self.known)
            self._costs[name] = {w: math.log((seen[w] + 1) / total) for w in self.known}

    def __call__(self, text: str) -> str:
        """The likeliest class."""
        found = [word for word in words(text) if word in self.known]
        return max(self._costs, key=lambda name: sum(self._costs[name][w] for w in found))
