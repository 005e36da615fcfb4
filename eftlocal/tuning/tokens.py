"""Examples as token ids: the very ids that the tuned role will see and is to give."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import NamedTuple

from eftlocal.errors import ModelFileError, PromptError
from eftlocal.llama.model import Model
from eftlocal.loading.loader import role_prompt
from eftlocal.loading.roles import RoleSource
from eftlocal.prompt.messages import Message
from eftlocal.prompt.reader import PromptReader
from eftlocal.prompt.render import RolePrompt, render_roles
from eftlocal.tuning.examples import Example

_ROLE = "tuned"


class Encoded(NamedTuple):
    """Token ids of an example: those of its prompt, then the answer's and its end."""

    ids: tuple[int, ...]
    n_prompt: int


class Encoding(NamedTuple):
    """What became of examples.

    encoded: those that fit, in order. faults: of the others, each naming its line. cut: lines of
    answers that were too long.
    """

    encoded: list[Encoded]
    faults: list[PromptError]
    cut: list[int]


def encode(source: RoleSource, examples: Iterable[Example], *, longest: int) -> Encoding:
    """Examples as a role reads and gives them.

    Args:
        source: of the role; only the vocabulary of its file is loaded.
        longest: tokens of an example; what an answer has more is cut off, its end too.

    Raises:
        PromptError: the role has no chat template.
        ModelFileError: llama.cpp cannot load the file, or it has no end token.
    """
    found = Encoding([], [], [])
    with Model(source.path, vocab_only=True) as model:
        role = role_prompt(source, model)
        if not role.source:
            raise PromptError(
                f"{source.path}: has no chat template; give one with --chat-template, as in "
                "--chat-template plain or --chat-template chatml"
            )
        reader = PromptReader({_ROLE: model}, {_ROLE: role}, {_ROLE: longest})
        end = _end_of_answer(model, role)
        if end is None:
            raise ModelFileError(f"{source.path}: it has no token that ends an answer")
        for example in examples:
            try:
                asked = reader.ids(example.messages)[_ROLE]
                if len(asked) >= longest:
                    raise PromptError(
                        f"the prompt has {len(asked)} tokens, and an example at most {longest}"
                    )
            except PromptError as error:
                found.faults.append(PromptError(f"{example.where}: {error}"))
                continue
            ids = (*asked, *model.tokenize(example.answer, continues=True), end)
            if len(ids) > longest:
                found.cut.append(example.line)
            found.encoded.append(Encoded(ids[:longest], len(asked)))
    return found


def _end_of_answer(model: Model, role: RolePrompt) -> int | None:
    """The end token that the template writes after an answer, else the model's EOS token."""
    answer = secrets.token_hex(16)
    asked = Message(role="user", content="?")
    talk = [asked, Message(role="assistant", content=answer), asked]
    after = str(render_roles(talk, {_ROLE: role})[_ROLE]).partition(answer)[2].lstrip()
    first = model.tokenize(after, parse_special=True)[:1]
    return first[0] if model.end_tokens(first) else model.eos
