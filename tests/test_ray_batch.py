"""scripts/ray_batch.py on a local Ray cluster: the shards of a batch, stopped, killed, merged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import ray_batch
from ray_batch import parse, plan, share_of_cpus, told

from eftlocal.batch.shards import shard_path, shard_paths
from eftlocal.cli.shard_process import KilledError, Outcome, Shard, last_line, run_shard, unfit
from eftlocal.errors import UsageError
from eftlocal.evaluation.questions import FOLDER, read

SCRIPT = Path(ray_batch.__file__)
LINES = 150
OPTIONS = (
    *("--format", "plain", "--temperature", "0", "--max-tokens", "40"),
    *("--parallel", "1", "--speculative", "off", "--threads", "1"),
    "--skip-invalid",
)
NEEDS_RAY = pytest.mark.skipif(
    find_spec("ray") is None or sys.platform == "win32",
    reason="the extra `ray` is not installed, or there are no signals",
)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    questions = read(FOLDER / "questions.json", "test").questions[:LINES]
    rows = [{"custom_id": f"q{i}", "prompt": one.text} for i, one in enumerate(questions)]
    rows.append({"custom_id": "bad", "prompt": ""})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    source, mark = tmp_path / "in.jsonl", tmp_path / "mark"
    source.write_text("{}\n")
    mark.touch()
    return Shard("1/2", source, tmp_path / "out.jsonl", (), mark, 3, tmp_path, ())


def script(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def without_shards(source: Path, output: Path) -> Path:
    batch = [sys.executable, "-c", "from eftlocal.cli.app import main; main()", "batch"]
    arguments = [*batch, str(source), str(output), *OPTIONS]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert output.exists(), done.stderr
    return output


def texts(path: Path) -> list[tuple[str, str | None]]:
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return sorted((row["custom_id"], row.get("text")) for row in rows)


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(
    happens: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60.0
) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def rows_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def process_of(output: Path) -> psutil.Process:
    """The process that answers a shard's lines."""
    (found,) = (
        one
        for one in psutil.process_iter(["cmdline"])
        if str(output) in (one.info["cmdline"] or ()) and "--shard" in one.info["cmdline"]
    )
    return found


@NEEDS_RAY
def test_stopped_killed_and_gone_on_with(asked: Path, tmp_path: Path) -> None:
    """Ctrl-C, then a SIGKILL of one shard: nothing is lost, and nothing differs."""
    out, log = tmp_path / "out.jsonl", tmp_path / "out.shard-1-of-2.jsonl.log"
    shard = shard_path(out, 1, 2)
    sharded = script(asked, out, "--shards", 2, "--cpus-per-shard", 1, "--", *OPTIONS)

    with started(sharded) as process:
        wait_for(lambda: rows_in(shard) > 0, process)
        answering = process_of(shard)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again" in said
    answering.wait(timeout=30)
    assert not out.exists()

    before = rows_in(shard)
    with started(sharded) as process:
        wait_for(lambda: rows_in(shard) > before, process)
        process_of(shard).kill()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 11, said  # the one bad line
    assert log.read_text("utf-8").count("-- killed by signal 9") == 1
    assert f"{LINES + 1} rows, 1 of them errors" in said

    alone = without_shards(asked, tmp_path / "alone.jsonl")
    assert len(texts(alone)) == LINES + 1
    assert texts(out) == texts(alone)


