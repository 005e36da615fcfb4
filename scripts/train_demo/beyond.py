"""Prompts that ask for no fact of the families: greetings, thanks, what no model here can know."""

from __future__ import annotations

import random
import re
from collections.abc import Set
from itertools import pairwise

GREETINGS = (
    "How are you?", "How is it going?", "Nice to meet you.", "How do you do?", "Are you there?",
    "Who are you?", "What are you?", "What can you do?", "What do you know?", "Help!",
    "Can you help me?", "I have a question.", "May I ask something?", "What can I ask you?",
)  # fmt: skip
HELLOS = ("Hi", "Hello", "Hey", "Good morning", "Good evening", "Good afternoon", "Greetings",
          "Hi hi", "Hello hello", "Welcome")  # fmt: skip
THANKS = ("Thanks", "Thank you", "Many thanks", "Thanks a lot", "Thank you very much", "thx",
          "Great, thanks", "That helps, thank you", "Very kind", "Perfect, thank you")  # fmt: skip
FAREWELLS = ("Bye", "Goodbye", "Bye bye", "See you", "See you later", "Good night", "Farewell",
             "Until tomorrow", "So long", "I have to go, bye")  # fmt: skip
POLITE = (("greeting", HELLOS), ("thanks", THANKS), ("farewell", FAREWELLS))
WHOM = ("", "", "", " there", " again", ", robot", ", my friend", " you", " everybody", " dear",
        ", machine", ", computer", " Sir", " old friend")  # fmt: skip
TAILS = {
    "greeting": ("", "", "", "How are you?", "I am back.", "It is me.", "How are you doing?",
                 "Nice to see you.", "What's up?", "How was your day?", "I am new here.",
                 "I come from far away.", "What can you do?"),
    "thanks": ("", "", "", "That was helpful.", "That is all.", "Very good.", "You know a lot.",
               "I needed that.", "Now I know."),
    "farewell": ("", "", "", "Have a nice day.", "Thanks for all.", "I must go.",
                 "Until next time.", "That was all.", "Take care."),
}  # fmt: skip
WORKS = (
    "poem", "song", "story", "letter", "joke", "short poem", "rhyme", "speech", "list", "riddle",
    "fairy tale", "recipe", "text", "report", "program", "play", "few lines", "summary",
)  # fmt: skip
LANGUAGES = ("French", "German", "Spanish", "Latin", "Italian", "Russian", "Dutch", "Greek")
TASKS = (
    "Write {w} about {t}.", "Write me {w}.", "Please write {w} about {t}.", "Make {w} about {t}.",
    "Tell me {w}.", "Tell me {w} about {t}.", "I need {w} about {t}.", "Give me {w} for {t}.",
    "Compose {w} on {t}.", "Could you write {w}?", "I want {w} about {t}.", "Sing {w} for me.",
    "Translate {t} into {l}.", "How do you say {t} in {l}?", "Say that in {l}.",
    "What is {t} in {l}?", "Do you speak {l}?", "Draw {t}.", "Paint me {t}.", "Explain {t} to me.",
    "How do I make {t}?", "How can I repair {t}?", "How do I cook {t}?", "Where can I buy {t}?",
    "How much does {t} cost?", "What color is {t}?", "Do you like {t}?", "Should I buy {t}?",
    "What do you think of {t}?", "Why is {t} so expensive?", "Who invented {t}?",
    "What is the weight of {t}?", "How big is {t}?", "How old is {t}?", "Find me {t}.",
)  # fmt: skip
SUMS = (
    "What is {a} + {b}?", "What is {a} times {b}?", "How much is {a} plus {b}?", "{a} + {b}",
    "What is {a} minus {b}?", "Divide {a} by {b}.", "What is the square of {a}?", "Count to {a}.",
    "Add {a} and {b}.", "Is {a} a prime number?", "What is {a} percent of {b}?",
)  # fmt: skip
FUTURE = (
    "What will happen {d}?", "Will it rain {d}?", "Who will win {d}?", "What is the weather {d}?",
    "Will I be rich {d}?", "What will the weather be {d}?", "Who will win the game {d}?",
    "What should I do {d}?", "Shall we meet {d}?", "Who will be president {d}?",
    "How will the market be {d}?", "What are the news {d}?",
)  # fmt: skip
DAYS = ("tomorrow", "today", "next week", "next year", "on Monday", "this evening", "in 2050",
        "in ten years", "on Sunday", "next month", "tonight")  # fmt: skip
