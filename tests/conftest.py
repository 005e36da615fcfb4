"""Fixtures: real models, and a private place for everything that eftlocal would write."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

import eftlocal
from eftlocal import Defaults, Emulator, Speculation
from eftlocal.__main__ import start_quickly
from eftlocal.loading.roles import RoleSource

# Tests of the chat draw when nothing else is left to do; before that, not sixty times a second.
os.environ.setdefault("TEXTUAL_FPS", "2")

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tui"))
import small_models
from random_gguf import write_random_model

from eftlocal_tui.history import database

# No test ends with the power, so nothing waits for the disk; a wrong descriptor is still told.
os.fsync = os.fstat  # type: ignore[assignment]
database.SYNCHRONOUS = dict.fromkeys(database.SYNCHRONOUS, "OFF")

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

DEMO = Path(eftlocal.__file__).parent / "demo"
THREADS = 1  # one thread each: tests share their machine
PLAIN = Defaults(speculation=Speculation(length=0))  # no costs of drafts are measured


# Bytes a process may take: what runs away ends by itself, and not with the machine.
MOST_MEMORY = max(8 << 30, psutil.virtual_memory().total // 2)


def pytest_configure() -> None:
    """Ctrl-C is tested, here and in child processes: a shell's background job ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start_quickly()  # as the command does; child processes inherit its variables
    if sys.platform == "linux":  # which counts only what a process may write to
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard == resource.RLIM_INFINITY or hard > MOST_MEMORY:
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, hard))


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays: no collection looks through it again


@pytest.fixture(autouse=True)
def private_folders(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("eftlocal")
    monkeypatch.setenv("EFTLOCAL_CONFIG", str(folder / "config"))
    monkeypatch.setenv("EFTLOCAL_MODELS", str(folder / "models"))
    monkeypatch.setenv("EFTLOCAL_DATA", str(folder / "data"))


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Costs of decodes are measured once for all workers; they say nothing about an answer."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFTLOCAL_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, from a package of the test dependencies."""
    path = small_models.smollm2_file()
    assert path, small_models.NO_SMOLLM2
    return path


@pytest.fixture(scope="session")
def demo_files() -> dict[str, Path]:
    return small_models.demo_files()


@pytest.fixture(scope="session")
def demo(demo_files: dict[str, Path]) -> Iterator[Emulator]:
    """The demo trio, two sequences wide. Tests leave its sequences closed."""
    with Emulator.from_files(**demo_files, n_seq_max=2, threads=THREADS) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def smol(smollm2: Path) -> Iterator[Emulator]:
    """SmolLM2 in all three roles: its weights loaded once. Nothing is drafted, unless asked for."""
    files = dict.fromkeys(("base", "tuned", "reference"), smollm2)
    with Emulator.from_files(**files, defaults=PLAIN, n_ctx=512, threads=THREADS) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three different random models of one vocabulary: what they say means nothing."""
    folder = tmp_path_factory.mktemp("tiny")
    files = {role: folder / f"{role}.gguf" for role in ("base", "tuned", "reference")}
    for seed, file in enumerate(files.values()):
        write_random_model(file, "tiny", "F16", seed)
    return files


@pytest.fixture(scope="session")
def tiny(tiny_files: dict[str, Path]) -> Iterator[Emulator]:
    """The random trio, four sequences wide, with a context of 256 and batches of 32 tokens."""
    sources = {
        role: RoleSource(path, n_ctx=256, n_batch=32, threads=THREADS)
        for role, path in tiny_files.items()
    }
    with Emulator.from_sources(sources, n_seq_max=4) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def cross_files(demo_files: dict[str, Path], tiny_files: dict[str, Path]) -> dict[str, Path]:
    """The demo's base with a random pair of another vocabulary."""
    return {**tiny_files, "base": demo_files["base"]}


@pytest.fixture(scope="session")
def cross(cross_files: dict[str, Path]) -> Iterator[Emulator]:
    """That trio, two sequences wide."""
    with Emulator.from_files(**cross_files, n_seq_max=2, n_ctx=256, threads=THREADS) as emulator:
        yield emulator
