"""Examples as token ids: the very ids that the tuned role will see and is to give."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
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


def encode(
    file: Path, examples: Sequence[Example], *, longest: int, prompt: str = "chat"
) -> list[Encoded]:
    """Examples as a role that is played by `file` reads them.

    Args:
        file: a GGUF; only its vocabulary is loaded.
        longest: tokens of an example; what an answer has more is cut off, its end too.
        prompt: as in `RoleSource`.

    Raises:
        PromptError: a prompt fills `longest` alone; names the example.
        ModelFileError: llama.cpp cannot load the file, or it has no end token.
    """
    with Model(file, vocab_only=True) as model:
        role = role_prompt(RoleSource(file, prompt=prompt), model)
        reader = PromptReader({_ROLE: model}, {_ROLE: role}, {_ROLE: longest})
        end = _end_of_answer(model, role)
        if end is None:
            raise ModelFileError(f"{file}: it has no token that ends an answer")
        found = []
        for example in examples:
            asked = reader.ids(example.messages)[_ROLE]
            if len(asked) >= longest:
                raise PromptError(
                    f"{example.where}: the prompt has {len(asked)} tokens, and an example at most "
                    f"{longest}; shorten it"
                )
            answer = model.tokenize(example.answer, continues=True)
            found.append(Encoded((*asked, *answer, end)[:longest], len(asked)))
    return found


def _end_of_answer(model: Model, role: RolePrompt) -> int | None:
    """The end token that the template writes after an answer, else the model's EOS token."""
    answer = secrets.token_hex(16)
    asked = Message(role="user", content="?")
    talk = [asked, Message(role="assistant", content=answer), asked]
    after = str(render_roles(talk, {_ROLE: role})[_ROLE]).partition(answer)[2].lstrip()
    first = model.tokenize(after, parse_special=True)[:1]
    return first[0] if model.end_tokens(first) else model.eos
