"""Chat templates of model files, rendered in a child process with bounded time, memory and output.

A template is not trusted. Jinja2's sandbox keeps it away from Python's objects, but bounds neither
time nor memory nor output, so it runs in a child process, which is killed at the deadline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eftlocal.child_process import ChildDiedError, ChildProcess
from eftlocal.errors import PromptError, UsageError
from eftlocal.prompt.messages import Message, check_variables
from eftlocal.terminal_text import one_line

MIB = 1 << 20
_WORDS = {
    "syntax": "is not valid",
    "undefined": "uses an undefined name",
    "security": "does what the sandbox forbids",
    "refused": "rejects the conversation",
    "recursion": "recurses too deeply",
}


class TemplateWorker:
    """Renders template sources, one at a time; safe to call from many threads.

    Args:
        deadline_s: seconds that one rendering may take.
        memory_bytes: most memory of the child process.
        output_chars: longest text that a template may produce.
    """

    def __init__(
        self,
        *,
        deadline_s: float = 5.0,
        memory_bytes: int = 512 * MIB,
        output_chars: int = MIB,
    ) -> None:
        self.deadline_s = deadline_s
        self.memory_bytes = memory_bytes
        self.output_chars = output_chars
        self.child = ChildProcess(
            "eftlocal.prompt.child",
            lambda: [str(n) for n in (self.memory_bytes, self.output_chars, self.deadline_s)],
            purpose="chat templates",
            longest=lambda: 12 * self.output_chars + 65_536,  # JSON: 12 bytes a character, braces
        )

    def render(self, source: str, variables: Mapping[str, Any], *, name: str = "template") -> str:
        """The text that `source` makes of `variables` (JSON values).

        Raises:
            PromptError: the template fails; the message begins with `name`.
            UsageError: a variable is not a JSON value.
        """
        try:
            request = {"source": source, "variables": dict(variables)}
            reply = self.child.ask(request, self.deadline_s)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: a variable is not a JSON value: {error}") from None
        except ChildDiedError as died:
            if died.timed_out:
                raise PromptError(
                    f"{name} timed out: it was still running after {self.deadline_s:g} s"
                ) from None
            raise PromptError(
                f"{name} crashed the process it ran in (exit code {died.code})"
            ) from None
        if reply.get("fault") == "memory":
            self.close()  # what it still holds would be missing for the next rendering
        if "text" not in reply:
            raise PromptError(f"{name} {self._describe(reply)}")
        text = str(reply["text"])
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise PromptError(f"{name} produced an unpaired surrogate, which is not text") from None
        return text

    def close(self) -> None:
        """Ends the child. A later rendering starts another."""
        self.child.close()

    def _describe(self, reply: dict[str, Any]) -> str:
        kind = str(reply.get("fault"))
        if kind == "output":
            return f"produced more than {self.output_chars} characters"
        if kind == "memory":
            return f"needs more than {self.memory_bytes // MIB} MiB of memory"
        where = f" (line {reply['line']})" if isinstance(reply.get("line"), int) else ""
        message = one_line(str(reply.get("message", "")))
        words = _WORDS.get(kind, f"fails with {one_line(kind, 40)}")
        return f"{words}{where}: {message}" if message else f"{words}{where}"


_worker = TemplateWorker()


def start_worker() -> None:
    """Starts the process that renders templates while models are loaded, before it is needed."""
    _worker.child.start()


def is_template(text: str) -> bool:
    """Whether it is a template's source: one that names no variable would drop the messages."""
    return "{{" in text or "{%" in text


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template of a model file, rendered in a sandboxed process.

    Attributes:
        source: jinja2.
        bos_token, eos_token: their texts, which templates may use.
        name: what to call the template in messages.
        worker: renders it.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""
    name: str = "the chat template"
    worker: TemplateWorker = _worker

    def render(
        self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None
    ) -> str:
        """The text that the template makes of a conversation, up to where the answer begins.

        Args:
            variables: further JSON values for the template, such as `enable_thinking`.

        Raises:
            PromptError: the template fails.
            UsageError: a variable is no JSON value, or is set by eftlocal.
        """
        further = dict(variables or {})
        check_variables(further)
        values = {  # templates written for transformers test the first two without asking more
            "tools": None,
            "documents": None,
            **further,
            "messages": list(messages),
            "add_generation_prompt": True,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        return self.worker.render(self.source, values, name=self.name)
