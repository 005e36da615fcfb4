"""Conversations go on at once: their caches are kept on disk, and never longer than they should."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from scripted_engine import PATIENCE, ScriptedEngine
from test_tui_engine import LONG, decoded, quick
from tui_driver import Driver, asynchronous, driven

from eftlocal.disk import cache_folder
from eftlocal.errors import UsageError
from eftlocal.saved_state import SavedState
from eftlocal_tui.engine import kept
from eftlocal_tui.engine.kept import KeptCaches
from eftlocal_tui.engine.local import LocalEngine, Start
from eftlocal_tui.engine.thread import WorkThread
from eftlocal_tui.history import Conversation, History
from eftlocal_tui.screens.history import HistoryScreen
from eftlocal_tui.settings import Settings

NEW = 60  # tokens of the next turn and its answer, of any role, at most


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path / "cache"))
    yield


def demo(places: int = 2, **engine: object) -> LocalEngine:
    options = {"n_seq_max": places, "n_ctx": 512, "threads": 1, **engine}
    return LocalEngine(
        Start("demo", offline=True, adjust=quick, engine=options, call={"max_tokens": 16})
    )


def files() -> list[Path]:
    return sorted((cache_folder() / "kept").glob("*.state"))


def newest(history: History) -> Conversation:
    return history.conversations.list(limit=1)[0]


async def settled(d: Driver) -> None:
    """Waits until the engine's thread has done what was submitted so far."""
    await d.until(lambda: all(task.ended for task in d.app.services.tasks.thread._open))


# Over the demo's models --------------------------------------------------------------------------


@pytest.mark.parametrize("places", [1, 2])
@asynchronous
async def test_a_new_program_reads_only_what_is_new(tmp_path: Path, places: int) -> None:
    async with driven(demo(places), tmp_path) as d:
        await d.ask(LONG)
        first = decoded(d.engine)
        assert min(first.values()) > 100
    assert len(files()) == 1
    async with driven(demo(places), tmp_path, resume=newest) as d:
        await settled(d)
        assert max(decoded(d.engine).values()) == 0
        await d.ask("Where is that?")
        assert 0 < max(decoded(d.engine).values()) < NEW
        assert len(d.turns) == 4
    async with driven(demo(places), tmp_path / "fresh") as d:
        await d.ask(LONG)
        await d.ask("Where is that?")
        fresh = d.turns
    async with driven(demo(places), tmp_path, resume=newest) as d:
        assert d.turns == fresh


@asynchronous
async def test_the_one_opened_from_the_list_goes_on(tmp_path: Path) -> None:
    async with driven(demo(1), tmp_path) as d:
        await d.ask(LONG)
        await d.press("ctrl+n")
        await settled(d)
        assert len(files()) == 1  # written when it was left
        await d.ask(f"Something else. {LONG}")
    assert len(files()) == 2
    async with driven(demo(1), tmp_path) as d:
        old = d.history.conversations.list()[-1].id
        await d.send(f"/load {old}")
        await settled(d)
        before = max(decoded(d.engine).values())
        await d.ask("Where is that?")
        assert max(decoded(d.engine).values()) - before < NEW


@asynchronous
async def test_it_is_written_in_an_idle_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "IDLE", 0.0)
    monkeypatch.setattr(kept, "_WORTH", 50)
    async with driven(demo(), tmp_path) as d:
        await d.ask(LONG)
        await d.until(files)
        await settled(d)
        if os.name == "posix":
            assert stat.S_IMODE(files()[0].stat().st_mode) == 0o600
            assert stat.S_IMODE(files()[0].parent.stat().st_mode) == 0o700
        await d.send("/stats")
        await d.until(lambda: d.notes)
        line = next(row for row in d.notes[-1].splitlines() if row.startswith("Kept on disk"))
        assert "1 conversation, " in line and " of 2 GB; the last: 1" in line
        assert "a token takes" in line


@pytest.mark.parametrize("change", ["n_ctx", "damaged", "foreign"])
@asynchronous
async def test_what_does_not_match_is_read_again(tmp_path: Path, change: str) -> None:
    async with driven(demo(), tmp_path) as d:
        await d.ask(LONG)
    (file,) = files()
    whole = file.read_bytes()
    if change == "damaged":
        file.write_bytes(whole[:-100] + bytes(100))
    elif change == "foreign":
        file.write_bytes(b"something else")
    engine = demo(n_ctx=400) if change == "n_ctx" else demo()
    async with driven(engine, tmp_path, resume=newest, notifications=True) as d:
        await settled(d)
        await d.ask("Where is that?")
        assert min(decoded(d.engine).values()) > 100
        assert not d.toasts and not d.notes
    assert files() == [file] and file.read_bytes() != whole


@asynchronous
async def test_a_deleted_conversation_leaves_nothing(tmp_path: Path) -> None:
    async with driven(demo(), tmp_path) as d:
        await d.ask(LONG)
        await d.press("ctrl+n")
        await settled(d)
        assert files()
        await d.press("ctrl+o")
        await d.until(lambda: isinstance(d.app.screen, HistoryScreen))
        await d.press("delete", "tab", "enter")
        await d.until(lambda: not d.history.conversations.list())
        await settled(d)
        assert not files()
    assert not files()


@asynchronous
async def test_off_keeps_nothing_and_takes_away_what_is_there(tmp_path: Path) -> None:
    async with driven(demo(), tmp_path) as d:
        await d.ask(LONG)
    assert files()
    async with driven(demo(), tmp_path, settings=Settings(kept=0), resume=newest) as d:
        await settled(d)
        assert not files()
        await d.ask("Where is that?")
        assert min(decoded(d.engine).values()) > 100
        await d.send("/stats")
        await d.until(lambda: d.notes)
        assert "Kept on disk: nothing, as the settings say" in d.notes[-1]
    assert not files()