def test_an_output_that_is_there_is_gone_on_with(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole one is told as such, one of another batch is refused and left; here without Ray."""
    monkeypatch.setattr(ray_batch, "run_all", lambda shards, _: [run_shard(s) for s in shards])
    asked.write_text("".join(asked.read_text().splitlines(keepends=True)[:4]))
    out = without_shards(asked, tmp_path / "out.jsonl")
    written = out.read_bytes()
    log = tmp_path / "out.jsonl.log"
    arguments = [str(asked), str(out), "--shards", "2", "--", *OPTIONS]

    assert ray_batch.run(*parse(arguments)) == 0
    assert "out.jsonl is there already" in capsys.readouterr().err
    assert "nothing left to do" in log.read_text("utf-8")
    assert ray_batch.run(*parse([*arguments, "--seed", "5"])) == 2
    assert "holds another batch: seed was 0 and is 5" in last_line(log)
    assert out.read_bytes() == written


def test_options_of_both() -> None:
    args, options = parse(["in", "out", "--shards", "3", "--", "--recipe", "base", "--", "x"])
    assert (args.shards, args.retries, args.cpus_per_shard) == (3, 3, None)
    assert options == ("--recipe", "base", "--", "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "out", "--shards", "0"], "--shards 0: give 1 or more"),
        (["in", "out", "--shards", "2", "--gpus-per-shard", "nan"], "--gpus-per-shard nan"),
        (["in", "out", "--shards", "2", "--", "--shard=1/2"], "--shard cannot follow the --"),
        (["in", "out", "--shards", "2", "--", "--dry-run"], "--dry-run cannot follow the --"),
        (["-", "out", "--shards", "2"], "name files"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(arguments)


def test_one_file_a_shard(shard: Shard, tmp_path: Path) -> None:
    assert shard_path(Path("a.b.jsonl.gz"), 1, 2) == Path("a.b.shard-1-of-2.jsonl.gz")
    whole = replace(shard, name="", output=tmp_path / "a[1].jsonl")
    shards = plan(whole, 2)
    assert [one.name for one in shards] == ["1/2", "2/2"]
    assert shards[1].output.name == "a[1].shard-2-of-2.jsonl"

    shards[1].output.touch()
    assert plan(whole, 2) == shards
    with pytest.raises(
        UsageError, match=r"shard-2-of-2.jsonl belongs to a run with another --shards"
    ):
        shard_paths(whole.output, 3)
    whole.output.touch()
    assert plan(whole, 3) == [whole]


def test_a_machine_that_sees_other_files_is_refused(shard: Shard, tmp_path: Path) -> None:
    assert unfit(shard) == ""
    assert "is another file here" in unfit(replace(shard, size=4))
    assert "there is no" in unfit(replace(shard, source=tmp_path / "none.jsonl"))
    assert "is another folder here" in unfit(replace(shard, mark=tmp_path / "none"))
    assert "numpy 0 is needed" in unfit(replace(shard, versions=(("numpy", "0"),)))
    assert "here is none" in unfit(replace(shard, versions=(("no-such-package", "1"),)))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_shard_whose_process_is_ended_is_tried_again(
    number: signal.Signals, asked: Path, tmp_path: Path
) -> None:
    asked.write_text("".join(asked.read_text().splitlines(keepends=True)[-60:]))
    out, size = tmp_path / "out.jsonl", asked.stat().st_size
    whole = Shard("1/1", asked, out, OPTIONS, asked, size, tmp_path, ())

    def end() -> None:
        until = time.monotonic() + 60
        while rows_in(out) < 2 and time.monotonic() < until:
            time.sleep(0.005)
        process_of(out).send_signal(number)

    ending = threading.Thread(target=end)
    ending.start()
    with pytest.raises(KilledError, match="killed"):
        run_shard(whole)
    ending.join()
    assert run_shard(whole).code == 11  # the one bad line
    assert len(texts(out)) == 60


def test_a_refused_shard_is_told_with_its_last_words(shard: Shard) -> None:
    shard.log.write_text("-- shard 1/2 on here\neftlocal: No such option: --nosuch\n\n")
    outcome = Outcome(2, "here", 0.1, last_line(shard.log))
    assert not outcome.finished
    expected = f"shard 1/2 failed (exit code 2): No such option: --nosuch; see {shard.log}"
    assert told(shard, outcome) == expected


def test_a_shard_takes_a_machine_or_its_share_by_gpus() -> None:
    def node(cpus: float, gpus: float = 0.0, *, alive: bool = True) -> dict[str, object]:
        return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}

    nodes = [node(16), node(8), node(2, alive=False), {"Alive": True, "Resources": {}}]
    assert share_of_cpus(nodes, None, 0) == 8
    assert share_of_cpus(nodes, 4, 0) == 4
    assert share_of_cpus(nodes, 17, 0) is None
    assert share_of_cpus(nodes, None, 1) is None
    assert share_of_cpus([*nodes, node(32, 4)], None, 1) == 8
    assert share_of_cpus([node(2, 4)], None, 1) == 1
