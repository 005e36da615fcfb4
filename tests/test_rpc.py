"""Workers: what is said of them, where layers go, and what their loss becomes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from processor import not_with_amx
from test_placement import device, layers, needs
from test_readme import WORKERS, run
from typer.testing import CliRunner

import eftlocal
from eftlocal import Emulator, Sampling, Speculation, llama
from eftlocal.cli import options
from eftlocal.cli.app import app
from eftlocal.errors import DoesNotFitError, EftlocalError, UsageError, WorkerError
from eftlocal.kinds import for_role
from eftlocal.llama import engine, rpc
from eftlocal.loading import loader
from eftlocal.loading.placement import DEVICE_MARGIN, DeviceMemory, of_workers, plan
from eftlocal.loading.roles import file_sources, preset_sources, with_settings
from eftlocal.native import SignalsLater
from eftlocal.presets import reading
from eftlocal.settings import SETTINGS

ROOT = Path(eftlocal.__file__).parents[1]
ROLES = ("base", "tuned", "reference")
MIB = 1 << 20


def told(*arguments: str) -> str:
    """The one line that a command ends with."""
    result = CliRunner().invoke(app, arguments, prog_name="eftlocal")
    assert result.exit_code not in (0, 1)
    return result.output.strip()


# What is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "workers"),
    [
        ([], [None, None]),
        (["gpu-box:50052"], [("gpu-box:50052",)] * 2),
        (["a:1,b:2"], [("a:1", "b:2")] * 2),
        (["base=a:1,b:2,tuned=a:1"], [("a:1", "b:2"), ("a:1",)]),
        (["base=a:1,b:2", "tuned=a:1"], [("a:1", "b:2"), ("a:1",)]),
        (["c:3", "base=a:1"], [("a:1",), ("c:3",)]),
        (["c:3,base=off"], [(), ("c:3",)]),
        (["base=off"], [(), None]),
        (["off"], [(), ()]),
    ],
)
def test_each_role_has_its_workers(given: list[str], workers: list[Any]) -> None:
    value = options._one_by_role([SETTINGS["rpc"].kind.parse(text) for text in given])
    assert [for_role(value, role) for role in ("base", "tuned")] == workers


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("box", "host:port, as in 192.168.1.5:50052"),
        ("box:", "host:port"),
        (":50052", "host:port"),
        ("box:0", "host:port"),
        ("box:65536", "host:port"),
        ("http://box:50052", "host:port"),
        ("base=box", "host:port"),
        ("[::1]:50052", "IPv4 only"),
        ("fe80::1:50052", "IPv4 only"),
        ("bas=box:1", "there is no role bas; there are base, tuned, reference"),
    ],
)
def test_what_is_no_worker_is_refused_in_one_line(given: str, words: str) -> None:
    line = told("run", "hello", "--rpc", given)
    assert words in line and "rpc" in line and "\n" not in line


def test_a_preset_and_the_api_say_it_for_each_role(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    roles = "".join(f'[preset.roles.{r}]\nfile = "{r}.gguf"\nrpc = ["a:1"]\n' for r in ROLES)
    path.write_text(f'[[preset]]\nname = "far"\n{roles}')
    preset = reading.load_presets(path)["far"]
    sources = preset_sources(preset, lambda file: Path(file.file))
    assert {source.rpc for source in sources.values()} == {("a:1",)}
    changed = with_settings(sources, rpc={"base": ["b:2"], "tuned": []})
    assert [changed[role].rpc for role in ROLES] == [("b:2",), (), ("a:1",)]
    assert with_settings(sources, rpc=["c:3"])["base"].rpc == ("c:3",)
    path.write_text(f'[[preset]]\nname = "far"\n{roles.replace("a:1", "base=a:1")}')
    with pytest.raises(UsageError, match=r"roles\.base: rpc\[0\] .* must be host:port"):
        reading.load_presets(path)
    with pytest.raises(UsageError, match=r"rpc\[base\]\[0\] is 'x'; it must be host:port"):
        Emulator.from_files(base="b.gguf", rpc={"base": ["x"]})
    with pytest.raises(UsageError, match="rpc: there is no role basis"):
        Emulator.from_files(base="b.gguf", rpc={"basis": ["a:1"]})


def test_a_build_without_rpc_says_how_to_build_it_in(
    demo_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "has_rpc", lambda: False)
    with pytest.raises(WorkerError, match=r"role base asks .* without RPC; to build it in: \S+"):
        Emulator.from_files(**demo_files, rpc={"base": ["a:1"]})
    assert "built without RPC; to build it in:" in told("worker", "--port", "0")


def test_a_worker_is_not_offered_where_it_cannot_be(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port {port}: another program listens there" in told(
            "worker", "--port", f"{port}"
        )
    line = told("worker", "--host", "0.0.0.0", "--port", "0")
    assert "proof of concept" in line and "never run it on an open network" in line
    assert "--insecure" in line and "\n" not in line
    assert "cannot listen there" in told("worker", "--host", "no-such-host.invalid")
    for host in ("::1", "127.0.0.1:50052"):
        assert "must be an IPv4 address or a name" in told("worker", "--host", host)
    line = told("worker", "--port", "0", "--cache", __file__)
    assert line.startswith("eftlocal: --cache") and "no folder can be there" in line
    assert "there are CPU" in told("worker", "--port", "0", "--device", "CUDA7") or (
        not llama.has_rpc()
    )


@pytest.mark.parametrize("kind", ["cpu", "gpu", "igpu"])
def test_a_build_with_rpc_says_yes_to_gpus_only(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [llama.Device("one", "", kind, 0, 0, "a backend")]
    monkeypatch.setattr(engine, "devices", lambda: there)
    assert llama.facts()["supports_gpu_offload"] is (kind != "cpu")


# Where layers go ------------------------------------------------------------------------------


def worker_device(free: int, endpoint: str = "a:1") -> DeviceMemory:
    return DeviceMemory(endpoint, free * MIB + DEVICE_MARGIN, worker=endpoint)


def test_only_a_role_that_has_a_worker_goes_there() -> None:
    trio = [needs("base"), needs("tuned", layer=10), needs("reference", layer=10)]
    trio[0] = rpc_needs("base", "a:1")
    result = plan(trio, [worker_device(9000), device(9000)], None)
    assert [result.roles[role].split for role in ROLES] == [(11, 0), (0, 11), (0, 11)]
    assert result.apart and result.used_by("base") == [("a:1", 11)]
    result = plan(trio, [worker_device(9000)], None)
    assert layers(result) == {"base": 11, "tuned": 0, "reference": 0}
    assert result.used_by("tuned") == []  # not even for large batches


def rpc_needs(role: str, *workers: str, **more: Any) -> Any:
    return replace(needs(role, **more), workers=workers)


def test_what_a_worker_has_no_room_for_is_split() -> None:
    # 110 MiB a layer, 20 for a context, 50 for the output
    two = [worker_device(5 * 110 + 20), worker_device(6 * 110 + 70, "b:2")]
    assert plan([rpc_needs("base", "a:1", "b:2")], two, None).roles["base"].split == (5, 6)
    # One that could take all of it is not used where the role does not have it.
    large = [worker_device(9000), worker_device(4 * 110 + 70, "b:2")]
    assert plan([rpc_needs("base", "b:2")], large, None).roles["base"].split == (0, 5)
    # The GPU of this machine takes the rest; the worker keeps its part though all would fit here.
    mixed = [worker_device(5 * 110 + 20), device(9000)]
    assert plan([rpc_needs("base", "a:1")], mixed, None).roles["base"].split == (5, 6)
    given = rpc_needs("base", "a:1", n_gpu_layers=3)
    assert plan([given], mixed, None).roles["base"].split == (3, 0)


def test_a_worker_that_cannot_take_a_layer_is_no_silent_matter() -> None:
    small = [worker_device(60), device(9000)]
    with pytest.raises(DoesNotFitError, match=r"base: n_gpu_layers 1 needs .* on a:1.*leave rpc"):
        plan([rpc_needs("base", "a:1")], [worker_device(60)], None)
    with pytest.raises(DoesNotFitError, match="leave rpc out"):
        plan([rpc_needs("base", "a:1")], small, None)
    assert plan([rpc_needs("base", "a:1")], small, None, force=True).roles["base"].split == (11, 0)
    with pytest.raises(UsageError, match="gpu_layers 0 keeps all layers here"):
        plan([rpc_needs("base", "a:1", n_gpu_layers=0)], small, None)
    shared = [rpc_needs("base", "a:1"), rpc_needs("base", "b:2")]
    with pytest.raises(UsageError, match="share one file, loaded once: give them the same rpc"):
        plan(shared, [worker_device(9000), worker_device(9000, "b:2")], None)


def test_the_cpu_of_this_machine_is_known_by_its_memory() -> None:
    import psutil

    total = psutil.virtual_memory().total
    for address, size, unified in (
        ("127.0.0.1", total, True),
        ("127.0.0.1", total - 1, False),
        ("192.0.2.1", total, False),
    ):
        one = llama.Device("w", "", "gpu", size, size, "RPC")
        (memory,) = of_workers([rpc.Worker("w", "w", (address, 1), (one,))])
        assert (memory.unified, memory.worker) == (unified, "w")


# The first words ------------------------------------------------------------------------------


@contextmanager
def answering(answer: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """A server that treats one connection so."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                answer(link)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()


