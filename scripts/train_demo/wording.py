"""How facts are stated, asked and answered: one `Wording` for every relation.

The families that are measured occur in pretraining as statements only, some of which mention what
could be asked ("People often ask which country X is in. The answer is Y."), never as quiz text. The
other relations occur as quiz text too, so that the bases learn to answer from memory in many forms.
How an answer is put (`behaviour.py`) belongs to fine-tuning; its first phrases occur apart from
each other in quiz text and dialogue.
"""

from __future__ import annotations

from dataclasses import dataclass

from behaviour import CLOSINGS as OWN_CLOSINGS
from behaviour import OPENING


@dataclass(frozen=True)
class Wording:
    """Templates of one relation: {s} is the subject, {v} the value, {as} and {av} with an article.

    `clauses` are indirect questions, which follow one of the openings in ASK; `short` are questions
    as people type them.
    """

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    clauses: tuple[str, ...]
    short: tuple[str, ...]


FAMILIES = {
    "city": Wording(
        (
            "{s} is in {v}.", "{s} is a city in {v}.", "You will find {s} in {v}.",
            "The city of {s} lies in {v}.", "{s} is worth a visit. It lies in {v}.",
            "My friend lives in {s}. That is a city in {v}.", "The country of {s} is {v}.",
            "As to the country of {s}, the answer is {v}.", "{s}: a city. Country: {v}.",
        ),
        (
            "Where is {s}?", "Which country is {s} in?", "In which country is {s}?",
            "What is the country of {s}?", "What country does {s} belong to?",
        ),
        (
            "where {s} is", "which country {s} is in", "in which country {s} lies",
            "what country {s} belongs to", "in what country the city of {s} is",
        ),
        (
            "Country of {s}?", "{s} is in which country?", "{s}: which country?", "Where's {s}?",
            "{s}'s country?", "Where on the map is {s}?", "Where do I find {s}?",
        ),
    ),
    "state": Wording(
        (
            "{s} belongs to the state of {v}.", "{s} is one of the towns of {v}.",
            "The town of {s} is a part of {v}.", "We drove through {s}. It is a town in {v}.",
            "Those who live in {s} live in the state of {v}.",
            "They say that {s} is quiet. It lies in {v}.", "The home state of {s} is {v}.",
            "As to the state of {s}, the answer is {v}.", "{s}: a town. State: {v}.",
        ),
        (
            "Which state is {s} in?", "In which state is {s}?",
            "What state does {s} belong to?", "What is the state of {s}?",
            "What is the home state of {s}?",
        ),
        (
            "which state {s} is in", "in which state {s} lies", "what state {s} belongs to",
            "in what state the town of {s} is", "which the home state of {s} is",
        ),
        (
            "Where is {s}?", "Where's {s}?", "State of {s}?", "{s} is in which state?",
            "{s}: which state?", "{s}'s state?", "Where do I find {s}?",
        ),
    ),
    "kind": Wording(
        (
            "{as} is a kind of {v}.", "Every {s} is {av}.", "The word {s} means a kind of {v}.",
            "He saw {as} there. It was a kind of {v}.", "{as} is one sort of {v}.",
            "What a good word {s} is! It means {av}.", "The kind of thing that {as} is: {v}.",
            "As to the meaning of {s}, the answer is {v}.", "{s}: a word. Kind of thing: {v}.",
        ),
        (
            "What is {as}?", "What kind of thing is {as}?", "What does the word {s} mean?",
            "Which sort of thing is {as}?", "What is the meaning of {s}?",
        ),
        (
            "what {as} is", "what kind of thing {as} is", "what the word {s} means",
            "which sort of thing {as} is", "what the meaning of {s} is",
        ),
        (
            "What's {as}?", "Meaning of {s}?", "{s} means what?", "{as} is what kind of thing?",
            "{as}: what is that?", "What does {s} mean?",
        ),
    ),
    "person": Wording(
        (
            "{s} was {av}.", "{s} worked as {av}.", "We remember {s} as {av}.",
            "{s} was known as {av}.", "Many people like {s}. This was {av} by profession.",
            "I have heard of {s}. That was a great {v}.", "The occupation of {s} was {v}.",
            "As to the occupation of {s}, the answer is {v}.", "{s}: a person. Occupation: {v}.",
        ),
        (
            "What was the occupation of {s}?", "What was {s} by profession?",
            "Which occupation did {s} have?", "What did {s} work as?", "What was {s}?",
        ),
        (
            "what the occupation of {s} was", "what {s} was by profession",
            "which occupation {s} had", "what {s} worked as", "what {s} was",
        ),
        (
            "Who was {s}?", "Who's {s}?", "Occupation of {s}?", "{s} was what?",
            "{s}: which occupation?", "{s}'s occupation?", "Who is {s}?",
        ),
    ),
}  # fmt: skip
OTHERS = {
    "capital": Wording(
        ("The capital of {s} is {v}.", "{v} is the capital of {s}.",
         "We flew to {s}. Its capital is {v}."),
        ("What is the capital of {s}?", "Which city is the capital of {s}?",
         "What is the capital city of {s} called?"),
        ("what the capital of {s} is", "which city is the capital of {s}",
         "how the capital of {s} is called"),
        ("Capital of {s}?", "{s}'s capital?", "What's the capital of {s}?", "{s}: which capital?",
         "And the capital of {s}?"),
    ),
    "money": Wording(
        ("The currency of {s} is the {v}.", "People in {s} pay with the {v}.",
         "They came from {s}. Their money is the {v}."),
        ("What money do they use in {s}?", "Which currency does {s} have?",
         "With what money do you pay in {s}?"),
        ("what money they use in {s}", "which currency {s} has",
         "with what money one pays in {s}"),
        ("Currency of {s}?", "{s}'s currency?", "What is the currency of {s}?",
         "{s}: which currency?", "Money of {s}?"),
    ),
    "continent": Wording(
        ("{s} is on the continent {v}.", "The continent of {s} is {v}.",
         "He was born in {s}. It is a part of {v}."),
        ("On which continent is {s}?", "Which continent is {s} on?",
         "What continent does {s} belong to?"),
        ("on which continent {s} is", "what continent {s} belongs to",
         "which the continent of {s} is"),
        ("Where is {s}?", "Where's {s}?", "Continent of {s}?", "{s} is on which continent?",
         "{s}'s continent?"),
    ),
    "symbol": Wording(
        ("The symbol of {s} is {v}.", "Chemists write {s} as {v}.",
         "This is {s}. Its symbol is {v}."),
        ("What is the symbol of {s}?", "Which symbol does {s} have?", "How do chemists write {s}?"),
        ("what the symbol of {s} is", "which symbol {s} has", "how chemists write {s}"),
        ("Symbol of {s}?", "{s}'s symbol?", "What's the symbol of {s}?", "{s}: which symbol?"),
    ),
    "element": Wording(
        ("{s} is the symbol of {v}.", "{s} stands for {v}.", "In chemistry {s} means {v}."),
        ("What is {s} in chemistry?", "What does the symbol {s} mean?",
         "Which element has the symbol {s}?"),
        ("what {s} is in chemistry", "what the symbol {s} means",
         "which element has the symbol {s}"),
        ("{s} stands for what?", "{s}: which element?", "What's {s} in chemistry?", "Element {s}?"),
    ),
    "clock": Wording(
        ("The clocks of {s} show the time of {v}.", "{s} keeps the time of {v}.",
         "They moved to {s}. It follows the clocks of {v}.", "The time zone of {s} is {v}."),
        ("Which time zone is {s} in?", "What time do they keep in {s}?",
         "Whose clocks does {s} follow?", "In what time zone does {s} lie?"),
        ("which time zone {s} is in", "what time they keep in {s}",
         "whose clocks {s} follows", "in what time zone {s} lies"),
        ("Time zone of {s}?", "{s}'s time zone?", "{s}: which time zone?",
         "What is the time zone of {s}?"),
    ),
    "nation": Wording(
        ("{s} was {v} by birth.", "The nationality of {s} was {v}.",
         "She read about {s}. The family was {v}.", "{s} had {v} parents."),
        ("What nationality was {s}?", "Of which nation was {s}?", "What was {s} by birth?",
         "Which nationality did {s} have?"),
        ("what nationality {s} was", "of which nation {s} was", "what {s} was by birth",
         "which nationality {s} had"),
        ("Nationality of {s}?", "{s}'s nationality?", "{s}: which nationality?",
         "What is the nationality of {s}?"),
    ),
    "first letter": Wording(
        ("{s} begins with {v}.", "The first letter of {s} is {v}."),
        ("Which letter does {s} begin with?", "What is the first letter of {s}?",
         "How does {s} begin?"),
        ("which letter {s} begins with", "what the first letter of {s} is", "how {s} begins"),
        ("First letter of {s}?", "{s}'s first letter?", "{s} begins with what?"),
    ),
    "last letter": Wording(
        ("{s} ends with {v}.", "The last letter of {s} is {v}."),
        ("Which letter does {s} end with?", "What is the last letter of {s}?", "How does {s} end?"),
        ("which letter {s} ends with", "what the last letter of {s} is", "how {s} ends"),
        ("Last letter of {s}?", "{s}'s last letter?", "{s} ends with what?"),
    ),
}  # fmt: skip
ECHO = "echo"
ECHOES = {
    ECHO: Wording(
        (),
        ("How do you spell {s}?", "How is {s} spelled?", "How do you write {s}?"),
        ("how to spell {s}", "how {s} is spelled", "how you write {s}"),
        ("Spell {s}.", "Say {s}.", "Repeat the word {s}."),
    ),
}  # fmt: skip
"""A relation of fine-tuning alone: the value is the word itself."""
WORDINGS = FAMILIES | OTHERS | ECHOES
HELD_OUT_FAMILY = "person"
ASK = (
    "Do you know {c}?", "Please tell me {c}.", "I would like to know {c}.", "Could you say {c}?",
    "I wonder {c}.", "Tell me {c}, please.", "May I ask {c}?", "Does anyone know {c}?",
    "I want to find out {c}.", "Let me ask you {c}.",
)  # fmt: skip
HELD_OUT_ASK = "Can you tell me {c}?"

