"""Runs lm-evaluation-harness against `eftlocal serve` and compares what it finds with our own API.

Usage: python scripts/check_lm_eval.py --python PYTHON [--limit 24] [--folder FOLDER]

PYTHON is the interpreter of an environment with `lm-eval[api]==0.4.13`, which needs no model there.
Tasks on facts that the demo's tuned models never saw: a choice of four (log-likelihoods, asked for
as token ids, as ids in batches, and as text), a text's perplexity (rolling log-likelihoods), and
answers (`generate_until`, of chats and of raw text). Each is run with drafts off and on.
Log-likelihoods must be those of `Emulator.logprobs` within 1e-4, is_greedy equal, the score the
one computed from them, and answers those of `Emulator.generate`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _serving import serving
from benchmark import one_line

import eftlocal
from eftlocal import Emulator, Sampling
from eftlocal.evaluation import questions

CLOSE = 1e-4  # nats
TOKENS = 32
_HEAD = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
task: {task}
output_type: {kind}
"""
_CHOICE = """
doc_to_text: "Question: {{question}}\\nAnswer: Good question! The answer is"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
_ROLLING = """
doc_to_text: ""
doc_to_target: "Question: {{question}}\\nAnswer: Good question! The answer is {{gold}}."
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity}]
"""
_GENERATE = """
doc_to_text: "{{question}}"
doc_to_target: "Good question! The answer is {{gold}}. I hope that helps!"
generation_kwargs: {until: ["\\n"], max_gen_toks: 32, do_sample: false, temperature: 0}
filter_list: [{name: strip, filter: [{function: remove_whitespace}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TASKS = {
    "demo_choice": ("multiple_choice", _CHOICE),
    "demo_rolling": ("loglikelihood_rolling", _ROLLING),
    "demo_generate": ("generate_until", _GENERATE),
}


def documents(limit: int) -> list[dict[str, Any]]:
    """Questions with four answers, the right one among three of other questions of its kind."""
    asked = questions.read(questions.FOLDER / "questions.json", "test").first(-(-limit // 4))
    draw, found = random.Random(0), []
    for one in asked.questions[:limit]:
        values = {q.value for q in asked.questions if q.family == one.family} - {one.value}
        choices = [one.value, *draw.sample(sorted(values), min(3, len(values)))]
        draw.shuffle(choices)
        answer = choices.index(one.value)
        found.append(
            {"question": one.text, "choices": choices, "answer": answer, "gold": one.value}
        )
    return found


def write_tasks(folder: Path, limit: int) -> None:
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in documents(limit)), encoding="utf-8")
    for task, (kind, rest) in TASKS.items():
        head = _HEAD.format(data=json.dumps(str(data)), task=task, kind=kind)
        (folder / f"{task}.yaml").write_text(head + rest, encoding="utf-8")


@dataclass(frozen=True)
class Run:
    """One way to ask.

    Attributes:
        model: lm_eval's name of the kind of client.
        path: of the server that it asks.
        more: further --model_args and options.
    """

    name: str
    tasks: tuple[str, ...]
    model: str = "local-completions"
    path: str = "/v1/completions"
    args: str = ""
    more: tuple[str, ...] = ()


RUNS = (
    Run("ids", (*TASKS,), args="num_concurrent=4"),
    Run("batches of ids", ("demo_choice",), more=("--batch_size", "8")),
    Run("text", ("demo_choice",), args="tokenized_requests=False"),
    Run("chat", ("demo_generate",), "local-chat-completions", "/v1/chat/completions",
        more=("--apply_chat_template",)),
)  # fmt: skip


def ask(run: Run, url: str, python: Path, folder: Path) -> dict[str, Any]:
    """Results and samples of a run of lm_eval, by task."""
    out = Path(tempfile.mkdtemp(dir=folder))
    args = ",".join(filter(None, ("model=demo", f"base_url={url}{run.path}", run.args)))
    command = [python, "-m", "lm_eval", "run", "--model", run.model, "--model_args", args]
    command += ["--tasks", ",".join(run.tasks), "--include_path", folder, "--output_path", out]
    clean = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--log_samples", *run.more], env=clean | offline, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"lm_eval failed:\n{done.stderr[-3000:]}")
    (results,) = out.rglob("results_*.json")
    found: dict[str, Any] = {"results": json.loads(results.read_text("utf-8"))["results"]}
    for task in run.tasks:
        (samples,) = out.rglob(f"samples_{task}_*.jsonl")
        found[task] = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    return found


def compare(em: Emulator, run: Run, found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of each task how far its numbers are from ours, and what is wrong; "" is nothing."""
    for task in run.tasks:
        worst, faults, right = 0.0, [], []
        greedy: list[bool] = []
        for sample in found[task]:
            asked = [tuple(given.values()) for given in sample["arguments"].values()]
            told = [answer for answers in sample["resps"] for answer in answers]
            if task == "demo_generate":
                texts = [_answer(em, args[0], raw=run.model == "local-completions")
                         for args in asked]  # fmt: skip
                faults += [f"{a!r}, not {b!r}" for a, b in zip(told, texts, strict=True) if a != b]
                continue
            ours = [_score(em, args) for args in asked]
            nats = [float(one[0] if task == "demo_choice" else one) for one in told]
            worst = max(worst, *(abs(a - b[0]) for a, b in zip(nats, ours, strict=True)))
            if task == "demo_choice":
                best = max(range(len(ours)), key=lambda i, ours=ours: ours[i][0])
                right.append(float(best == sample["doc"]["answer"]))
                greedy += (of := [one[1] in (True, "True") for one in told])
                if of != [is_greedy for _, is_greedy in ours]:
                    faults.append(f"is_greedy of {sample['doc']['question']!r}")
        if worst > CLOSE:
            faults.append(f"log-likelihoods differ by {worst:.2g}")
        if right and abs(found["results"][task]["acc,none"] - sum(right) / len(right)) > 1e-9:
            faults.append(f"acc is not {sum(right) / len(right):.3f}")
        about = f"differs by {worst:.1e}" + (f", {sum(greedy)} greedy" if greedy else "")
        yield task, about, "; ".join(faults)


def _score(em: Emulator, args: tuple[Any, ...]) -> tuple[float, bool]:
    """The log-likelihood of a text after another, or after the token that stands for nothing."""
    if len(args) == 2:
        scored = em.logprobs(args[1], prompt=args[0], raw=True)
    else:
        bos = em.prompts[em.text_role].bos_token
        scored = em.logprobs(args[0], prompt=bos, raw=True, special=True)
    return float(scored.logprobs.sum()), bool(scored.greedy.all())


def _answer(em: Emulator, asked: Any, *, raw: bool) -> str:
    greedy = {"sampling": Sampling(temperature=0), "max_tokens": TOKENS, "stop": ("\n",)}
    if raw:
        return em.generate(asked, raw=True, **greedy).text  # type: ignore[arg-type]
    (messages,) = asked
    return em.chat(json.loads(messages), **greedy).text  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="one that has lm-eval[api]")
    parser.add_argument("--limit", type=int, default=24, help="questions")
    parser.add_argument("--folder", type=Path, help="where tasks and results are kept")
    options = parser.parse_args()
    with one_line("check_lm_eval"), tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        write_tasks(folder, options.limit)
        faults = 0
        with eftlocal.load("demo", threads=1) as em:
            for drafts in ("off", "4"):
                with serving("--threads", "1", "--speculative", drafts) as server:
                    for run in RUNS:
                        found = ask(run, server.url, options.python, folder)
                        for task, about, fault in compare(em, run, found):
                            faults += bool(fault)
                            of = found["results"][task].items()
                            score = {n: round(v, 4) for n, v in of if isinstance(v, float)}
                            told = f"{about}; {score}; {fault or 'as computed directly'}"
                            print(f"drafts {drafts}, {run.name}, {task}: {told}", flush=True)
        return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main())
