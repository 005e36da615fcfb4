"""The child process in which chat templates run, started by `template`.

It imports jinja2 and little else, and bounds its memory, its output and its time.
"""

from __future__ import annotations

import datetime
import functools
import json
import sys
import traceback
from typing import Any, NoReturn

from eftlocal.child_service import limit_files, limit_memory, serve

_WORDS = 65_536  # bytes of stderr, the one file that it writes
TEMPLATE_FILE = "<template>"  # the file name jinja2 gives to frames of a template made of text
# What code in a template can raise. Anything else ends the process, and the parent reports that.
FAULTS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError,
          RuntimeError, SyntaxError, TypeError, ValueError)  # fmt: skip


def make_compile() -> Any:
    """The function source -> compiled template, with the environment chat templates expect."""
    import jinja2.sandbox
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser

    class Generation(Extension):
        """`{% generation %}...{% endgeneration %}` marks training targets; here only its body."""

        tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:  # in the order that transformers gives these arguments
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    return functools.lru_cache(maxsize=16)(environment.from_string)


def template_line(error: BaseException) -> int | None:
    """The last line of the template that was running when `error` was raised."""
    line = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == TEMPLATE_FILE:
            line = number
    return line


def render(compile_: Any, request: dict[str, Any], output_chars: int) -> dict[str, Any]:
    """`{"text"}`, or `{"fault", "message", "line"}` where the template fails."""
    import jinja2.exceptions

    def fault(kind: str, error: BaseException, line: int | None = None) -> dict[str, Any]:
        message = str(error)[:2000]
        return {"fault": kind, "message": message, "line": line or template_line(error)}

    try:
        pieces: list[str] = []
        length = 0
        for piece in compile_(request["source"]).generate(request["variables"]):
            length += len(piece)
            if length > output_chars:
                return {"fault": "output", "message": "", "line": None}
            pieces.append(piece)
        return {"text": "".join(pieces)}
    except jinja2.TemplateSyntaxError as error:
        return fault("syntax", error, error.lineno)
    except jinja2.UndefinedError as error:
        return fault("undefined", error)
    except jinja2.exceptions.SecurityError as error:
        return fault("security", error)
    except jinja2.TemplateError as error:
        return fault("refused", error)
    except MemoryError as error:
        return fault("memory", error)
    except RecursionError as error:
        return fault("recursion", error)
    except FAULTS as error:
        return fault(type(error).__name__, error)


def main(memory_bytes: int, output_chars: int, deadline_s: float) -> None:
    compile_ = make_compile()
    render(compile_, {"source": "{{ [].a.b }}", "variables": {}}, 1)  # late imports happen now
    limit_files(_WORDS)
    limit_memory(memory_bytes)
    serve(lambda request, _tell: render(compile_, request, output_chars), seconds=deadline_s + 1.0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