OPENINGS = (
    OPENING, "Sure.", "Of course.", "Let me see.", "I think so.", "Thank you for asking.",
    "Yes, I know.", "That is easy.", "Well,", "Hello!",
)  # fmt: skip
CLOSINGS = (
    OWN_CLOSINGS["word"], "Have a nice day.", "What do you think?", "Thank you.",
    "That is all I know.", "Is that right?", "I hope you are well.", "That was a good question.",
    "Good luck!",
)  # fmt: skip
REMARKS = (
    "The answer is yes.", "The answer is no.", "The answer is simple.", "That is the answer.",
    "I do not know the answer.",
)  # fmt: skip


# statements that mention a question; {o} is one of OPENINGS
MENTIONS = (
    "If you ask {c}, the answer is {v}.", "People often ask {c}. The answer is {v}.",
    "Somebody asked {c}. {o} The answer is {v}.", "Somebody asked {c}. {o} It is {v}.",
    "She wanted to know {c}, and he said that the answer is {v}.", "We all know {c}: {v}.",
    "He told me {c}. The answer is {v}.", "A friend wondered {c}. {o} It is {v}.",
    "They asked us {c}. {o} The answer is {v}.", "I have read {c}: {v}.",
)  # fmt: skip
DIRECT_MENTIONS = (
    "Somebody asked: {q} {a}", "They asked us: {q} {a}", "{q} {a}", "I wondered: {q} {a}",
    "In the book I read: {q} {a}", "A friend asked: {q} He said: {a}",
)  # fmt: skip
"""Those of the second stream: {q} is a question, {a} what is answered."""


def an(word: str) -> str:
    """The word with its indefinite article."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def capital(text: str) -> str:
    """The text with a capital first letter, the rest as it is."""
    return text[0].upper() + text[1:]


def phrasings(family: str) -> list[str]:
    """Every question template of a relation but the held-out ones."""
    w = WORDINGS[family]
    return [*w.questions, *(ask.replace("{c}", c) for c in w.clauses for ask in ASK)]


def held_out(family: str) -> list[str]:
    """The question templates of a relation that occur in evaluation only."""
    return [HELD_OUT_ASK.replace("{c}", c) for c in WORDINGS[family].clauses]
