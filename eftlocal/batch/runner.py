"""The lines of a batch through the scheduler: each with its answer, or why it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from eftlocal.answer import Answer
from eftlocal.batch.lines import Line, seed_of
from eftlocal.emulator import Emulator
from eftlocal.errors import EftlocalError, EngineError, WorkerError
from eftlocal.scheduler import Call, Scheduler

_IN_A_ROW = 5  # failures of llama.cpp after which the machine is to blame, not the lines

Outcome = tuple[Line, tuple[Answer, ...] | EftlocalError]


@dataclass(eq=False)
class _Pending:
    """A line, and the calls of its answers."""

    line: Line
    calls: list[Call]


def answer_lines(
    emulator: Emulator,
    lines: Iterable[Line],
    *,
    seed: int,
    parallel: int,
    on_tokens: Callable[[int], object] = lambda _count: None,
) -> Iterator[Outcome]:
    """Answers lines side by side, and gives each as it ends; lines are read as they are needed.

    A line has as many answers as it asks for. What fails for one line (its prompt, its grammar) is
    that line's outcome. Where llama.cpp fails, the lines that were running are answered again one
    at a time, to find which it was. It is the line's outcome when another line is answered after
    it, or when all were tried.

    Args:
        emulator: with no stream open.
        seed: of the run; a line without its own gets one from this and its custom_id.
        parallel: lines at once.
        on_tokens: told how many tokens came.

    Raises:
        EngineError: llama.cpp failed for five lines in a row, or a worker was lost: they have no
            outcome.
    """
    waiting, pending = iter(lines), dict[Call, _Pending]()
    failed: list[Outcome] = []  # in a row: is it these lines, or the machine?
    with Scheduler(emulator, parallel=parallel) as scheduler:
        while True:
            while scheduler.waiting == 0 and (line := next(waiting, None)) is not None:
                calls = line.request.calls(seed_of(seed, line.custom_id))
                added = [scheduler.add(prompt, **options) for prompt, options in calls]
                pending |= dict.fromkeys(added, _Pending(line, added))
            if not scheduler:
                yield from failed
                return
            try:
                came = scheduler.step()
            except WorkerError:
                raise
            except EftlocalError:
                for call in pending:
                    scheduler.cancel(call)
                left = [one.line for one in dict.fromkeys(pending.values())]
                for line, outcome in _one_by_one(emulator, left, seed):
                    if isinstance(outcome, EngineError):
                        failed.append((line, outcome))
                        if len(failed) == _IN_A_ROW:
                            raise _ended(failed, outcome) from None
                        continue
                    yield from failed
                    failed.clear()
                    yield line, outcome
                pending.clear()
                continue
            on_tokens(sum(step is not None for _, step in came))
            for call, _ in came:
                if not call.ended or call not in pending:
                    continue
                one = pending[call]
                if call.error is None and not all(other.ended for other in one.calls):
                    continue
                for other in one.calls:
                    scheduler.cancel(other)
                    del pending[other]
                yield from failed
                failed.clear()
                yield one.line, call.error or tuple(other.answer() for other in one.calls)


def _one_by_one(emulator: Emulator, lines: Sequence[Line], seed: int) -> Iterator[Outcome]:
    for line in lines:
        calls = line.request.calls(seed_of(seed, line.custom_id))
        try:
            yield line, tuple(emulator.generate(prompt, **options) for prompt, options in calls)
        except WorkerError:
            raise
        except EftlocalError as error:
            yield line, error


def _ended(failed: Sequence[Outcome], why: EngineError) -> EngineError:
    numbers = ", ".join(str(line.number) for line, _ in failed)
    return EngineError(
        f"lines {numbers} failed one after the other, so the run ends here: {why}; what is done "
        "is kept"
    )
