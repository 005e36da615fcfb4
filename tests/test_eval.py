"""`eftlocal eval`: results that survive a crash, figures, pictures, pages, and the command."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from grids import points
from typer.testing import CliRunner, Result

from eftlocal.cli.app import app
from eftlocal.emulator import Emulator
from eftlocal.errors import PromptError, UsageError
from eftlocal.evaluation.figures import page as page_text
from eftlocal.evaluation.figures import summarise
from eftlocal.evaluation.grid import Point, compared
from eftlocal.evaluation.run import (
    OF_ANSWERS,
    Record,
    Results,
    digest,
    lacking,
    run,
    seed_of,
    spread,
)
from eftlocal.evaluation.task import Item, Metric, Options, Task
from eftlocal.evaluation.tasks.demo import Demo
from eftlocal.evaluation.tasks.prompts import file_items
from eftlocal.journal.manifest import Manifest
from eftlocal.sources import Sources
from eftlocal.speculation.settings import OFF, Speculation

PROGRAM = [sys.executable, "-c", "from eftlocal.cli.app import main; main()"]
MANIFEST: Manifest = {"seed": "0", "prompts": "2"}


class Plain(Task):
    """Nothing but what is measured of every answer."""

    name = "plain"
    about = "prompts"


PLAIN = Plain(Options())


# Prompts -----------------------------------------------------------------------------------------


def test_prompts_of_files(tmp_path: Path) -> None:
    lines = tmp_path / "p.txt"
    lines.write_text("one\n\n  two \n", "utf-8")
    assert [item.text for item in file_items(lines)] == ["one", "two"]
    objects = tmp_path / "p.jsonl"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = [{"prompt": "a", "gold": "b"}, {"messages": chat, "gold": ["c", "d"], "id": 7}]
    objects.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    first, second = file_items(objects)
    assert (first.prompt, first.gold) == (({"role": "user", "content": "a"},), ("b",))
    assert (second.prompt, second.gold) == (tuple(chat), ("c", "d"))
    (item,) = file_items(lines, system="be kind")[:1]
    assert item.prompt[0] == {"role": "system", "content": "be kind"}
    assert file_items(lines, raw=True)[0].prompt == "one"
    assert len({digest(file_items(p)) for p in (lines, objects)}) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nope", "not JSON"),
        ("[1]", "not an object"),
        ('{"prompt": "a", "answer": "b"}', "key 'answer' is not supported"),
        ('{"gold": "b"}', 'give one of "prompt" and "messages"'),
        ('{"prompt": "a", "messages": []}', 'give one of "prompt" and "messages"'),
        ('{"prompt": 1}', "prompt: give a string"),
        ('{"prompt": " "}', "the prompt is empty"),
        ('{"messages": []}', "the list is empty"),
        ('{"prompt": "a", "gold": 3}', "gold: give a right answer"),
        ('{"prompt": "\\ud800"}', "an unpaired surrogate"),
    ],
)
def test_a_bad_line_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line, "utf-8")
    with pytest.raises(PromptError) as refused:
        file_items(path)
    assert f"{path}, line 2: " in str(refused.value) and says in str(refused.value)


def test_a_limit_is_spread_evenly() -> None:
    items = [Item(str(i), str(i)) for i in range(10)]
    assert [item.text for item in spread(items, 4)] == ["0", "2", "5", "7"]
    assert len(spread(items, None)) == len(spread(items, 99)) == 10


def test_seeds_are_the_prompts_own() -> None:
    seeds = [seed_of(3, i) for i in range(500)]
    assert len(set(seeds)) == 500 and all(0 <= s < 2**63 for s in seeds)
    assert seeds == [seed_of(3, i) for i in range(500)] != [seed_of(4, i) for i in range(500)]


# Results on disk ---------------------------------------------------------------------------------


def record(prompt: int, text: str = "ä\u2028\n", **values: float) -> Record:
    return Record("p", prompt, {"beta": 1.0}, 5, text, "stop", values or {"tokens": 2.0})


def test_results_are_read_back_and_another_runs_are_refused(tmp_path: Path) -> None:
    """What a crash, a full disk and other processes do to rows is tested of the journal."""
    path = tmp_path / "out.jsonl"
    first, second = record(0), record(1, nll=math.inf, logprob=-0.1)
    with Results(path, MANIFEST) as results:
        results.add(first)
        results.add(second)
    before = path.read_bytes()
    assert b"Infinity" not in before
    with Results(path, MANIFEST) as results:
        assert results.records == {("p", 0, 0): first, ("p", 1, 0): second}
    with pytest.raises(UsageError, match="another evaluation: seed was 0 and is 1") as refused:
        Results(path, MANIFEST | {"seed": "1"})
    assert "prompts" not in str(refused.value)
    assert path.read_bytes() == before
    for foreign in (b'{"a": 1}\n{"b": 2}\n', b'{"point":"p","prompt":[],"values":{}}\n'):
        path.write_bytes(foreign)
        with pytest.raises(
            UsageError, match="line 1: not a result of an evaluation; give another --out"
        ):
            Results(path, MANIFEST)
        assert path.read_bytes() == foreign


# Figures -----------------------------------------------------------------------------------------


def test_summaries_leave_out_what_was_not_measured() -> None:
    (point,) = points(beta="1")
    rows = [record(0, tokens=2.0, exact=1.0), record(1, tokens=4.0), record(5, tokens=99.0)]
    metrics = {"exact": Metric("x"), **OF_ANSWERS}
    done = {(point.key, r.prompt, 0): r for r in rows}
    (found,) = summarise(PLAIN, metrics, [point], range(2), done)
    assert found.n == 2 and found.finish_reasons == {"stop": 2}
    assert {m: (of.mean, of.n) for m, of in found.metrics.items()} == {
        "exact": (1.0, 1),
        "tokens": (3.0, 2),
    }


# Running -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions() -> tuple[Item, ...]:
    return spread(Demo(Options(split="validation")).items(), 6)


def answered(
    em: Emulator,
    grid: tuple[Point, ...],
    items: Any,
    path: Path,
    parallel: int = 1,
    task: Task = PLAIN,
    **more: Any,
) -> Results:
    limits = {"max_tokens": 40, "stop": (), "loop_guard": 0, "speculation": OFF} | more
    with pytest.MonkeyPatch.context() as patch, Results(path, MANIFEST) as results:
        patch.setattr(em, "defaults", replace(em.defaults, **limits))
        missing = lacking(grid, items, task.samples, results)
        for _ in run(em, task, items, missing, results, seed=0, parallel=parallel):
            pass
        assert not lacking(grid, items, task.samples, results)
        return results


def without_speed(done: dict[tuple[str, int, int], Record]) -> dict[Any, Any]:
    drop = "tokens_per_second"
    return {
        key: (r.text, r.seed, {n: v for n, v in r.values.items() if n != drop})
        for key, r in done.items()
    }


def test_resumed_after_any_answer_it_says_the_same(tiny: Emulator, tmp_path: Path) -> None:
    items = [Item(t, t, gold=("so it is",)) for t in ("One", "One and two", "Three of them")]
    grid = points(recipe="upscale,tuned", temperature="0,0.8,1.2")
    path = tmp_path / "whole.jsonl"
    whole = without_speed(answered(tiny, grid, items, path, max_tokens=6).records)
    assert len(whole) == 18
    lines = path.read_bytes().splitlines(keepends=True)
    for done in (1, 4, 6, 11, 17):
        part = tmp_path / f"{done}.jsonl"
        answered(tiny, grid, items[:1], part, max_tokens=6)  # other things in the caches
        part.write_bytes(b"".join(lines[:done]))
        resumed = answered(tiny, grid, items, part, max_tokens=6).records
        assert without_speed(resumed) == whole


def test_points_may_be_added_and_share_seeds(tiny: Emulator, tmp_path: Path) -> None:
    items = [Item("Hello", "Hello"), Item("Hello", "Hello")]
    path = tmp_path / "out.jsonl"
    first = answered(tiny, points(beta="0"), items, path, max_tokens=5).records
    both = answered(tiny, points(beta="0,1", temperature="1"), items, path, max_tokens=5).records
    assert first.items() <= both.items() and len(both) == 6
    assert len({r.seed for r in both.values()}) == 2  # one a prompt, whatever the point


def test_drafts_change_no_text_and_are_measured(tiny: Emulator, tmp_path: Path) -> None:
    items, grid = [Item("Hello", "Hello")], points(temperature="0,0.9")
    plain = answered(tiny, grid, items, tmp_path / "a.jsonl", max_tokens=12).records
    drafted = answered(
        tiny, grid, items, tmp_path / "b.jsonl", max_tokens=12, speculation=Speculation(length=3)
    ).records
    assert [r.text for r in plain.values()] == [r.text for r in drafted.values()]
    assert all("acceptance" in r.values for r in drafted.values())
    assert not any("acceptance" in r.values for r in plain.values())


def test_a_prompt_that_does_not_fit_is_told_before_any_answer(
    tiny: Emulator, tmp_path: Path
) -> None:
    items = [Item("fine", "fine"), Item("word " * 300, "long")]
    out = tmp_path / "out.jsonl"
    with pytest.raises(PromptError, match="prompt 2 has"):
        answered(tiny, points(), items, out, max_tokens=4)
    assert not out.read_bytes()


# The page ----------------------------------------------------------------------------------------

HOSTILE = (
    "</td></table><script>alert(1)</script><img src=http://x.example/a onerror=b>{{ 7*7 }}&lt;"
)


class Tags(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def paged(grid: Any, items: Any, done: Any) -> tuple[Any, ...]:
    """The arguments of a page."""
    metrics = {"exact": Metric("right", is_share=True), "tokens": Metric("length")}
    summaries = summarise(PLAIN, metrics, grid, range(len(items)), done)
    return PLAIN, items, summaries, done, metrics


def test_hostile_text_stays_text() -> None:
    grid = points(beta="0,1")
    items = [Item(HOSTILE, HOSTILE + "\x00\x1b[31m\u202egpj", gold=(HOSTILE,))]
    done = {
        (p.key, 0, 0): Record(p.key, 0, {}, 1, HOSTILE, HOSTILE, {"exact": 0.0, "tokens": 3.0})
        for p in grid
    }
    source = page_text(*paged(grid, items, done))
    page = Tags(source)
    assert not {"script", "img", "iframe", "object"} & {*page.tags}
    assert page.tags.count("table") == 1 and page.tags.count("td") == 4
    assert page.text.count(HOSTILE) == 6  # prompt, right answer, two answers, two reasons
    assert not any(c in source for c in "\x00\x1b\u202e")
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "onerror", "onclick"}
    assert ("tabindex", "0") in page.attributes
    assert "default-src 'none'" in source and "prefers-color-scheme: dark" in source


def test_what_is_not_answered_yet_is_said() -> None:
    grid = points(beta="0,1")
    items = [Item("a", "first"), Item("b", "second")]
    done = {(grid[0].key, 0, 0): Record(grid[0].key, 0, {}, 1, "said", "stop", {"tokens": 3.0})}
    page = Tags(page_text(*paged(grid, items, done)))
    assert "said" in page.text and page.text.count("not answered yet") == 1
    assert "second" not in page.text


def test_figures_of_sums_are_compared_as_they_are_shown() -> None:
    """Perplexities: exp of sums of losses over sums of tokens, which are not the same in number."""

    class Text(Plain):
        metrics = {  # noqa: RUF012 - as `Task` has it
            "ppl": Metric("x", over="n", exponential=True, less_is_better=True)
        }

    grid = points(beta="1")
    models = compared(["small tuned", "large tuned"], grid[0].sampling)
    every = [*grid, *models]
    losses = (4.0, 6.0, 5.0), (8.0, 9.0, 7.0), (2.0, 3.0, 3.0)
    sizes = (4.0, 2.0, 3.0), (5.0, 2.0, 3.0), (4.0, 2.0, 3.0)
    done = {
        (p.key, i, 0): Record(p.key, i, {}, 1, "", "scored", {"ppl": of[i], "n": n[i]})
        for p, of, n in zip(every, losses, sizes, strict=True)
        for i in range(3)
    }
    task = Text(Options())
    found = summarise(task, task.metrics, every, range(3), done)
    ours, small, large = (math.exp(sum(of) / sum(n)) for of, n in zip(losses, sizes, strict=True))
    assert [s.metrics["ppl"].mean for s in found] == pytest.approx([ours, small, large])
    less, gap = found[0].against["small tuned"]["ppl"], found[0].gaps["ppl"]
    assert less.value == pytest.approx(ours - small) and less.low < less.value < less.high
    assert gap.value == pytest.approx((ours - small) / (large - small))


def test_one_item_has_no_interval() -> None:
    (point,) = points(beta="1")
    metrics = {"exact": Metric("x")}
    done = {(point.key, 0, 0): record(0, exact=1.0)}
    (found,) = summarise(PLAIN, metrics, [point], range(2), done)
    mean = found.metrics["exact"]
    assert (mean.mean, mean.n) == (1.0, 1) and math.isnan(mean.low) and math.isnan(mean.high)


# The command -------------------------------------------------------------------------------------


@pytest.fixture
def files(tiny_files: dict[str, Path]) -> list[str]:
    return [part for role, path in tiny_files.items() for part in (f"--{role}", str(path))]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"Number {i} says" for i in range(10)), "utf-8")
    return path


QUICK = ["--threads", "1", "--n-ctx", "256", "--max-tokens", "24", "--beta", "0,1,2"]


def evaluate(*arguments: str, width: int = 100) -> Result:
    runner = CliRunner(env={"COLUMNS": str(width)})
    return runner.invoke(app, ["eval", *arguments], prog_name="eftlocal")


def figures(text: str) -> Any:
    found = json.loads(text)
    for point in found["points"]:
        point["metrics"].pop("tokens_per_second", None)
    return found


def test_table_json_page_and_plot(files: list[str], asked: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    options = [str(asked), "--compare", "none", "--limit", "2", *files, *QUICK, "--out", str(out)]
    result = evaluate(*options, "--html", str(page))
    assert result.exit_code == 0, result.output
    assert "3 points, 2 prompts each" in result.stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    rows = [line.split()[:2] for line in result.stdout.splitlines() if line[:2] in ("0 ", "1 ")]
    assert rows[:2] == [["0", "2"], ["1", "2"]]
    assert Tags(page.read_text("utf-8")).tags.count("td") == 9
    found = json.loads(evaluate(*options, "--json", "--metrics", "tokens").stdout)
    assert [p["dials"] for p in found["points"]] == [{"beta": 0}, {"beta": 1}, {"beta": 2}]
    assert all(p["n"] == 2 and set(p["metrics"]) == {"tokens"} for p in found["points"])
    # Each prompt has a seed of its own, whatever --seed says: a point has none.
    assert all(p["sampling"]["seed"] is None for p in found["points"])


def test_only_the_roles_of_the_grids_recipes_are_needed(files: list[str], asked: Path) -> None:
    base = files[files.index("--base") : files.index("--base") + 2]
    options = [str(asked), *base, "--dry-run"]
    alone = evaluate(*options, "--recipe", "base")
    assert alone.exit_code == 0 and "recipe base  (base: +1 base)" in alone.stdout
    lacks = evaluate(*options, "--recipe", "base,proxy")
    assert lacks.exit_code == 2 and "recipe proxy needs the roles tuned" in lacks.stderr
    large = evaluate(*options, "--recipe", "base", "--large", base[1])
    assert large.exit_code == 2 and "give that with --tuned" in large.stderr


def test_a_finished_run_is_shown_without_loading(
    files: list[str], asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [str(asked), "--compare", "none", "--limit", "1", *files, *QUICK, "--json"]
    options += ["--out", str(tmp_path / "out.jsonl")]
    first = evaluate(*options)
    monkeypatch.setattr(Sources, "load", None)
    again = evaluate(*options)
    assert again.exit_code == 0 and again.stdout == first.stdout
    changed = evaluate(*options, "--seed", "1")
    assert changed.exit_code == 2 and "seed was 0 and is 1" in changed.stderr


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps an open file where it is")
def test_results_that_another_process_takes_away_are_told(
    files: list[str], asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, out, new = Results.add, tmp_path / "out.jsonl", tmp_path / "new.jsonl"

    def attacked(results: Results, record: Record) -> None:
        add(results, record)
        if len(results.records) == 2:
            out.rename(new)

    monkeypatch.setattr(Results, "add", attacked)
    options = [str(asked), "--compare", "none", "--limit", "1", *files, *QUICK, "--out", str(out)]
    result = evaluate(*options)
    assert result.exit_code == 1 and result.stdout == ""
    assert f"2 rows safe in {new}; put it back and run" in result.stderr
    new.rename(out)
    monkeypatch.undo()
    assert evaluate(*options).exit_code == 0 and len(out.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("parallel", ["3", "auto"])
def test_points_of_a_prompt_are_answered_side_by_side(
    parallel: str, files: list[str], asked: Path, tmp_path: Path
) -> None:
    options = [str(asked), "--compare", "none", "--limit", "2", *files, *QUICK, "--json"]
    alone = evaluate(*options, "--out", str(tmp_path / "alone.jsonl"))
    together = evaluate(*options, "--out", str(tmp_path / "out.jsonl"), "--parallel", parallel)
    assert together.exit_code == 0, together.output
    rows = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(row)["prompt"] for row in rows) == [0, 0, 0, 1, 1, 1]
    for one, other in zip(*(figures(r.stdout)["points"] for r in (alone, together)), strict=True):
        assert one["dials"] == other["dials"] and one["n"] == other["n"] == 2
        assert one["metrics"]["tokens"] == other["metrics"]["tokens"]


def test_dry_run_loads_nothing(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sources, "of_preset", None)
    result = evaluate(
        str(asked), "--compare", "none", "--beta", "0:1:0.5", "--temperature", "0,1", "--dry-run"
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "beta 0, temperature 0  (upscale: +1 tuned)"
    assert lines[-1] == "prompts: 6 points x 10 items: 60 answers"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "name a task: demo, "),
        (["nosuch"], "no task is called 'nosuch'; there are demo, "),
        (["prompts"], "give the file of prompts"),
        (["P", "--data", "P"], "is a file of prompts; leave out --data"),
        (["P", "--out", "P"], "the prompts and --out are the same file"),
        (["P", "--out", "no/o.jsonl"], "there is no folder no"),
        (["P", "--compare", "large"], "--compare: 'large'; give some of tuned, base, reference"),
        (["P", "--shots", "3"], "--shots means nothing to the task prompts"),
        (["P", "--samples", "2", "--temperature", "0,1"], "2 greedy answers to one item are one"),
        (["demo", "--samples", "2"], "2 greedy answers to one item are one"),
        (["demo", "--system", "x"], "--system means nothing to the task demo"),
        (["no.txt"], "no.txt: cannot be read"),
        (["P", "demo", "--metrics", "nonsense"], "'nonsense' is not measured here; known: stopped"),
        (["demo", "--minutes", "3"], "--minutes is for --quick"),
        (["demo", "--judge-parallel", "3"], "--judge-parallel is for a judge; add --judge URL"),
        (["demo", "--data", "P"], "prompts.txt is not a file of the demo's questions: not JSON"),
        (["demo", "P", "--shots", "3"], "--shots means nothing to the task demo"),
        (["demo", "demo"], "the task demo is given twice"),
        (["P", "demo", "--out", "."], "--out: . is a folder"),
        (["P", "--out", "-"], "--out: - is standard output; name a file, as in ./name"),
        (["P", "--compare", "plain"], "--compare: 'plain'; give some of tuned, base, reference"),
        (["P", "--metrics", "exact"], "'exact' is not measured here; known: stopped"),
        (["P", "--beta", "a"], "--beta: 'a' is neither a number"),
        (["P", "--recipe", "proxy", "--beta", "1"], "recipe proxy has no beta"),
        (["P", "--lambda", "tuned=1,warm=0.5"], "sum to 1, not 1.5"),
        (["P", "--lambda", "tuned=0.5,warm=rest"], "give --role warm=FILE, or"),
        (["P", "--raw", "--system", "x"], "--system needs the chat template"),
        (["demo", "--raw"], "--raw means nothing to the task demo"),
        (["P", "--draft-rule", "coupled"], "--draft-rule needs drafts"),
        (["P", "--recipe", "guidance", "--strength", "1"], "give them with --system"),
        (
            ["demo", "--recipe", "guidance", "--strength", "1"],
            "give them with --sys",
        ),
        (["P", "--parallel", "0"], "--parallel is 0; it must be a whole number"),
        (["P", "--speculative", "99"], "a whole number from 1 to 16, auto or off"),
    ],
)
def test_refused_in_one_line(options: list[str], says: str, asked: Path) -> None:
    result = evaluate(*(str(asked) if option == "P" else option for option in options))
    assert result.exit_code == 2, result.output
    assert says in result.stderr and result.stderr.count("\n") == 1
    assert result.stderr.startswith("eftlocal: ")


def test_guidance_brings_its_role(files: list[str], asked: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    quick = ["--n-ctx", "256", "--threads", "1", "--max-tokens", "4", "--limit", "1"]
    result = evaluate(str(asked), "--compare", "none", *files, *quick, "--recipe", "tuned;guidance",
                 "--strength", "1", "--out", str(out))  # fmt: skip
    assert result.exit_code == 2 and "recipe tuned has no strength" in result.stderr
    result = evaluate(
        str(asked), "--compare", "none", *files, *quick, "--recipe", "guidance",
        "--strength", "0,1", "--system", "be kind", "--out", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def test_interpolation_of_the_demo(tmp_path: Path) -> None:
    options = ["demo", "--preset", "demo-blend", "--compare", "none", "--limit", "4", "--json"]
    line = ["--lambda", "tuned=0,1,plain=rest", "--out", str(tmp_path / "out.jsonl")]
    result = evaluate(*options, *line)
    assert result.exit_code == 0, result.output
    plain, warm = (p["metrics"] for p in json.loads(result.stdout)["points"])
    assert plain["plain_format"]["mean"] > warm["plain_format"]["mean"]
    assert warm["format"]["mean"] > plain["format"]["mean"]


@pytest.mark.parametrize(
    "grid",
    [["--beta", "0,1"], ["--beta", "0,1", "--temperature", "0,1"], ["--recipe", "base,tuned"],
     ["--recipe", "upscale,tuned", "--temperature", "0,1"], []],
)  # fmt: skip
def test_plots(grid: list[str], files: list[str], asked: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plot.svg"
    quick = ["--n-ctx", "256", "--threads", "1", "--max-tokens", "3", "--limit", "2"]
    drawn = []
    for _ in range(2):  # the second time of what is on disk
        result = evaluate(
            str(asked), "--compare", "none", *files, *quick, *grid, "--plot", str(picture),
            "--out", str(tmp_path / "out.jsonl"),
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        drawn.append(picture.read_text("utf-8"))
    assert "<svg" in drawn[0] and drawn[0] == drawn[1]


# Ended from outside ------------------------------------------------------------------------------


def child(options: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, "eval", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(process: subprocess.Popen[bytes], path: Path, size: int) -> None:
    """Until so many bytes of results are on disk, or the process has ended."""
    while process.poll() is None and not (path.exists() and path.stat().st_size >= size):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.002)


@pytest.fixture
def options(files: list[str], asked: Path) -> Iterator[list[str]]:
    yield [str(asked), "--compare", "none", *files, *QUICK, "--temperature", "0.8,1.2", "--json"]


def test_killed_at_any_moment_and_resumed_the_table_is_the_same(
    options: list[str], tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    expected = figures(evaluate(*options, "--out", str(whole)).stdout)
    size, killed = whole.stat().st_size, 0
    for share in sorted(random.Random(5).uniform(0.0, 0.9) for _ in range(4)):
        process = child([*options, "--out", str(out)])
        wait_for(process, out, int(share * size))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 2
    resumed = evaluate(*options, "--out", str(out))
    assert resumed.exit_code == 0, resumed.output
    assert figures(resumed.stdout) == expected
    assert len(out.read_bytes().splitlines()) == len(whole.read_bytes().splitlines()) == 60


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    options: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    process = child([*options, "--out", str(out)])
    wait_for(process, out, 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    done = len(out.read_bytes().splitlines())
    assert process.returncode == 130, errors
    assert errors.decode().splitlines()[-1] == (
        f"eftlocal: stopped after {done} of 60 rows, which are in {out}; run the same command "
        "again to resume"
    )
    assert 0 < done < 60
    with out.open("rb") as file:
        assert all(json.loads(line) for line in file)


def test_models_are_added_to_a_run_and_another_large_ones_answers_are_not_its_own(
    files: list[str], asked: Path, tiny_files: dict[str, Path], tmp_path: Path
) -> None:
    out, other = tmp_path / "out.jsonl", tmp_path / "other.gguf"
    options = [str(asked), *files, "--limit", "2", "--max-tokens", "3", "--threads", "1"]
    options += ["--n-ctx", "256", "--temperature", "0", "--out", str(out)]
    first = evaluate(*options, "--compare", "none")
    assert first.exit_code == 0, first.output
    counts = [len(out.read_text("utf-8").splitlines())]
    for large in (str(tiny_files["base"]), str(tiny_files["base"]), str(other)):
        other.write_bytes(tiny_files["tuned"].read_bytes())
        again = evaluate(*options, "--large", large)
        assert again.exit_code == 0 and "large tuned" in again.stdout, again.output
        counts.append(len(out.read_text("utf-8").splitlines()))
    assert counts == [2, 8, 8, 10]


def test_saving_the_best_is_refused_before_anything_is_answered(asked: Path) -> None:
    asked.write_text("only one", "utf-8")
    for grid, says in (("0,1", "half is empty; it has too few items"),):
        result = evaluate(
            str(asked), "--beta", grid, "--save-best", "tokens", "--as", "never-written"
        )
        assert result.exit_code == 2 and says in result.stderr


def test_of_several_tasks_each_heeds_the_options_that_it_takes(asked: Path) -> None:
    result = evaluate("demo", str(asked), "--limit", "1", "--system", "Be kind.", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "demo: " in result.stdout and "prompts: " in result.stdout