# The folder --------------------------------------------------------------------------------------


class Holding(ScriptedEngine):
    """Holds so many tokens, of ten bytes each; writing waits for `go` or a check."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 100
        self.go, self.writing = Event(), Event()
        self.go.set()
        self.error: UsageError | None = None
        self.resumed: list[str] = []

    def held(self) -> int:
        return self.tokens

    def keep(  # type: ignore[override]
        self, path: Path, fits: Callable[[int], bool], check: Callable[[], None]
    ) -> SavedState | None:
        if self.error is not None:
            raise self.error
        if not fits(10 * self.tokens):
            return None
        self.writing.set()
        while not self.go.wait(0.001):
            check()
        path.write_bytes(bytes(10 * self.tokens))
        return self.state(path)

    def resume(self, path: Path) -> SavedState | None:  # type: ignore[override]
        self.resumed.append(path.name)
        return self.state(path)

    def state(self, path: Path) -> SavedState:
        size = 10 * self.tokens
        return SavedState(path, {"base": self.tokens}, {"base": size}, size)


class Folder:
    """Kept caches over an engine that holds what it is told."""

    def __init__(self, folder: Path, most: int = 3500) -> None:
        self.history = History(folder / "chat.db")
        self.engine, self.thread = Holding(), WorkThread("engine")
        self.kept = KeptCaches(self.history, self.engine, self.thread, most)

    async def settled(self) -> None:
        until = time.monotonic() + PATIENCE
        while not all(task.ended for task in self.thread._open):
            assert time.monotonic() < until
            await asyncio.sleep(0.001)

    async def talk(self, tokens: int = 100) -> int:
        """A conversation, answered and left."""
        conversation = self.history.conversations.create().id
        self.engine.tokens = tokens
        self.kept.answering(conversation)
        self.kept.opened(None)
        await self.settled()
        return conversation

    def ids(self) -> list[int]:
        found = [int(path.stem.rpartition("-")[2]) for path in files()]
        return sorted(found)


def over_folder(test: Callable[[Folder], object]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        async def drive() -> None:
            folder = Folder(tmp_path)
            folder.kept.loaded(None)
            try:
                await test(folder)  # type: ignore[misc]
            finally:
                folder.thread.close(lambda: None)
                folder.history.close()

        asyncio.run(drive())

    run.__name__ = test.__name__
    return run


@over_folder
async def test_those_used_longest_ago_go(f: Folder) -> None:
    first, second, third = [await f.talk() for _ in range(3)]
    assert f.ids() == [first, second, third]
    for age, conversation in enumerate((third, second, first)):
        os.utime(f.kept._path(conversation), (1000 - age, 1000 - age))
    f.kept.opened(first)  # it is used now
    await f.settled()
    fourth = await f.talk()
    assert f.ids() == sorted([first, third, fourth])
    whole = await f.talk(350)
    assert f.ids() == [whole]
    await f.talk(351)  # too large
    assert f.ids() == [whole]


@over_folder
async def test_little_is_not_written_again(f: Folder) -> None:
    conversation = await f.talk()
    path = f.kept._path(conversation)
    for tokens, written in ((100, False), (131, False), (132, True), (90, True)):
        path.write_bytes(b"")
        f.engine.tokens = tokens
        f.kept.opened(None)
        await f.settled()
        assert bool(path.stat().st_size) is written


@over_folder
async def test_writing_gives_way(f: Folder) -> None:
    f.engine.go.clear()
    conversation = f.history.conversations.create().id
    f.kept.answering(conversation)
    f.kept.opened(None)
    assert await asyncio.to_thread(f.engine.writing.wait, PATIENCE)
    await f.thread.submit(lambda _: None).result()  # what comes next does not wait for it
    assert not files() and not f.kept.trouble
    f.engine.go.set()
    f.kept.opened(None)
    await f.settled()
    assert f.ids() == [conversation]


@over_folder
async def test_what_goes_wrong_is_told_in_the_figures_only(f: Folder) -> None:
    f.engine.error = UsageError("a.state: cannot be written: No space left on device")
    await f.talk()
    assert "not kept: a.state: cannot be written" in f.kept.about()
    f.engine.error = None
    await f.talk()
    assert f.kept.about().startswith("Kept on disk: 1 conversation, 1 kB of 3.5 kB; the last: 100 ")
    assert "not kept" not in f.kept.about()


@over_folder
async def test_files_of_conversations_that_are_gone_go(f: Folder) -> None:
    here, gone = await f.talk(), await f.talk()
    other = files()[0].with_name("0123456789ab-7.state")
    torn, written = other.with_name("x.state.part"), other.with_name("y.state.part")
    for path in (other, torn, written):
        path.write_bytes(b"")
    os.utime(torn, (1000, 1000))
    f.history.conversations.delete(gone)  # by another program
    f.kept.loaded(here)
    await f.settled()
    assert f.ids() == sorted([here, 7]) and other.exists()
    assert written.exists() and not torn.exists()
    assert f.engine.resumed == [f.kept._path(here).name]
    f.kept.deleted(here)
    await f.settled()
    assert f.ids() == [7]


@pytest.mark.parametrize(
    ("given", "size"),
    [("2 GB", 2 * 10**9), ("1.5GB", 15 * 10**8), ("500 mb", 5 * 10**8), (0, 0), ("0", 0)],
)
def test_the_limit_is_a_size(given: object, size: int) -> None:
    assert Settings.model_validate({"kept": given}).kept == size


@pytest.mark.parametrize("given", ["much", "-1", -1, "2 GiB", True, None, [1], "1e9", 1.5])
def test_what_is_no_size_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match='must be a size, as in "2 GB" or 0'):
        Settings.model_validate({"kept": given})