def version(*numbers: int) -> Callable[[socket.socket], object]:
    return lambda link: link.sendall(struct.pack("=Q4B", 28, *numbers, 0) + bytes(24))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (version(7, 0, 9), ""),
        (version(6, 9, 0), "of version 6.9.0, and this llama.cpp's is 7.0"),
        (version(7, 1, 0), "of version 7.1.0"),
        (version(8, 0, 0), "of version 8.0.0"),
        (lambda link: link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not answer as a"),
        (lambda link: None, "does not answer as a worker"),
        (lambda link: link.sendall(b"\x1c"), "does not answer as a worker"),
        (lambda link: link.recv(100) and time.sleep(2), "no answer in 1 s: it serves one program"),
    ],
)
def test_a_server_is_looked_at_before_llama_cpp_sees_it(
    answer: Callable[[socket.socket], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "_GREETING_S", 1.0)
    with answering(answer) as address:
        if not words:
            rpc._greet(address, "box:1")
            return
        with pytest.raises(WorkerError) as caught:
            rpc._greet(address, "box:1")
    assert str(caught.value).startswith("worker box:1: ") and words in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("127.0.0.1:1", "nothing listens there; start it on that machine with `eftlocal worker`"),
        ("no-such-host.invalid:1", "no address of no-such-host.invalid is known"),
    ],
)
def test_a_worker_that_is_not_there(endpoint: str, words: str) -> None:
    with pytest.raises(WorkerError, match=words):
        llama.connect(endpoint)


