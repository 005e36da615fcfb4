"""`eftlocal run`: streams, shows roles side by side, prints JSON, refuses in one line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eftlocal import Emulator
from eftlocal.cli.app import app
from eftlocal.cli.streams import read_prompt
from eftlocal.errors import UsageError
from eftlocal.loading.host import usable_cpus
from eftlocal.loading.roles import RoleSource

PROGRAM = [sys.executable, "-c", "from eftlocal.cli.app import main; main()"]
QUICK = ["--threads", "1", "--n-ctx", "256", "--max-tokens", "12", "--seed", "3"]


@pytest.fixture
def files(tiny_files: dict[str, Path]) -> list[str]:
    return [part for role, path in tiny_files.items() for part in (f"--{role}", str(path))]


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["run", *arguments], input=stdin, prog_name="eftlocal")


def test_the_answer_is_on_stdout_and_the_figures_on_stderr(files: list[str]) -> None:
    result = run("Hello", *files, *QUICK)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "12 tokens in " in result.stderr and "tok/s, first token after" in result.stderr
    assert "seed 3" in result.stderr and "stopped: max-tokens reached" in result.stderr
    at_once = run("Hello", *files, *QUICK, "--max-tokens", "1")
    assert "tok/s" not in at_once.stderr  # no token came after the first: there is no rate
    for more in [], ["--offline"]:  # files given by path are never downloaded
        quiet = run("Hello", *files, *QUICK, "--quiet", *more)
        assert (quiet.stdout, quiet.stderr) == (result.stdout, "")


def test_the_prompt_can_come_from_stdin(files: list[str]) -> None:
    typed = run("Hello", *files, *QUICK).stdout
    assert run(*files, *QUICK, stdin="Hello").stdout == typed
    assert run("-", *files, *QUICK, stdin="Hello").stdout == typed
    assert run("Hello", *files, *QUICK, "--raw").stdout != typed


def test_json_is_one_object(files: list[str]) -> None:
    result = run("Hello", *files, *QUICK, "--json", "--show", "base", "--beta", "1.5")
    assert result.exit_code == 0, result.exception
    record = json.loads(result.stdout)
    assert record["recipe"]["weights"] == {"base": 1.5, "tuned": 1.0, "reference": -1.5}
    assert (record["seed"], record["tokens"], record["finish_reason"]) == (3, 12, "length")
    assert set(record["alone"]) == {"base"} and record["alone"]["base"]["tokens"] == 12
    assert record["timing"]["prompt_tokens"].keys() == {"base", "tuned", "reference"}
    plain = run("Hello", *files, *QUICK, "--beta", "1.5", "--quiet")
    assert plain.stdout.strip() == record["text"].strip()


def test_show_prints_the_roles_side_by_side(files: list[str]) -> None:
    result = run("Hello", *files, *QUICK, "--show", "tuned,base")
    header = result.stdout.splitlines()[1]
    assert header.index("emulation") < header.index("tuned") < header.index("base")


def test_dials_change_the_answer(files: list[str]) -> None:
    options = [*files, *QUICK, "--temperature", "0", "--quiet"]
    plain = run("Hello", *options).stdout
    assert run("Hello", *options, "--recipe", "upscale").stdout == plain
    assert run("Hello", *options, "--recipe", "base=1,tuned=1,reference=-1").stdout == plain
    alone = run("Hello", *options, "--recipe", "tuned").stdout
    assert run("Hello", *options, "--beta", "0").stdout == alone != plain


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["hi", "--preset", "dem"], 2, "demo"),
        (["hi", "--preset", "demo", "--base", "x"], 2, "exclude each other"),
        (["hi", "--base", "x"], 2, "only base; give --tuned and --reference, or"),
        (["hi", "--base", "no.gguf", "--tuned", "no.gguf", "--reference", "no.gguf"], 3, "no.gguf"),
        (["hi", "--temperature", "-1"], 2, "--temperature is -1; it must be a number from 0"),
        (["hi", "--recipe", "upscal"], 2, "did you mean upscale?"),
        (["hi", "--recipe", "base=1,tuned=1"], 2, "sum to 2, not 1"),
        (["hi", "--recipe", "upscale", "--any-sum"], 2, "any_sum is for weights"),
        (["hi", "--recipe", "upscale", "--alpha", "1"], 2, "has no alpha; it takes beta"),
        (["hi", "--delta-top-p", "1.5"], 2, "--delta-top-p is 1.5"),
        (["hi", "--show", "nope"], 2, "--show: there is no role 'nope'"),
        (["hi", "--max-tokens", "0"], 2, "--max-tokens is 0"),
        (["hi", "--threads", "0"], 2, "--threads is 0; it must be a whole number from 1"),
        (["hi", "--threads", "512"], 2, "--threads is 512; this machine has"),
        (["hi", "--n-ctx", str(2**32 + 1), "--force"], 2, "--n-ctx is 4294967297"),
        (["hi", "--preset", ""], 2, "--preset is ''; it must be the name of a preset"),
        (["hi", "--gpu-layers", "-7"], 2, "--gpu-layers is -7"),
        (["hi", "--n-ctx", "-5"], 2, "--n-ctx is -5"),
        (["hi", "--raw", "--system", "x"], 2, "--system needs the chat template"),
        (["", "--n-ctx", "256"], 7, "the prompt is empty"),
        (
            ["hi", "--speculative", "17"],
            2,
            "--speculative is 17; it must be a whole number from 1 to",
        ),
        (["hi", "--speculative", "-1"], 2, "--speculative is -1; it must be a whole number from 1"),
        (["hi", "--speculative", "fast"], 2, "--speculative is 'fast'; it must be a whole number"),
        (["hi", "--draft-rule", "luck"], 2, "--draft-rule is 'luck'; it must be coupled or rejec"),
        (["hi", "--draft-source", "web"], 2, "--draft-source is 'web'; it must be auto, model or"),
        (["hi", "--draft-rule", "coupled", "--speculative", "off"], 2, "--draft-rule needs drafts"),
        (["hi", "--recipe", "guidance", "--strength", "1"], 2, "give them with --system"),
        (["hi", "--stats", "--quiet"], 2, "--stats and --quiet exclude each other"),
        (["hi", "--grammar", "a", "--json-schema", "b"], 2, "--grammar and --json-schema exclude"),
        (["hi", "--regex", "a", "--lark", "b"], 2, "--regex and --lark exclude each other; leave"),
        (["hi", "--regex", "a("], 2, "regex: unclosed group"),
        (["hi", "--grammar", "missing.gbnf"], 2, "--grammar missing.gbnf: cannot be read: No such"),
        (["hi", "--betta", "1"], 2, "--betta"),
        (["hi", "--beta", "much"], 2, "--beta"),
    ],
)
def test_refused_in_one_line(arguments: list[str], code: int, says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    if not result.stderr.startswith("Usage:"):
        assert result.stderr.startswith("eftlocal: ") and result.stderr.count("\n") == 1


def test_more_is_refused_with_the_models_at_hand(files: list[str]) -> None:
    result = run("Hello", *files, *QUICK, "--show", "warm")
    assert result.exit_code == 2 and "no role 'warm'; there are base, tuned" in result.stderr
    result = run("word " * 300, *files, *QUICK)
    assert result.exit_code == 7 and "its context holds 256" in result.stderr


def test_a_recipe_of_two_roles_needs_two_files(tiny_files: dict[str, Path]) -> None:
    two = ["--tuned", str(tiny_files["tuned"]), "--reference", str(tiny_files["reference"])]
    result = run("Hello", *two, *QUICK, "--recipe", "realign", "--lambda", "0.5")
    assert result.exit_code == 0, result.output


def test_bytes_that_are_no_text() -> None:
    result = run(stdin=b"ab\xffcd")
    assert result.exit_code == 7
    assert "stdin: not valid UTF-8: byte 0xff at offset 2" in result.stderr
    result = run("ab\udcffcd")  # as Python gives such an argument
    assert result.exit_code == 7
    assert "the prompt: not valid UTF-8: byte 0xff at offset 2" in result.stderr
    result = run("ab\ud83d")
    assert result.exit_code == 7 and "the prompt is not valid text: an unpaired" in result.stderr


def test_a_prompt_that_the_locale_did_not_know_is_utf_8() -> None:
    assert read_prompt("caf\udcc3\udca9") == read_prompt("café") == "café"


def test_ctrl_c_stops_cleanly_and_keeps_what_was_said(files: list[str], tmp_path: Path) -> None:
    """The real program on a real terminal, interrupted while it speaks."""
    endless = tmp_path / "endless.gbnf"
    endless.write_text('root ::= ([a-z ]{2000} "."){40}\n', "utf-8")  # no end token before that
    options = ["--threads", "1", "--n-ctx", "100000", "--temperature", "50"]
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "run", "Hello", *files, *options, "--grammar", str(endless)],
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(follower)
    said = os.read(leader, 1)
    while len(said) < 40:
        said += os.read(leader, 4096)
    child.send_signal(signal.SIGINT)
    with suppress(OSError):  # Linux's way to tell that the program has closed its end
        while os.read(leader, 4096):  # what is not read would keep it from writing more
            continue
    _, errors = child.communicate(timeout=60)
    os.close(leader)
    assert child.returncode == 130
    assert errors.decode().strip() == "eftlocal: stopped"


def test_a_closed_pipe_is_no_crash(files: list[str]) -> None:
    options = ["--threads", "1", "--n-ctx", "512", "--temperature", "2"]
    command = [*PROGRAM, "run", "Hello", *files, *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(5)
    child.stdout.close()
    errors = child.stderr.read().decode()
    child.wait(timeout=60)
    assert "Traceback" not in errors


def test_speculation_changes_no_text_and_stats_tell_of_it(files: list[str]) -> None:
    options = [*files, *QUICK, "--stats"]
    off = run("Hello", *options, "--speculative", "off")
    assert "12 rounds, 0 drafts" in off.stderr and "accepted" not in off.stderr
    fixed = run("Hello", *options, "--speculative", "3")
    assert fixed.stdout == off.stdout
    assert "accepted by position: " in fixed.stderr and "seconds: prompt " in fixed.stderr
    record = json.loads(run("Hello", *files, *QUICK, "--speculative", "3", "--json").stdout)
    drafts = record["speculation"]
    assert drafts["drafts"] > 0 and len(drafts["tried"]) == 3
    assert drafts["rounds"] + sum(drafts["accepted"]) == record["tokens"] == 12


def test_answers_keep_to_a_schema(files: list[str], tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["red", "green"]}', encoding="utf-8")
    found = run("Hello", *files, *QUICK, "--json-schema", str(schema), "--speculative", "2")
    assert json.loads(found.stdout) in ("red", "green")
    schema.write_text('{"type": "string", "pattern": "(?=a)b"}', encoding="utf-8")
    refused = run("Hello", *files, "--json-schema", str(schema))
    assert refused.exit_code == 2 and "look-ahead" in refused.stderr


def test_more_threads_than_cpus_are_refused_on_every_surface(
    files: list[str], demo_files: dict[str, Path]
) -> None:
    most = usable_cpus()
    says = f"threads is {most + 1}; this machine has {most} CPU"
    asked = ["--threads", str(most + 1)]
    commands = [["run", "hi"], ["inspect", "hi"], ["bench"], ["eval", "demo", "--limit", "1"]]
    commands += [["batch", "-", "-"], ["chat"]]
    for command in commands:
        result = CliRunner().invoke(app, [*command, *asked], input="{}", prog_name="eftlocal")
        assert result.exit_code == 2 and says in result.stderr, (command, result.output)
    with pytest.raises(UsageError, match=says):
        Emulator.from_files(**demo_files, threads=most + 1)
    sources = {role: RoleSource(path, threads=most + 1) for role, path in demo_files.items()}
    with pytest.raises(UsageError, match=f"role base: {says}"):
        Emulator.from_sources(sources)


@pytest.mark.parametrize("prompt", ["-5 + 3", "-hello", "--well, what is it?", "-5", "--5 there"])
@pytest.mark.parametrize("verb", ["run", "inspect"])
def test_a_prompt_like_an_option_is_told_of_the_two_dashes(verb: str, prompt: str) -> None:
    result = CliRunner().invoke(app, [verb, prompt], prog_name="eftlocal")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    says = f"a PROMPT that begins with - goes after --: `eftlocal {verb} -- ...`"
    assert result.stderr.startswith("eftlocal: No such option: -") and says in result.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [("--temp", "(Possible options: --temperature); see"), ("--ctx-size", ": --ctx-size; see")],
)
def test_an_option_that_there_is_not_is_no_prompt(wrong: str, says: str) -> None:
    told = run("hi", wrong, "1").stderr
    assert says in told and "goes after --" not in told


def test_a_prompt_after_two_dashes_is_taken_as_it_is(files: list[str]) -> None:
    result = run(*files, *QUICK, "--speculative", "off", "--", "-5 + 3")
    assert result.exit_code == 0, result.output
    lost = run(*files, "what", "is", "it?")
    assert lost.exit_code == 2 and "text with spaces needs quotes" in lost.stderr


# --prompt-cache ---------------------------------------------------------------------------------

LONG = "Tell me about the river and the hills beside it. " * 4


def held(stdout: str) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens of the prompt, and how many of them were not read."""
    timing = json.loads(stdout)["timing"]
    return timing["prompt_tokens"], timing["reused_tokens"]


