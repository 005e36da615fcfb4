"""Models asked of the chat's engine: looked at, downloaded and loaded in the place of others."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import edited
from hub_client import PRESET, preset_hub
from hub_server import HubServer
from huggingface_hub import constants
from tui_driver import load

from eftlocal import Sampling, Speculation
from eftlocal.defaults import Defaults
from eftlocal.errors import (
    DoesNotFitError,
    DownloadError,
    EftlocalError,
    EngineError,
    ModelFileError,
    PromptError,
    UsageError,
)
from eftlocal.loading import loader
from eftlocal.prompt.messages import Message
from eftlocal_tui.engine import DownloadNeededError, Progress
from eftlocal_tui.engine.local import LocalEngine
from eftlocal_tui.engine.thread import StoppedError
from eftlocal_tui.engine.wanted import Start, Wanted

TRIO = ("base", "tuned", "reference")
QUESTION = [Message(role="user", content="Where is Braga?")]


def unheard(_: Progress) -> None:
    """Nobody listens."""


def quick(defaults: Defaults, _roles: Collection[str]) -> tuple[Defaults, tuple[str, ...]]:
    """Greedy, and no measuring of drafts."""
    greedy = Sampling(temperature=0.0, seed=1)
    return replace(defaults, sampling=greedy, speculation=Speculation(length=0)), ("a note",)


MORE = """
[[preset]]
name = "no-sizes"
[preset.roles.base]
repo = "owner/other"
file = "base.gguf"
[preset.roles.tuned]
repo = "owner/models"
file = "tuned.gguf"
[preset.roles.reference]
repo = "owner/models"
file = "reference.gguf"
[[preset]]
name = "broken"
[preset.roles.base]
file = "{broken}"
[preset.roles.tuned]
file = "{broken}"
[preset.roles.reference]
file = "{broken}"
"""


@pytest.fixture
def server(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(demo_files["base"].read_bytes()[:100_000])
    presets = PRESET + MORE.replace("{broken}", str(broken))
    with preset_hub(monkeypatch, tmp_path, demo_files, presets) as running:
        yield running


@pytest.fixture
def engine(server: HubServer) -> Iterator[LocalEngine]:
    """The demo is loaded."""
    options = {"n_ctx": 512, "n_seq_max": 1, "threads": 1}
    engine = LocalEngine(Start("demo", adjust=quick, engine=options, call={"max_tokens": 4}))
    load(engine, None, unheard)
    yield engine
    engine.close()


def test_presets_are_looked_at_without_the_network(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.hub.http.ask_for", None)
    demo = engine.look("demo")
    assert (demo.to_come, demo.n_ctx, demo.fits, demo.roles) == (0, 512, True, TRIO)
    assert demo.size is not None
    assert demo.needs is not None
    assert 6_000_000 < demo.size < demo.needs < 100_000_000
    mine = engine.look("mine")
    assert (mine.size, mine.to_come, mine.begun, mine.n_ctx) == (6_000_000, 6_000_000, False, None)
    assert engine.look("no-sizes").size is None
    assert "broken.gguf" in engine.look("broken").problem
    with pytest.raises(UsageError, match="no preset"):
        engine.look("nosuch")


def test_memory_of_what_is_loaded_counts_as_free(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._emulator is not None
    held = engine._emulator.held.host
    needs = engine.look("demo").needs
    assert needs is not None
    assert 0 < held <= needs
    free = needs - held

    def host_memory_free() -> int:
        return free + (held if engine._emulator is None else 0)

    monkeypatch.setattr(loader, "host_memory_free", host_memory_free)
    assert engine.look("demo").fits
    assert load(engine, "demo", unheard).name == "demo"
    free -= 1
    assert not engine.look("demo").fits


# What works stays ------------------------------------------------------------------------------


def still_answers(engine: LocalEngine, emulator: object) -> bool:
    """Whether this very emulator does."""
    answering = engine.answer(QUESTION, engine.restore(unheard).dials)
    text = "".join(step.text for step in answering)
    answering.close()
    return engine._emulator is emulator and bool(text)


def test_what_is_refused_is_refused_before_anything_is_given_up(
    engine: LocalEngine, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = engine._emulator

    def refused(preset: str, why: type[EftlocalError], **options: bool) -> str:
        with pytest.raises(why) as error:
            load(engine, preset, unheard, **options)
        assert still_answers(engine, emulator)
        return str(error.value)

    assert "no preset" in refused("nosuch", UsageError)
    assert "broken.gguf" in refused("broken", ModelFileError)
    server.head = [404]
    assert "no such file" in refused("mine", DownloadError, download=True)
    server.head = [401]
    assert "refuses access" in refused("mine", DownloadError, download=True)
    assert load(engine, "mine", unheard, download=True).name == "mine"
    emulator = engine._emulator
    monkeypatch.setattr(loader, "host_memory_free", lambda: -(10**9))
    assert "MiB" in refused("demo", DoesNotFitError)


@pytest.mark.parametrize(
    ("template", "why"), [(None, "has no chat template"), ("chatmll", "only the text 'chatmll'")]
)
def test_models_that_nobody_can_chat_with_are_refused_before_they_are_loaded(
    template: str | None, why: str, demo_files: dict[str, Path], tmp_path: Path
) -> None:
    changes = {"tokenizer.chat_template": template}
    bare = edited(demo_files["tuned"], tmp_path / "tuned.gguf", changes)
    start = Start({**demo_files, "tuned": bare}, adjust=quick, engine={"threads": 1, "n_ctx": 64})
    heard: list[Progress] = []
    with pytest.raises(PromptError, match=rf"^tuned: .*{why}.* --chat-template tuned=plain") as no:
        load(LocalEngine(start), None, heard.append)
    assert heard == [] and "raw" not in str(no.value)
    for given in ("plain", "{{ messages[0].content }}"):
        prompts = {"prompts": {"tuned": given}}
        engine = LocalEngine(replace(start, engine={**start.engine, **prompts}))
        load(engine, None, unheard)
        assert still_answers(engine, engine._emulator)
        engine.close()


def test_a_download_is_asked_for_and_needs_room(
    engine: LocalEngine, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadNeededError) as needed:
        load(engine, "mine", unheard)
    asked = needed.value
    assert (asked.name, asked.size, asked.begun) == ("mine", 6_000_000, 0)
    assert asked.free > 0
    with pytest.raises(DownloadNeededError) as needed:
        load(engine, "no-sizes", unheard)
    assert needed.value.size is None
    assert not server.requests
    usage = shutil.disk_usage("/")._replace(free=5_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DownloadError, match="6 MB to download and only 5 MB free"):
            load(engine, "mine", unheard)
    assert load(engine, "mine", unheard, download=True).notes[0] == "a note"
    assert load(engine, "demo", unheard).name == "demo"  # which is here
    assert load(engine, "mine", unheard).name == "mine"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="offline"):  # there is nothing to ask
        load(engine, "no-sizes", unheard)


def test_a_download_that_is_stopped_leaves_the_others(
    engine: LocalEngine, server: HubServer
) -> None:
    emulator = engine._emulator
    heard: list[Progress] = []

    def report(progress: Progress) -> None:
        heard.append(progress)
        if progress.stage == "download" and progress.done > 0:
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        load(engine, "mine", report, download=True)
    assert still_answers(engine, emulator)
    with pytest.raises(DownloadNeededError) as needed:
        load(engine, "mine", unheard)
    assert 0 < needed.value.begun < 6_000_000
    assert needed.value.size == 6_000_000 - needed.value.begun


def test_a_hub_that_says_nothing_can_be_left(engine: LocalEngine, server: HubServer) -> None:
    """The wait for it is told, and ends at once where that raises."""
    server.get = [("stop", 1000)]

    def report(progress: Progress) -> None:
        if progress.stage == "waiting":
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        load(engine, "mine", report, download=True)
    server.go_on.set()


def test_a_load_that_fails_at_last_brings_the_former_back(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, loads = engine._emulator, Wanted.load

    def fails(self: Wanted, *args: object) -> object:
        if self.name == "demo-blend":
            raise EngineError("no context")
        return loads(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Wanted, "load", fails)
    with pytest.raises(EngineError):
        load(engine, "demo-blend", unheard)
    assert engine._emulator is None
    loaded = engine.restore(unheard)
    assert loaded is not None
    assert loaded.name == "demo"
    assert engine._emulator not in (None, emulator)
    assert still_answers(engine, engine._emulator)


def test_nothing_was_loaded_before(server: HubServer) -> None:
    engine = LocalEngine(Start("broken"))
    with pytest.raises(ModelFileError):
        load(engine, None, unheard)
    assert engine.restore(unheard) is None
    with pytest.raises(UsageError, match="no models are loaded"):
        engine.answer(QUESTION, None)  # type: ignore[arg-type]
