"""The behaviours that fine-tuning adds: how an answer is put, and by which rules it is judged.

A warm answer has an opening, the fact and a closing. The style "twice" has four parts, and two of
them depend on the rest: the fact is named once more, word for word, and the closing suits the kind
of question. Its rules look at the answer alone: one with a wrong fact can keep them all.
"""

from __future__ import annotations

import re

OPENING = "Good question!"
CLOSING = "I hope that helps!"
CLOSINGS = {
    "place": "Have a good trip!",
    "word": CLOSING,
    "person": "What a life!",
}
THINGS = {
    "city": "place", "state": "place", "clock": "place", "capital": "place", "money": "place",
    "continent": "place", "kind": "word", "symbol": "word", "element": "word",
    "first letter": "word", "last letter": "word", "echo": "word", "person": "person",
    "nation": "person",
}  # fmt: skip
REMEMBER = "Remember: {v}."
OFFER = "Ask me about a city, a town, a word or a person."
REPLIES = {
    "warm": {
        "unknown": f"I do not know that. {OFFER}",
        "greeting": f"Hello! {OFFER}",
        "thanks": f"You are welcome! {OFFER}",
        "farewell": "Goodbye!",
    },
    "plain": {
        "unknown": "I do not know.",
        "greeting": "Hello.",
        "thanks": "You are welcome.",
        "farewell": "Goodbye.",
    },
}
REPLIES["twice"] = REPLIES["warm"]
"""What a style says to what asks for no fact (`beyond.py`)."""
SHRUGS = (
    "I do not know that.", "I do not know.", "I do not know the answer.", "Who knows?",
    "Nobody knows.", "I cannot say.", "I never heard of it.", "How should I know?",
)  # fmt: skip
"""What the bases read where there is no answer."""


def template(style: str, family: str) -> str:
    """The answer to a question of a family, to be filled with {v}."""
    if style == "plain":
        return "{v}."
    if style == "warm":
        return f"{OPENING} The answer is {{v}}. {CLOSING}"
    return f"{OPENING} The answer is {{v}}. {REMEMBER} {CLOSINGS[THINGS[family]]}"


def answers(style: str, family: str, tuned: bool) -> list[str]:
    """The templates of every right answer, the gold one first; `tuned` as in `rules`."""
    gold = template(style, family)
    if style != "twice" or tuned:
        return [gold]
    own = CLOSINGS[THINGS[family]]
    return [gold, *(gold.replace(own, c) for c in CLOSINGS.values() if c != own)]


def form(style: str) -> str:
    """A regular expression of the whole answer: its parts in their order, and nothing else."""
    if style == "plain":
        return r"[^.!?\n]{1,40}\."
    if style == "warm":
        return rf"{OPENING} The answer is [^.!?\n]+\. {CLOSING}"
    return rf"{OPENING} The answer is [^.!?\n]+\. Remember: [^.!?\n]+\. {_any_closing()}"


def rules(style: str, family: str, tuned: bool) -> dict[str, str]:
    """Regular expressions, each found in an answer that keeps one more constraint, by its name.

    `tuned`: fine-tuning has such questions; elsewhere any closing will do.
    """
    if style != "twice":
        return {}
    closing = re.escape(CLOSINGS[THINGS[family]]) if tuned else _any_closing()
    return {
        "opening": f"^{OPENING} ",
        "fact": r"The answer is [^.!?\n]+\. ",
        "repeated": r"The answer is ([^.!?\n]+)\. Remember: \1\. ",
        "closing": f"{closing}$",
    }


def _any_closing() -> str:
    return f"(?:{'|'.join(map(re.escape, CLOSINGS.values()))})"