def test_a_prompt_cache_is_read_and_written(files: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "talk.state"
    options = [*files, *QUICK, "--prompt-cache", str(cache)]
    first = run(LONG, *options)
    assert first.exit_code == 0, first.output
    assert f"wrote {cache}: " in first.stderr and "a token takes" in first.stderr
    again = run(LONG, *options)
    assert again.stdout == first.stdout
    assert f"read {cache}: " in again.stderr and "wrote" not in again.stderr  # nothing was new
    asked = run(LONG + "Where is it?", *options, "--json")
    assert not asked.stderr
    prompt, reused = held(asked.stdout)
    assert all(0 < prompt[role] - reused[role] < 40 and reused[role] > 60 for role in prompt)
    prompt, reused = held(run(LONG + "Where is it?", *options, "--json").stdout)
    assert reused == {role: count - 1 for role, count in prompt.items()}
    shown = run(LONG, *options, "--show", "base", "--quiet")
    assert shown.exit_code == 0 and not shown.stderr
    alone = run(LONG, *options, "--recipe", "base", "--temperature", "0", "--quiet")
    bare = run(LONG, *files, *QUICK, "--recipe", "base", "--temperature", "0", "--quiet")
    assert alone.stdout == bare.stdout


def test_the_cache_of_one_role_serves_all(files: list[str], tmp_path: Path) -> None:
    options = [*files, *QUICK, "--prompt-cache", str(tmp_path / "a"), "--json"]
    assert run(LONG, *options, "--recipe", "base").exit_code == 0
    prompt, reused = held(run(LONG, *options).stdout)
    assert reused["tuned"] == reused["reference"] == 0 and reused["base"] == prompt["base"] - 1
    prompt, reused = held(run(LONG, *options).stdout)
    assert reused == {role: count - 1 for role, count in prompt.items()}


@pytest.mark.parametrize(
    "more",
    [
        ["--reproducible"],
        ["--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--flash-attention", "on"],
        ["--speculative", "3", "--draft-rule", "rejection"],
        ["--regex", "[a-z ]{5,20}"],
        ["--raw"],
    ],
    ids=lambda more: more[0],
)
def test_a_prompt_cache_goes_with(files: list[str], tmp_path: Path, more: list[str]) -> None:
    options = [*files, *QUICK, "--json", "--prompt-cache", str(tmp_path / "a"), *more]
    first, second = (json.loads(run(LONG, *options).stdout) for _ in range(2))
    assert first["text"] == second["text"]
    assert min(second["timing"]["reused_tokens"].values()) > 60


def test_a_prompt_cache_that_does_not_match_is_refused_and_stays(
    files: list[str], tiny_files: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "a"
    options = [*files, *QUICK, "--prompt-cache", str(cache)]
    run(LONG, *options)
    before = cache.read_bytes()
    model = [*files, *QUICK, "--prompt-cache", str(tiny_files["base"])]
    for result, says in (
        (
            run(LONG, *options, "--n-ctx", "320"),
            "now it is 320; use what it was saved",
        ),
        (run(LONG, *options, "--tuned", str(tiny_files["base"])), "another model file of tuned"),
        (run(LONG, *model), "is a model, which would be lost"),
        (run(LONG, *files, "--prompt-cache", str(tmp_path)), "is a folder; name a file in it"),
    ):
        assert result.exit_code == 2 and not result.stdout, result.output
        assert says in result.stderr and "Traceback" not in result.stderr
    cache.write_bytes(before[:-1])
    told = run(LONG, *options)
    assert told.exit_code == 2 and "is damaged or cut off" in told.stderr
    cache.write_text("notes")
    told = run(LONG, *options)
    assert "is no file of saved caches" in told.stderr and cache.read_text() == "notes"


def test_ctrl_c_keeps_what_was_read(files: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "a"
    options = [*files, "--threads", "1", "--n-ctx", "100000", "--prompt-cache", str(cache)]
    endless = tmp_path / "endless.gbnf"
    endless.write_text('root ::= ([a-z ]{2000} "."){40}\n', "utf-8")
    child = subprocess.Popen(
        [*PROGRAM, "run", LONG, *options, "--grammar", str(endless)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.read(1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130 and errors.decode().strip() == "eftlocal: stopped"
    prompt, reused = held(run(LONG, *options, "--json", "--max-tokens", "2").stdout)
    assert reused == {role: count - 1 for role, count in prompt.items()}
