"""Presets within the memory there is: engines that are loaded, put away and refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import ASKED, SHORT, Serving, serving, setup, until

from eftlocal.loading import loader
from eftlocal.loading.placement import DEVICE_MARGIN, DeviceMemory, Held
from eftlocal.server import presets
from eftlocal.server import room as rooms
from eftlocal.server.room import Around, Neighbour, NoRoomError, leaving
from eftlocal.server.setup import Setup

DEMO = setup().sources.prepare(n_seq_max=4, trust=True).plan.needed  # bytes


@contextmanager
def memory(nbytes: int, **setups: Setup) -> Iterator[Serving]:
    """A server whose presets may take so many bytes together."""
    running: list[Serving] = []

    def free() -> int:
        ready = (one for server in running for one in server.presets.served.values() if one.ready)
        return nbytes - sum(one.engine.facts["held"]["host"] for one in ready if one.engine)

    with serving(setups, free=free) as server:
        running.append(server)
        yield server


def loaded(server: Serving) -> list[str]:
    return [name for name, served in server.presets.served.items() if served.ready]


def ask(server: Serving, name: str, **options: Any) -> Any:
    return server.post("/v1/chat/completions", {**SHORT, "model": name, **options})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_AGAIN", 0)


def test_as_many_are_loaded_as_fit() -> None:
    """Of three equal presets two fit; the one that was asked least recently makes room."""
    with memory(2 * DEMO, a=setup(), b=setup(), c=setup()) as server:
        assert ask(server, "b").status_code == 200
        assert loaded(server) == ["a", "b"]
        pids = server.pid("a"), server.pid("b")
        assert ask(server, "a").status_code == 200  # now b is the older one
        assert ask(server, "c").status_code == 200
        assert loaded(server) == ["a", "c"]
        assert server.pid("a") == pids[0]
        assert ask(server, "b").json()["choices"]
        assert loaded(server) == ["b", "c"]


def test_a_busy_preset_is_not_put_away() -> None:
    with memory(DEMO, a=setup(), b=setup()) as server:
        client = server.client()
        stream = client.chat.completions.create(
            model="a", messages=ASKED, stream=True, extra_body={"regex": "(?s:.{4000})"}
        )
        next(iter(stream))
        found = ask(server, "b")
        assert found.status_code == 503
        assert found.json()["error"]["message"].startswith("the models that are loaded are all")
        assert "retry-after" in found.headers
        assert loaded(server) == ["a"]
        stream.close()
        until(server.quiet)
        assert ask(server, "b").status_code == 200
        assert loaded(server) == ["b"]


def test_what_can_never_fit_is_refused_and_takes_nobody_away() -> None:
    large = setup(parallel=12)
    forced = replace(large, force=True)
    with memory(DEMO, a=setup(), large=large, forced=forced) as server:
        for _ in range(8):  # which is no dying
            found = ask(server, "large")
            assert found.status_code == 503
            message = found.json()["error"]["message"]
            assert "the model cannot be loaded: the models need" in message
            assert "is free" in message and "died" not in message
        assert loaded(server) == ["a"]
        assert ask(server, "forced").status_code == 200
        assert loaded(server) == ["forced"]


def test_who_asks_at_once_again_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_AGAIN", 600)
    started: list[object] = []

    class Counted(presets.EngineProcess):
        def __init__(self, *told: Any) -> None:
            super().__init__(*told)
            started.append(self)

    monkeypatch.setattr(presets, "EngineProcess", Counted)
    with memory(DEMO, a=setup(), large=setup(parallel=12)) as server:
        messages = {ask(server, "large").json()["error"]["message"] for _ in range(3)}
        assert len(messages) == 1 and len(started) == 2


# What has to go ----------------------------------------------------------------------------------


def around(free: int, *names: str, held: Held, busy: str = "", most: int | None = None) -> Around:
    """Neighbours that hold alike, the oldest first."""
    return Around(free, [Neighbour(name, name not in busy, held) for name in names], most)


def test_no_more_go_than_it_takes() -> None:
    held = Held(DEMO // 2)
    assert leaving(setup(), around(DEMO, "a", "b", "c", held=held)) == []
    assert leaving(setup(), around(DEMO - 1, "a", "b", "c", held=held)) == ["a"]
    assert leaving(setup(), around(DEMO // 2 - 9, "a", "b", "c", held=held)) == ["a", "b"]
    assert leaving(setup(), around(DEMO // 2, "a", "b", "c", held=held, busy="a")) == ["b"]
    with pytest.raises(NoRoomError, match="all answering") as found:
        leaving(setup(), around(DEMO - 1, "a", "b", held=held, busy="ab"))
    assert found.value.busy
    with pytest.raises(NoRoomError, match=r"the models need \d+ MiB of memory") as found:
        leaving(setup(), around(0, "a", held=held, busy="a"))
    assert not found.value.busy
    forced = replace(setup(), force=True)
    assert leaving(forced, around(0, "a", "b", held=held, busy="a")) == ["b"]
    assert leaving(forced, around(0, "a", held=held, busy="a")) == []


def test_a_number_of_presets_is_kept_to() -> None:
    def at_most(most: int, busy: str = "") -> list[str]:
        return leaving(setup(), around(9 * DEMO, "a", "b", held=Held(1), busy=busy, most=most))

    assert [at_most(3), at_most(2), at_most(1)] == [[], ["a"], ["a", "b"]]
    with pytest.raises(NoRoomError, match="all answering"):
        at_most(1, busy="b")


def test_mapped_files_take_memory_that_the_system_calls_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = str(setup().sources.roles["base"].path.resolve())
    others = Held(0, mapped={str(tmp_path): 1000})
    both = Held(0, mapped={str(tmp_path): 1000, own: DEMO})
    for counted, goes in ((True, ["a"]), (False, [])):
        monkeypatch.setattr(rooms, "_COUNTS_MAPPED", counted)
        assert leaving(setup(), around(DEMO + 999, "a", held=others)) == goes
        beside = ["a", "b"] if counted else []  # while one of them is there, so is the file
        assert leaving(setup(), around(DEMO + 999, "a", "b", held=both)) == beside
        assert leaving(setup(), around(DEMO + 1000, "a", "b", held=both)) == []


def test_a_device_is_made_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that would lie in the host's memory go to the device that an idle preset holds."""

    def device(free: int, *, unified: bool = False) -> None:
        found = [DeviceMemory("GPU0", free + DEVICE_MARGIN, unified)]
        monkeypatch.setattr(loader, "accelerators", lambda *_: found)

    held = Held(0, {"GPU0": DEMO})
    device(0)
    assert leaving(setup(), around(9 * DEMO, "a", "b", held=held)) == ["a"]
    assert leaving(setup(), around(9 * DEMO, "a", "b", held=held, busy="ab")) == []
    device(9 * DEMO)
    assert leaving(setup(), around(9 * DEMO, "a", held=held)) == []
    device(0, unified=True)  # what lies there is the host's memory, and given back to it
    assert leaving(setup(), around(DEMO // 2, "a", held=Held(0, {"GPU0": 2 * DEMO}))) == ["a"]
