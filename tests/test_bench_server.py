"""scripts/bench_server.py: a short load of a real server; how fast it is is never judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import bench_server
import pytest
from _asking import Told, at_once
from _serving import Serving, serving

ASKED = bench_server.requests(6)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving("--preset", "demo", "--threads", "1", "--speculative", "off") as found:
        yield found


def test_a_load(server: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_server.load(server, ASKED, clients=6, seconds=4.0)
    assert found["faults"] == []
    assert set(found["requests"]) == {*bench_server.KINDS}
    assert 0 < found["answers"] < sum(found["requests"].values())
    assert 0 < found["first_token"]["p50"] <= found["first_token"]["p99"]
    assert all(at["server"] > 1e7 and at["engine"] > 1e7 for at in found["memory"])
    rates = bench_server.throughput(server, ASKED, clients=4, turns=1)
    assert len(rates["ratio"]) == 1 and rates["ratio"][0] > 0
    report = {"machine": bench_server.machine(), "load": found, "throughput": rates}
    bench_server.show(report)
    assert "server over batch" in capsys.readouterr().out


def test_a_wrong_answer_is_seen(server: Serving) -> None:
    alone = at_once(server.url, [bench_server.scored(one) for one in ASKED], 1)
    right = [(i, one) for i, one in enumerate(alone)]
    assert bench_server.differences(ASKED, alone, right) == ([], 0.0)
    wrong = [(i, replace(one, text=f"{one.text[:5]}#", body=None)) for i, one in right]
    parted, _ = bench_server.differences(ASKED, alone, wrong)
    assert len(parted) == len(ASKED) and all(gap > 0 for gap in parted)


def test_the_gap_where_a_text_parts() -> None:
    reference = [(" a", [-0.1, -3.0]), (" b", [-0.5, -0.75]), (" c", [-1.0, -9.0])]
    assert bench_server.gap_at(" a x", reference) == pytest.approx(0.25)
    assert bench_server.gap_at(" ", reference) == pytest.approx(2.9)


def test_an_error_in_a_stream_is_told(server: Serving) -> None:
    refused: list[Any] = at_once(server.url, bench_server.REFUSED, 2)
    assert [400 <= told.status < 500 for told in refused] == [True] * len(refused)
    assert isinstance(refused[0], Told) and "JSON" in refused[0].text
