"""The child process of a trial: a whole first load on the CPU, with a small context.

It must do with a file what the program does: what is left out here is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eftlocal import llama
from eftlocal.child_service import Tell, limit_files, limit_memory, serve
from eftlocal.errors import EftlocalError
from eftlocal.llama import Context, Model, Span

LOADING, READING, DECODING = "loading", "reading text", "decoding"  # the steps
SHORT, BATCH, _SEVERAL = 256, 16, 4  # tokens: of the small context, of a batch, at once
_WORDS = 65_536  # bytes of stderr, the one file that it writes
_LONGEST_S = 86_400.0  # the parent's limits are nearer
_SPECIAL = 256  # control tokens whose texts are tokenized
# Every byte of UTF-8, each by itself: a tokenizer that lacks one may go round in circles there.
_ALONE = (
    *range(1, 0x180),
    *range(0x180, 0x800, 0x40),
    *range(0x800, 0xD800, 0x400),
    *range(0xE000, 0x110000, 0x2000),
)
_TEXTS = (
    "\x01".join(map(chr, _ALONE)),
    "Hello, world! It's 9 o'clock: 3.14159 * x_1 <= foo(bar)[0];\r\n\r\n\tif (a && b) return;",
    " " * 300 + "x" + "\n" * 100 + "\t" * 50 + " \n" * 50,
    "你好，世界。日本語のテキストです。한국어 문장입니다. ไม่มีช่องว่าง " * 4,
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽 e\u0301\u0301\u0301 \u202e\ufeff\ufdfa½ \x00\x01\x7f \U0010ffff\ufffd",
    "0123456789" * 20 + " 12,345.678e-90",
    "a" * 300 + "Antidisestablishmentarianism" * 10,
    "<s></s><0x0A><|im_start|>user\n[INST] <unk> ▁▁Ġ [/INST]<|endoftext|>",
)
# How llama.cpp, C++ and Python say that a limit of memory was met.
NO_MEMORY = ("bad_alloc", "failed to allocate", "unable to allocate", "cannot allocate memory")


def answer(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """`{"fault": ""}`, or with what went wrong and its message.

    The request: model, adapters (paths), repacked, threads, n_ctx (of the large context), passes
    (whether all weights may be read several times), mapped (bytes of the files), memory (step to
    bytes that it may take beyond what was there when it began).
    """

    def step(name: str, share: float = 0.0, file: str = request["model"]) -> None:
        if not share:
            limit_memory(request["memory"][name], 0 if name == LOADING else request["mapped"])
        tell({"progress": share, "step": name, "file": file})

    try:
        _load(request, step)
    except MemoryError as error:
        return {"fault": "memory", "message": str(error)}
    except EftlocalError as error:
        message = str(error)
        full = any(words in message.lower() for words in NO_MEMORY)
        return {"fault": "memory" if full else type(error).__name__, "message": message}
    except Exception as error:  # noqa: BLE001 - ctypes may raise any, and the parent says which
        return {"fault": type(error).__name__, "message": str(error)}
    return {"fault": ""}


def _load(request: dict[str, Any], step: Callable[..., None]) -> None:
    told = 0.0

    def progress(share: float) -> None:
        nonlocal told
        if share >= told + 0.01 or share >= 1.0:
            told = share
            step(LOADING, share)

    step(LOADING)
    with Model(
        request["model"], devices=(), repacked=request["repacked"], progress=progress
    ) as model:
        step(READING)
        tokens = _read_text(model)
        step(DECODING)
        _decode(model, tokens, request, SHORT, thorough=request["passes"])
        if request["passes"] and request["n_ctx"] > SHORT:
            step(DECODING)
            _decode(model, tokens, request, request["n_ctx"])
        for file in request["adapters"]:
            step(DECODING, file=file)
            _decode(model, tokens, request, SHORT, adapters=[(Path(file), 1.0)])


def _read_text(model: Model) -> list[int]:
    """Tokenizes texts both ways and back, and gives ids that are worth decoding."""
    special = model.special_tokens()[:_SPECIAL]
    written = "".join(model.piece(t, special=True).decode("utf-8", "replace") for t in special)
    tokens: list[int] = []
    for text in (*_TEXTS, written[: 1 << 16]):
        for parse in (False, True):
            tokens += model.tokenize(text, add_bos=parse, parse_special=parse, continues=not parse)
    for token in range(model.vocab_size):
        model.piece(token)
    model.end_tokens(special)
    last = model.vocab_size - 1
    return list(dict.fromkeys((0, last, last // 2, *special[:4], *tokens)))


def _decode(
    model: Model,
    tokens: Sequence[int],
    request: dict[str, Any],
    n_ctx: int,
    *,
    thorough: bool = False,
    adapters: Sequence[tuple[Path, float]] = (),
) -> None:
    """Several tokens at once; `thorough`: in two sequences, then a rewind, a copy, and one."""
    sequences = 2 if thorough else 1
    with Context(
        model,
        n_ctx=n_ctx,
        n_batch=BATCH,
        n_seq_max=sequences,
        n_threads=request["threads"],
        flash_attention=request["flash_attention"],
        adapters=adapters,
    ) as context:
        several = list(tokens[:_SEVERAL])
        context.decode([Span(sequence, several, 2) for sequence in range(sequences)])
        if thorough:
            if context.can_rewind(0, 1):
                context.rewind(0, 1)
            context.copy(0, 1)
            context.decode([Span(1, several[:1])])


def main() -> None:
    llama.build()  # finds the devices, before memory is counted
    limit_files(_WORDS)
    serve(answer, seconds=_LONGEST_S)


if __name__ == "__main__":
    main()
