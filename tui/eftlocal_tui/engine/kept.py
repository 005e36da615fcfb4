"""The caches of the last conversations, kept on disk: one of yesterday goes on at once.

A file for each conversation, in a folder that only its user may look into: it holds what was said.
What does not match the models that are loaded, or cannot be read or written, is no error: the
conversation is read again. The files used last stay, as many as the limit holds.

Everything is called from the event loop, and done on the engine's thread in the order of the calls.
Writing gives way to whatever else is to be done there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from eftlocal.disk import cache_folder, readable, remove_torn
from eftlocal.errors import EftlocalError
from eftlocal.saved_state import SavedState
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.thread import StoppedError, Task, WorkThread
from eftlocal_tui.history import History, HistoryError, LockedError

IDLE = 2.0  # seconds after an answer in which nothing else is to be done
_WORTH, _WORTH_LEAVING = 256, 32  # tokens that are not on disk yet, and take longer to read
_LEAVING = 1.5  # seconds in which the program must have written when it is left
_SUFFIX = ".state"


class KeptCaches:
    """The caches of a history's conversations.

    Args:
        most: bytes of all files together; 0 keeps none, and takes away those that are there.

    Attributes:
        last: what was written or read last.
        trouble: why it could not be; empty if it could.
    """

    def __init__(
        self, history: History, engine: LocalEngine, thread: WorkThread, most: int
    ) -> None:
        self._history = history
        self._engine = engine
        self._thread = thread
        self._most = most
        owner = hashlib.sha256(os.fsencode(history.path.absolute())).hexdigest()[:12]
        self._folder = cache_folder() / "kept"
        self._prefix = f"{owner}-"
        self._answered: int | None = None  # the conversation whose answer came last
        self._on_disk: dict[int, int] = {}  # tokens by conversation, as far as it is known
        self._loaded = False
        self._timer: asyncio.TimerHandle | None = None
        self.last: SavedState | None = None
        self.trouble = ""

    # Called from the event loop ----------------------------------------------------------------

    def loaded(self, conversation: int | None) -> None:
        """Models were loaded, and this conversation is on the screen."""
        self._loaded = True
        self._submit(lambda _: self._tidy())
        self.opened(conversation)

    def opened(self, conversation: int | None) -> None:
        """This conversation is on the screen now; None is a new one."""
        if self._loaded:
            self._submit(lambda task: self._change(task, conversation))

    def answering(self, conversation: int) -> None:
        """Its next answer is submitted now."""
        self._cancel()
        self._submit(lambda _: self._begin(conversation))

    def answered(self) -> None:
        """An answer has ended."""
        self._cancel()
        if self._most:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                IDLE, lambda: self._submit(lambda task: self._write(task, _WORTH))
            )

    def deleted(self, conversation: int) -> None:
        """It is gone from the history."""
        self._submit(lambda _: self._forget(conversation))

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _submit(self, work: Callable[[Task[None, None]], None]) -> None:
        self._thread.submit(lambda task: self._try(lambda: work(task)))

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StoppedError:
            return  # for something else
        except (EftlocalError, OSError) as error:
            self.trouble = str(error)

    def about(self) -> str:
        """A line for people."""
        if not self._most:
            return "Kept on disk: nothing, as the settings say"
        sizes = [size for _, size, _ in self._files()]
        count = f"{len(sizes)} conversation{'s' * (len(sizes) != 1)}"
        line = f"Kept on disk: {count}, {readable(sum(sizes))} of {readable(self._most)}"
        if self.last is not None:
            line += f"; the last: {self.last}"
        return line + (f"; not kept: {self.trouble}" if self.trouble else "")

    # On the engine's thread --------------------------------------------------------------------

    def leaving(self) -> None:
        """Writes what is not on disk yet, if that can be done at once. The last call."""
        until = time.monotonic() + _LEAVING

        def check() -> None:
            if time.monotonic() > until:
                raise StoppedError("there is no time left")

        self._try(lambda: self._keep(_WORTH_LEAVING, check))

    def _begin(self, conversation: int) -> None:
        self._answered = conversation

    def _write(self, task: Task[None, None], least: int) -> None:
        def check() -> None:
            task.check()
            if self._thread.waiting:
                raise StoppedError("something else is to be done")

        self._keep(least, check)

    def _change(self, task: Task[None, None], conversation: int | None) -> None:
        """Goes to a conversation; what it takes the place of is written first."""
        self._try(lambda: self._write(task, _WORTH_LEAVING))
        if conversation is None or conversation == self._answered or not self._most:
            return
        path = self._path(conversation)
        if path.is_file() and (state := self._engine.resume(path)) is not None:
            os.utime(path)  # it was used: it goes last
            self.last, self._on_disk[conversation] = state, max(state.tokens.values())

    def _keep(self, least: int, check: Callable[[], None]) -> None:
        conversation, held = self._answered, self._engine.held()
        if conversation is None or not self._most:
            return
        before = self._on_disk.get(conversation, 0)
        if held - (before if held >= before else 0) < least:
            return
        check()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(conversation)
        state = self._engine.keep(path, lambda size: self._make_room(size, path), check)
        if state is not None:
            self.last, self.trouble = state, ""
            self._on_disk[conversation] = held

    def _make_room(self, size: int, path: Path) -> bool:
        """Whether a file of this size may be written; those used longest ago go for it."""
        if size > self._most or shutil.disk_usage(self._folder).free < 2 * size:
            return False
        others = sorted(file for file in self._files() if file[2] != path)
        taken = sum(its for _, its, _ in others)
        for _, its, other in others:
            if taken + size <= self._most:
                break
            other.unlink(missing_ok=True)
            taken -= its
        return True

    def _tidy(self) -> None:
        """Takes away what is of no use any more: of conversations that are gone, or torn. What was
        answered last was so by other models."""
        self._answered = None
        self._on_disk.clear()
        for _, _, path in list(self._files()):
            mine = path.name.startswith(self._prefix)
            if not self._most or (mine and not self._exists(path)):
                path.unlink(missing_ok=True)
        remove_torn(self._folder.glob("*.part"))

    def _exists(self, path: Path) -> bool:
        """Whether there is the conversation of a file."""
        number = path.name.removeprefix(self._prefix).removesuffix(_SUFFIX)
        try:
            self._history.conversations.get(int(number))
        except LockedError:
            return True
        except (HistoryError, ValueError):
            return False
        return True

    def _forget(self, conversation: int) -> None:
        if self._answered == conversation:
            self._answered = None
        self._on_disk.pop(conversation, None)
        self._path(conversation).unlink(missing_ok=True)

    def _path(self, conversation: int) -> Path:
        return self._folder / f"{self._prefix}{conversation}{_SUFFIX}"

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When each was used last, its size, and its path."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another program has taken it away
                found = path.lstat()
                yield found.st_mtime, found.st_size, path