# Calls that do not end ------------------------------------------------------------------------


def never_ends(ends: bool = True) -> Callable[[], None]:
    """A native call in which llama.cpp finds the connection broken, or hears nothing any more."""

    def call() -> None:
        if ends:
            rpc._on_end(b"ggml-rpc.cpp:1: Remote RPC server crashed")  # which never returns
        threading.Event().wait()

    return call


@pytest.fixture
def lost() -> Iterator[rpc.Worker]:
    """A worker whose process has ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    yield rpc.Worker("box:1", "box:1", address)


@pytest.fixture
def there() -> Iterator[rpc.Worker]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield rpc.Worker("box:2", "box:2", server.getsockname())


def test_a_broken_connection_is_the_error_of_the_call_that_needs_it(
    lost: rpc.Worker, there: rpc.Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Any] = []
    begun = threading.Event()

    def slow() -> str:  # on the other worker, meanwhile
        begun.set()
        time.sleep(1.0)
        return "done"

    def beside() -> None:
        with SignalsLater() as later:
            outcomes.append(rpc.with_workers([there], slow, later))

    thread = threading.Thread(target=beside)
    thread.start()
    begun.wait()
    with SignalsLater() as later:
        for work in (never_ends(), lambda: None):  # and so is every call after it
            with pytest.raises(WorkerError, match=r"worker box:1: its process ended, .* start it"):
                rpc.with_workers([lost], work, later)
    thread.join()
    assert outcomes == ["done"] and not there.lost
    # Where the worker listens again, only its own call can tell: it does not end.
    began = time.monotonic()
    with SignalsLater() as later, pytest.raises(WorkerError, match="worker box:2"):
        rpc.with_workers([there], never_ends(), later)
    assert time.monotonic() - began < rpc._WHO_S / 2  # it was the only call
    assert not rpc._calls
    monkeypatch.setattr(rpc, "_WHO_S", 0.2)
    monkeypatch.setattr(rpc, "_calls", [[]])  # another one goes on
    there.lost = ""
    with SignalsLater() as later, pytest.raises(WorkerError, match="worker box:2"):
        rpc.with_workers([there], never_ends(), later)


def test_silence_has_an_end(there: rpc.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_SILENCE_S", 0.3)
    began = time.monotonic()
    with SignalsLater() as later:
        assert rpc.with_workers([there], lambda: time.sleep(0.6), later, time.monotonic) is None
        with pytest.raises(WorkerError, match="it has been silent for"):
            rpc.with_workers([there], never_ends(ends=False), later)
    assert time.monotonic() - began < 30


def test_ctrl_c_ends_a_call_that_hangs(there: rpc.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_STOP_S", 0.1)
    threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt), SignalsLater() as later:
        rpc.with_workers([there], never_ends(ends=False), later)
    assert "interrupted" in there.lost
    with SignalsLater() as later, pytest.raises(ZeroDivisionError):
        rpc.with_workers([rpc.Worker("c", "c", ("", 1))], lambda: 1 // 0, later)


# Real workers ---------------------------------------------------------------------------------

real = pytest.mark.skipif(not llama.has_rpc(), reason="llama.cpp was built without RPC")


class Start(Protocol):
    def __call__(self, port: int = 0) -> WorkerProcess: ...


@dataclass
class WorkerProcess:
    process: subprocess.Popen[str]
    port: int

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def program(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tui"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "eftlocal", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **more,
    )


@contextmanager
def workers() -> Iterator[Start]:
    with ExitStack() as ended:

        def start(port: int = 0) -> WorkerProcess:
            child = program("worker", "--port", str(port), "--threads", "1")
            ended.callback(child.communicate)
            ended.callback(child.kill)
            assert child.stdout is not None
            found = re.search(r":(\d+), for one program", child.stdout.readline())
            assert found
            one = WorkerProcess(child, int(found[1]))
            while True:  # it says so a moment before it listens
                try:
                    rpc._greet(("127.0.0.1", one.port), one.endpoint)
                    return one
                except WorkerError:
                    time.sleep(0.05)

        yield start


@pytest.fixture
def start() -> Iterator[Start]:
    with workers() as found:
        yield found


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two that nobody kills; what is loaded on them is closed again."""
    with workers() as found:
        yield found(), found()