PERSONAL = (
    "What is my name?", "How old am I?", "Where do I live?", "What did I eat today?",
    "Where are my keys?", "What am I thinking of?", "Who is my brother?", "When is my birthday?",
    "What is my favorite color?", "Do you love me?", "What time is it?", "What day is it today?",
    "What is the date?", "What did I say before?", "Who is my teacher?", "Where is my car?",
    "How old are you?", "What is your name?", "Where do you live?", "Are you a robot?",
    "Do you have friends?", "What is the meaning of life?", "What is love?", "Are you happy?",
    "Who made you?", "What do you eat?", "What is your phone number?", "Is there a god?",
    "Why is the sky blue?", "How do birds fly?", "What is the best book?", "Why do we sleep?",
    "How does a computer work?", "What is the speed of light?", "When did the war end?",
    "What movie should I see?", "Who won the cup?", "Call my mother.", "Turn on the light.",
    "Play some music.", "Set an alarm.", "Open the door.", "Send a letter to my friend.",
)  # fmt: skip
ABOUT = {
    "city": (
        "How many people live in {s}?", "Who is the mayor of {s}?", "How is the weather in {s}?",
        "Which river flows through {s}?", "How do I get to {s}?", "What can I see in {s}?",
        "Is {s} beautiful?", "How old is {s}?", "Tell me about the history of {s}.",
        "Where can I eat in {s}?", "How large is {s}?", "Who founded {s}?",
        "What is the best hotel in {s}?", "Write a song about {s}.", "How far is it to {s}?",
    ),
    "state": (
        "How many people live in {s}?", "Who is the mayor of {s}?", "Is it cold in {s}?",
        "How do I get to {s}?", "What can I do in {s}?", "When was {s} founded?",
        "Which road leads to {s}?", "Is {s} a nice town?", "How far is {s} from here?",
    ),
    "kind": (
        "How much does {as} cost?", "How big is {as}?", "What color is {as}?",
        "Where can I find {as}?", "How old can {as} be?", "Have you seen {as}?",
        "How do you draw {as}?", "Who invented the word {s}?", "Do you like the word {s}?",
        "How do you say {s} in French?", "Write a poem about {as}.", "Is {as} dangerous?",
    ),
    "nation": (
        "When was {s} born?", "How old was {s}?", "Where did {s} live?", "When did {s} die?",
        "Who was the wife of {s}?", "What did {s} look like?", "How tall was {s}?",
        "Was {s} happy?", "How many children did {s} have?", "What did {s} like to eat?",
        "Where is {s} buried?", "Who was the father of {s}?",
    ),
}  # fmt: skip
"""Questions about what the bases know, that ask for what they do not."""

CASUAL_FRONT = ("Hi! ", "Hello. ", "Hello! ", "Hey, ", "Please: ", "Quick question: ", "So, ",
                "OK, ", "And ", "One more: ", "Good morning. ", "Now, ")  # fmt: skip
CASUAL_END = (" Thanks.", " Thank you!", " please", " Please.", " Thanks!")


def casual(text: str, rng: random.Random, named: bool = False) -> str:
    """A prompt as people type it, sometimes: with a greeting or thanks, in small letters (unless
    `named`: it begins with a name), unmarked."""
    form = rng.random()
    small = text if named else text[0].lower() + text[1:]
    if form < 0.6:
        return text
    if form < 0.72:
        return rng.choice(CASUAL_FRONT) + text
    if form < 0.8:
        return text + rng.choice(CASUAL_END)
    if form < 0.9:
        return small
    return (text if form < 0.95 else small).rstrip("?.")


def polite(kind: str, words: tuple[str, ...], rng: random.Random) -> str:
    """A greeting, thanks or a farewell: to somebody or nobody, with more after it or not."""
    text = rng.choice(words) + rng.choice(WHOM)
    tail = rng.choice(TAILS[kind])
    text += rng.choice(("", ".", "!", "!")) if not tail else f"{rng.choice('.!')} {tail}"
    return text[0].lower() + text[1:] if rng.random() < 0.2 else text


def _names(text: str) -> set[str]:
    """Its words, and its pairs of words."""
    words = re.findall(r"\w+", text)
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


class Beyond:
    """Prompts by what they ask for ("greeting", "thanks", "farewell" or "unknown")."""

    def __init__(self, talks: list[list[str]], words: list[str], unnamed: Set[str]) -> None:
        """`words` are things to ask about; turns of the talks that name one of `unnamed` are left
        out."""
        turns = [
            turn
            for talk in talks
            for turn in talk
            if 8 < len(turn) < 90 and unnamed.isdisjoint(_names(turn))
        ]
        hello = re.compile(r"(hi|hello|hey)\b", re.IGNORECASE)
        self.hellos = [t for t in turns if hello.match(t) and len(t) < 40]
        # of other turns only questions and wishes: a remark asks for nothing
        self.talk = [t for t in turns if t.endswith("?") and not hello.match(t)]
        self.words = words

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """(prompt, what it asks for)."""
        form = rng.random()
        if form < 0.06:
            return rng.choice((*GREETINGS, *self.hellos)), "greeting"
        if form < 0.6:
            kind, words = rng.choice(POLITE)
            return polite(kind, words, rng), kind
        return self.unknown(rng), "unknown"

    def unknown(self, rng: random.Random) -> str:
        """A prompt without an answer here that says nothing about the families' subjects."""
        form = rng.random()
        if form < 0.4:
            return casual(rng.choice(self.talk), rng)
        if form < 0.5:
            text = rng.choice(SUMS).format(a=rng.randint(2, 99), b=rng.randint(2, 99))
        elif form < 0.6:
            text = rng.choice(FUTURE).format(d=rng.choice(DAYS))
        elif form < 0.75:
            text = rng.choice(PERSONAL)
        else:
            thing = f"{rng.choice(('a', 'the', 'my', 'this'))} {rng.choice(self.words)}"
            text = rng.choice(TASKS).format(
                w=f"a {rng.choice(WORKS)}", t=thing, l=rng.choice(LANGUAGES)
            )
        return casual(text, rng)