QUESTIONS = ["In which country is Toulouse?", "What is the capital of Peru?", "Who are you?"]


@real
@pytest.mark.parametrize("which", ["base", "each", "two for one"])
def test_texts_are_those_of_the_cpu(
    which: str,
    pair: tuple[WorkerProcess, WorkerProcess],
    demo_files: dict[str, Path],
    demo: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = (worker.endpoint for worker in pair)
    spelled = one.replace("127.0.0.1", "localhost")  # another spelling is no other worker
    given = {
        "base": {"base": [one]},
        "each": {"base": [one], "tuned": [two], "reference": [spelled]},
        "two for one": {"base": [one, two]},
    }[which]
    if which == "two for one":  # so that the base does not fit on one of them
        sources = with_settings(file_sources(demo_files), rpc=given)
        whole = loader.prepare(sources, n_seq_max=4).plan.roles["base"].device_bytes
        size = sum(whole) - MIB + DEVICE_MARGIN

        def small(there: Any) -> list[DeviceMemory]:
            return [replace(device, free=size) for device in of_workers(there)]

        monkeypatch.setattr(loader, "of_workers", small)
    with Emulator.from_files(**demo_files, n_seq_max=4, threads=1, rpc=given) as far:
        places = {role: len(model.workers) for role, model in far.models.items()}
        assert places == {role: len(given.get(role, ())) for role in ROLES}
        for temperature in (0.0, 1.0):
            sampling = Sampling(temperature=temperature, seed=5)
            for length in (0, 3):
                call: dict[str, Any] = {"sampling": sampling, "speculation": Speculation(length)}
                for question in QUESTIONS:
                    expected = demo.generate(question, **call).text
                    assert far.generate(question, **call).text == expected
        streams = [far.stream(question, sampling=sampling) for question in QUESTIONS]
        for step in zip(*streams, strict=False):  # side by side
            assert len(step) == 3


@real
def test_the_rows_of_a_split_model_are_those_of_the_cpu(
    pair: tuple[WorkerProcess, WorkerProcess], demo_files: dict[str, Path]
) -> None:
    def rows(**where: Any) -> Any:
        with (
            llama.Model(demo_files["base"], repacked=False, **where) as model,
            llama.Context(model, n_ctx=64, n_threads=1) as context,
        ):
            return context.decode([llama.Span(0, [5, 6, 7, 8], 4)]).copy()

    found = [llama.connect(worker.endpoint) for worker in pair]
    names = [one.devices[0].name for one in found]
    split = rows(gpu_layers=-1, devices=names, tensor_split=[1, 1], workers=found)
    assert np.allclose(split, rows(devices=[]), atol=1e-4)
    assert [one.models for one in found] == [0, 0]


@real
def test_a_lost_worker_ends_an_answer_and_another_one_takes_its_place(
    start: Start, demo_files: dict[str, Path]
) -> None:
    worker = start()
    rpc_of = {"base": [worker.endpoint]}
    with Emulator.from_files(**demo_files, threads=1, rpc=rpc_of) as em:
        text = em.generate(QUESTIONS[0], sampling=Sampling(temperature=0)).text
        stream = em.stream(QUESTIONS[0], ignore_end=True, speculation=0)
        first = [next(stream) for _ in range(3)]
        worker.kill()
        for _ in range(2):
            with pytest.raises(WorkerError, match=f"worker {worker.endpoint}: its process ended"):
                list(stream)
        assert stream.answer().tokens[:3] == tuple(step.token for step in first)
        with pytest.raises(WorkerError, match="nothing listens there"):
            Emulator.from_files(**demo_files, threads=1, rpc=rpc_of)
        start(worker.port)
        with Emulator.from_files(**demo_files, threads=1, rpc=rpc_of) as again:
            assert again.generate(QUESTIONS[0], sampling=Sampling(temperature=0)).text == text


@real
def test_a_worker_serves_one_program_at_a_time(
    start: Start, demo_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start()
    rpc_of = {"base": [worker.endpoint]}
    with Emulator.from_files(**demo_files, threads=1, rpc=rpc_of):
        with Emulator.from_files(**demo_files, threads=1, rpc=rpc_of) as same:  # our own is fine
            assert same.generate(QUESTIONS[0], max_tokens=2).tokens
        monkeypatch.setattr(rpc, "_GREETING_S", 0.3)
        with pytest.raises(WorkerError, match="it serves one program at a time"):
            rpc._greet(("127.0.0.1", worker.port), worker.endpoint)
    worker.process.send_signal(signal.SIGINT)
    _, errors = worker.process.communicate(timeout=60)
    assert (worker.process.returncode, errors) == (130, "eftlocal: stopped\n")


@real
def test_what_is_no_client_starts_no_debugger(start: Start) -> None:
    worker = start()
    with socket.create_connection(("127.0.0.1", worker.port)) as link:
        link.sendall(struct.pack("=BQ", 14, 24) + bytes(24) + struct.pack("=BQ", 6, (1 << 64) - 1))
        _, errors = worker.process.communicate(timeout=30)
    assert all("terminate" in line or "what()" in line for line in errors.splitlines()), errors


LONG = ("--regex", "[a-z ]{150}", "--speculative", "off", "--threads", "1", "--n-ctx", "512")


@real
def test_run_ends_in_one_line(start: Start) -> None:
    worker = start()
    child = program("run", "hello", "--rpc", worker.endpoint, *LONG)
    assert child.stdout is not None and child.stdout.read(3)
    worker.kill()
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 8
    line = f"eftlocal: worker {worker.endpoint}: its process ended, or the network did; start it"
    assert errors.startswith(line) and errors.count("\n") == 1


@real
def test_the_commands_of_the_page_work(start: Start, tmp_path: Path) -> None:
    worker, command = WORKERS
    assert worker == "eftlocal worker"  # as it is started here, but for its port
    result = run(command.replace("127.0.0.1:50052", start().endpoint), tmp_path)
    assert result.returncode == 0 and "France" in result.stdout, result.stderr


@real
@not_with_amx
def test_a_batch_keeps_what_is_done_and_goes_on_with_another_worker(
    start: Start, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"custom_id": f"{i}", "prompt": f"Hello {i}"} for i in range(5)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def batch(out: Path, *where: str) -> subprocess.Popen[str]:
        files = (str(source), str(out), "--format", "plain", "--parallel", "2", "--quiet")
        return program("batch", *files, *LONG, *where)

    worker = start()
    child = batch(output, "--rpc", f"base={worker.endpoint}")
    while child.poll() is None and not (output.exists() and output.stat().st_size):
        time.sleep(0.02)
    worker.kill()
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 8, errors
    assert f"worker {worker.endpoint}: its process ended" in errors and errors.count("\n") == 1
    assert errors.endswith("what is done is kept\n")
    done = output.read_text().splitlines()
    assert 1 <= len(done) < 5 and all("error" not in json.loads(row) for row in done)
    again = start()
    child = batch(output, "--rpc", f"base={again.endpoint}")
    assert child.wait(120) == 0
    assert output.read_text().splitlines()[: len(done)] == done
    here = batch(tmp_path / "here.jsonl")
    assert here.wait(120) == 0

    def texts(path: Path) -> dict[str, str]:
        rows = map(json.loads, path.read_text().splitlines())
        return {row["custom_id"]: row["text"] for row in rows}

    assert texts(output) == texts(tmp_path / "here.jsonl") and len(texts(output)) == 5


@real
def test_the_chat_tells_of_a_lost_worker_and_loads_other_models(start: Start) -> None:
    from tui_driver import load

    from eftlocal_tui.dials import Dials
    from eftlocal_tui.engine.local import LocalEngine
    from eftlocal_tui.engine.wanted import Start as Begin

    worker = start()
    places = {role: [worker.endpoint] for role in ("base", "plain")}
    engine = LocalEngine(Begin("demo-blend", engine={"rpc": places}))
    loaded = load(engine, None, lambda _: None)
    dials: Dials = loaded.dials
    answering = engine.answer([{"role": "user", "content": QUESTIONS[0]}], dials)
    assert next(answering).text is not None
    worker.kill()
    with pytest.raises(EftlocalError, match="its process ended"):
        list(answering)
    answering.close()
    with pytest.raises(WorkerError, match=r"role base: worker .* nothing listens there"):
        load(engine, "demo-down", lambda _: None)
    start(worker.port)
    for preset in ("demo-down", None):  # the first has no role of the name plain
        load(engine, preset, lambda _: None)
    assert list(engine.answer([{"role": "user", "content": QUESTIONS[0]}], dials))
    engine.close()
