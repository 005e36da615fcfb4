"""The user's settings file and variables: who wins, what gives way, and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import typer
from settings_files import own_preset, toml, write_settings
from typer.testing import CliRunner

from eftlocal.cli import option_rules as rules
from eftlocal.cli import options as opt
from eftlocal.cli.app import app
from eftlocal.cli.selection import Selection, select
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.kinds import OFF, for_role
from eftlocal.presets.reading import user_path
from eftlocal.presets.schema import Preset
from eftlocal.request import RequestDefaults, read_request
from eftlocal.settings import FILE, LIMITS, SAMPLING, SETTINGS
from eftlocal.user_settings import Given, from_environment, from_file, settings_path

SAMPLE = Path(__file__).parent / "samples" / "settings.toml"

# Who wins -----------------------------------------------------------------------------------------

GROUPS = ("models", "recipe", "sampling", "length", "form", "drafts", "prompt", "raw", "engine")
LEVELS = ("line", "environment", "file", "preset")


def selected(*line: str, groups: tuple[str, ...] = GROUPS) -> tuple[Selection, Given, str]:
    """What a verb gets that has these options, and what it was told."""
    found: list[Any] = []
    one_verb = typer.Typer()

    @one_verb.command()
    @opt.takes(*groups)
    def verb(raw: bool = False, system: str | None = None, *, given: Given) -> None:
        if "raw" in groups:
            rules.check_raw(given)
        found.extend((select(given), given))

    result = CliRunner().invoke(one_verb, list(line))
    if isinstance(result.exception, EftlocalError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return found[0], found[1], result.output


def name_of(selection: Selection) -> str:
    assert isinstance(selection.models, Preset)
    return selection.models.name


def effective(name: str, selection: Selection) -> Any:
    defaults = selection.defaults
    if name == "beta":
        return defaults.recipe.weights["base"]
    if name in LIMITS:
        return getattr(defaults.recipe, name)
    if name in SAMPLING:
        return getattr(defaults.sampling, name)
    if name == "speculative":
        return defaults.speculation.length
    return getattr(defaults, name)


VALUES = {  # of each level, from the command line down
    "temperature": (0.1, 0.2, 0.3, 0.4),
    "top_k": (1, 2, 3, 4),
    "seed": (1, 2, 3, 4),
    "delta_top_p": (0.1, 0.2, 0.3, 0.4),
    "first_tokens": (1, 2, 3, 4),
    "beta": (0.1, 0.2, 0.3, 0.4),
    "loop_guard": (16, 17, 18, 19),
    "speculative": (1, 2, 3, 4),
}
TABLES = {"temperature": "sampling", "top_k": "sampling", "seed": "sampling"}
TABLES |= {"loop_guard": "sampling", "speculative": "speculation"}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("levels", [*combinations(LEVELS, 2), LEVELS], ids="-".join)
def test_the_nearer_source_wins(
    name: str, levels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = dict(zip(LEVELS, VALUES[name], strict=True))
    key = "length" if name == "speculative" else name
    table = f"{TABLES.get(name, 'recipe')} = {{{key} = {value['preset']}}}"
    own_preset(table if "preset" in levels else "")
    if "file" in levels:
        write_settings(f"{name} = {value['file']}")
    if "environment" in levels:
        monkeypatch.setenv(SETTINGS[name].variable, str(value["environment"]))
    line = [SETTINGS[name].flag, str(value["line"])] if "line" in levels else []
    selection, _, _ = selected("--preset", "mine", *line)
    assert effective(name, selection) == value[levels[0]]


@pytest.mark.parametrize("name", ["temperature", "delta_top_p", "first_tokens", "seed"])
def test_off_is_a_value_at_every_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    off = {"temperature": 0.0}.get(name, getattr(SETTINGS[name].kind, "off", None))
    word = "0" if name == "temperature" else OFF
    table = TABLES.get(name, "recipe")
    own_preset(f"{table} = {{{name} = {VALUES[name][3]}}}")
    write_settings(f"{name} = {word if word == '0' else toml(word)}")
    assert effective(name, selected("--preset", "mine")[0]) == off
    write_settings(f"{name} = {VALUES[name][2]}")
    monkeypatch.setenv(SETTINGS[name].variable, word)
    assert effective(name, selected("--preset", "mine")[0]) == off
    monkeypatch.setenv(SETTINGS[name].variable, str(VALUES[name][1]))
    assert effective(name, selected("--preset", "mine", SETTINGS[name].flag, word)[0]) == off


def test_the_engines_settings_and_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    own_preset("")
    write_settings(
        'preset = "mine"\nthreads = 1\nn_ctx = 300\noffline = true\ngpu_layers = "auto"\n'
    )
    selection, _, _ = selected()
    assert (name_of(selection), selection.offline) == ("mine", True)
    assert selection.engine["threads"] == 1 and selection.engine["n_ctx"] == 300
    assert selection.engine["gpu_layers"] is None
    monkeypatch.setenv("EFTLOCAL_PRESET", "demo")
    monkeypatch.setenv("EFTLOCAL_OFFLINE", "no")
    monkeypatch.setenv("EFTLOCAL_N_CTX", "400")
    selection, _, _ = selected("--threads", "1")
    assert (name_of(selection), selection.offline) == ("demo", False)
    assert selection.engine["n_ctx"] == 400
    assert selected("--n-ctx", "500", "--preset", "mine")[0].engine["n_ctx"] == 500
    monkeypatch.setenv("EFTLOCAL_OFFLINE", " yes ")
    assert selected()[0].offline and not selected("--no-offline")[0].offline


@pytest.mark.parametrize(
    ("value", "text", "workers"),
    [
        ('["a:1", "b:2"]', "a:1,b:2", [("a:1", "b:2"), ("a:1", "b:2")]),
        ('{base = ["a:1", "b:2"], tuned = []}', "base=a:1,b:2,tuned=off", [("a:1", "b:2"), ()]),
        ('{plain = ["a:1"]}', "plain=a:1", [None, None]),
        ('"base=a:1,b:2"', "base=a:1,b:2", [("a:1", "b:2"), None]),
        ('"off"', "off", [(), ()]),
    ],
)
def test_workers_of_every_run(
    value: str, text: str, workers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*line: str) -> list[Any]:
        found = selected(*line)[0].engine["rpc"]
        return [for_role(found, role) for role in ("base", "tuned")]

    write_settings(f"rpc = {value}")
    assert read() == workers
    assert read("--rpc", "base=c:3") == [("c:3",), workers[1]]
    assert read("--rpc", "off") == [(), ()]
    write_settings("")
    monkeypatch.setenv("EFTLOCAL_RPC", text)
    assert read() == workers
    write_settings('rpc = ["box"]')
    monkeypatch.delenv("EFTLOCAL_RPC")
    with pytest.raises(UsageError, match=r"settings.toml: rpc\[0\] is 'box'; it must be host:port"):
        read()


def test_a_settings_file_with_every_key() -> None:
    write_settings(SAMPLE.read_text(encoding="utf-8"))
    with_a_value = {name for name, s in SETTINGS.items() if FILE in s.where}
    assert set(from_file()) == with_a_value - {"alpha", "lambda", "strength", "persona"}
    selection, given, told = selected()
    defaults = selection.defaults
    assert told == "" and name_of(selection) == "demo" and selection.offline
    assert str(defaults.recipe) == (
        "upscale: +0.5 base, +1 tuned, -0.5 reference, delta top-p 0.9, plausibility 0.1, "
        "first 300 tokens, where unsure below 0.8"
    )
    assert defaults.recipe.delta_clip == math.inf and defaults.sampling.top_p == 1.0
    assert (defaults.sampling.temperature, defaults.sampling.seed) == (0.3, 7)
    assert (given["max_tokens"], list(given["stop"]), defaults.loop_guard) == (60, ["###"], 256)
    speculation = defaults.speculation
    assert (speculation.length, speculation.rule, speculation.source) == (4, "rejection", "model")
    assert selection.engine["chat_template_kwargs"] == {"enable_thinking": False}
    assert selection.engine["system_in_user"] is True
    assert selection.engine["cache_type_v"] == {"base": "q8_0"}
    assert selection.engine["rope_scaling"] == {"base": "yarn"}  # the demo has no role "other"


# A default never makes a verb fail that did not ask for it ----------------------------------------

FILES = ("--base", "b.gguf", "--tuned", "t.gguf", "--reference", "r.gguf")
MIXED = """\
[[preset]]
name = "mixed"
recipe = {lambda = {warm = 0.5, plain = 0.5}}
[preset.roles.base]
file = "base.gguf"
[preset.roles.warm]
file = "warm.gguf"
kind = "tuned"
[preset.roles.plain]
file = "plain.gguf"
kind = "tuned"
[preset.roles.reference]
file = "reference.gguf"
"""


@pytest.mark.parametrize(
    ("file", "line", "recipe"),
    [
        ('preset = "mine"\noffline = true', FILES, "upscale: +1 base, +1 tuned, -1 reference"),
        ("beta = 0.5", ("--recipe", "proxy"), "proxy: +1 base, +1 tuned, -1 reference"),
        ("beta = 0.5", ("--alpha", "2"), "proxy: +1 base, +2 tuned, -2 reference"),
        ("beta = 0.5", ("--recipe", "upscale"), "upscale: +0.5 base, +1 tuned, -0.5 reference"),
        ("beta = 0.5", ("--recipe", "base"), "base: +1 base"),
        ("beta = 0.5", ("--recipe", "base=1"), "weights: +1 base"),
        ('persona = "Hi"', (), "persona: +1 base, +1 persona, -1 tuned, persona 'Hi'"),
        ('persona = "Hi"', ("--recipe", "persona", "--alpha", "2"), "persona: +1 base, +2 persona"),
        ('persona = "Hi"', ("--alpha", "2"), "proxy: +1 base, +2 tuned"),
        ("alpha = 0.5", ("--persona", "Hi"), "persona: +1 base, +0.5 persona"),
        ("alpha = -1", ("--recipe", "steer"), "steer: +1 base, -1 tuned, +1 reference"),
        ('recipe = "guidance"\nstrength = 1', (), "upscale: +1 base, +1 tuned, -1 reference"),
        (
            'recipe = "guidance"\nstrength = 1',
            ("--system", "Be kind."),
            "guidance: +2 tuned, -1 unguided",
        ),
        ("beta = 0.5", ("--preset", "mixed"), "interpolate: +1 base, +0.5 warm, +0.5 plain, -1 re"),
        ('recipe = "base=1,tuned=1"\nany_sum = true', ("--beta", "2"), "upscale: +2 base, +1 tune"),
        ("any_sum = true", ("--recipe", "base=1,tuned=1"), "weights: +1 base, +1 tuned"),
        ("any_sum = true", ("--beta", "2"), "upscale: +2 base, +1 tuned"),
        ("any_sum = true\nbeta = 2", (), "upscale: +2 base, +1 tuned"),
        ("system_in_user = true\nchat_template_kwargs = {a = 1}", ("--raw",), "upscale: +1 base"),
        ('draft_rule = "rejection"', ("--speculative", "off"), "upscale: +1 base"),
        ('speculative = "off"', ("--draft-rule", "rejection"), "upscale: +1 base"),
        ("beta = 0", ("--preset", "mixed"), "interpolate: +1 base"),
        ("beta = 2", ("--beta", "0"), "upscale: +1 tuned"),
        ("alpha = 0", ("--recipe", "upscale"), "upscale: +1 base"),
        ("alpha = 0", ("--recipe", "proxy"), "proxy: +1 base"),
        ('preset = "no such preset"', ("--preset", "demo"), "upscale: +1 base"),
        ("max_tokens = 5\nstop = ['x']", ("--max-tokens", "6"), "upscale: +1 base"),
    ],
)
def test_a_default_gives_way(file: str, line: tuple[str, ...], recipe: str) -> None:
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text(MIXED, encoding="utf-8")
    write_settings(file)
    assert str(selected(*line)[0].defaults.recipe).startswith(recipe)


def test_what_is_left_out_is_told() -> None:
    write_settings("beta = 0.5")
    _, _, told = selected("--recipe", "proxy")
    assert told == f"note: {settings_path()}: beta does not go with this recipe; left out\n"
    assert selected("--recipe", "upscale")[2] == ""


def test_the_environment_may_name_another_recipe_than_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_settings('recipe = "upscale"\nbeta = 0.5')
    monkeypatch.setenv("EFTLOCAL_ALPHA", "2")
    assert str(selected()[0].defaults.recipe).startswith("proxy: +1 base, +2 tuned")
    monkeypatch.setenv("EFTLOCAL_ALPHA", " ")
    monkeypatch.setenv("EFTLOCAL_BETA", "3")
    assert str(selected()[0].defaults.recipe).startswith("upscale: +3 base")


def test_a_verb_without_the_option_does_not_ask() -> None:
    write_settings("temperature = 0.3\nbeta = 2\nthreads = 1")
    selection, _, _ = selected(groups=("models", "prompt", "engine", "recipe", "length"))
    assert selection.defaults.sampling.temperature == 0.7
    for verb in (["inspect", "hi", "--max-tokens", "2"], ["models", "check", "demo"]):
        assert CliRunner().invoke(app, verb).exit_code == 0
    write_settings("temperature = 0.3\nmax_tokens = 5")
    own = ["inspect", "Hello", "--answer", "x", "--plain"]
    assert CliRunner().invoke(app, own).exit_code == 0


def test_a_grid_takes_the_users_dials_under_its_axes() -> None:
    write_settings('beta = 0.5\ntop_k = 3\ndraft_rule = "rejection"\nseed = 9')
    result = CliRunner().invoke(app, ["eval", "demo", "--dry-run", "--delta-clip", "1,off"])
    assert result.exit_code == 0, result.output
    assert "upscale: +0.5 base, +1 tuned, -0.5 reference, delta clip 1" in result.stdout
    result = CliRunner().invoke(app, ["eval", "demo", "--dry-run", "--beta", "0,2"])
    assert "upscale: +2 base" in result.stdout and "note:" not in result.output
    result = CliRunner().invoke(app, ["eval", "demo", "--dry-run", "--recipe", "upscale,proxy"])
    assert "recipe upscale  (upscale: +1 base" in result.stdout
    assert "beta does not go with the recipes of this grid; left out" in result.stderr


def test_a_seed_that_is_off_leaves_a_run_its_own(tmp_path: Path) -> None:
    own_preset("")
    (tmp_path / "in.jsonl").write_text('{"prompt": "In which country is Toulouse?"}\n')
    texts = {}
    for seed in ('"off"', "0", "3"):
        write_settings(f"seed = {seed}\nthreads = 1")
        out = tmp_path / f"{len(texts)}.jsonl"
        result = CliRunner().invoke(app, ["batch", str(tmp_path / "in.jsonl"), str(out), "--quiet"])
        assert result.exit_code == 0, result.output
        row = json.loads(out.read_text(encoding="utf-8"))
        texts[seed] = row["response"]["body"]["choices"][0]["eftlocal"]["seed"]
    assert texts['"off"'] == texts["0"] != texts["3"]


def test_the_python_api_reads_neither(
    demo_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from eftlocal import Emulator, load

    write_settings("temperature = 0.1\nn_ctx = 300")
    monkeypatch.setenv("EFTLOCAL_BETA", "3")
    with load("demo", threads=1) as emulator:
        assert emulator.defaults.sampling.temperature == 0.7
        assert emulator.defaults.recipe.weights["base"] == 1.0
        assert emulator.ensemble.n_ctx == 512
    with Emulator.from_files(**demo_files, threads=1) as emulator:
        assert emulator.defaults.recipe.weights["base"] == 1.0


# What is wrong is one line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("temprature = 1", 'unknown key "temprature"; did you mean "temperature"?'),
        ('base = "x.gguf"', "base can be given on the command line only"),
        ("n_batch = 0", "n_batch is 0; it must be a whole number, 1 or more"),
        (f"{'k' * 9999} = 1", f'unknown key "{"k" * 59}…"; known: '),
        ("speculative = true", "speculative is True; it must be a whole number from 1 to 16"),
        ("loop_guard = false", "loop_guard is False; it must be a whole number, 16 or more, or"),
        ("stop = ['']", "stop[0] is ''; it must be a string of 1 to 1000 characters"),
        ("chat_template_kwargs = {messages = 1}", "chat_template_kwargs: 'messages' is set by"),
        ("top_p = 2", "top_p is 2; it must be a number above 0 and at most 1, or off"),
        ('top_p = "0.5"', "top_p is '0.5'; it must be"),
        ("offline = 1", "offline is 1; it must be true or false"),
        ('stop = "x"', "stop is 'x'; it must be a list of at most 64 strings"),
        ("stop = ['a', 1]", "stop[1] is 1; it must be a string of 1 to 1000"),
        ('draft_rule = "luck"', "draft_rule is 'luck'; it must be coupled or rejection"),
        ('recipe = "upscal"', "recipe: unknown recipe 'upscal'; did you mean upscale?"),
        ('recipe = "proxy"\nbeta = 1', "recipe proxy has no beta; it takes alpha"),
        ("lambda = {tuned = 101}", "lambda[tuned] is 101; it must be a number from -100 to 100"),
        ("a = [", "Invalid value (at end of document)"),
        ("a = 1\na = 2", ""),
        ('models = "~nobody-here/x"', "models: '~nobody-here/x' begins with an unknown user"),
        ('models = "a\\u0000b"', "models is 'a\\x00b'; it must be the name of a file"),
        ("preset = 1", "preset is 1; it must be the name of a preset"),
    ],
)
def test_a_wrong_file(text: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(text)
    monkeypatch.delenv("EFTLOCAL_MODELS")
    for verb in (["run", "Hello"], ["models", "list"], ["eval", "demo"]):
        result = CliRunner().invoke(app, verb)
        if verb[0] == "models" and text.startswith(("recipe", "chat_template_kwargs")):
            continue  # they are not read there
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
        assert str(settings_path()) in result.stderr and says in result.stderr
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0
    assert CliRunner().invoke(app, ["run", "--help"]).exit_code == 0


def test_a_folder_in_the_files_place_and_a_file_in_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_path().mkdir(parents=True)
    result = CliRunner().invoke(app, ["run", "Hello"])
    assert result.exit_code == 2 and result.stderr.startswith(f"eftlocal: {settings_path()}")
    file = tmp_path / "mine.toml"
    file.write_text("threads = 1")
    monkeypatch.setenv("EFTLOCAL_CONFIG", str(file))
    result = CliRunner().invoke(app, ["run", "Hello"])
    assert (result.exit_code, result.stderr) == (
        2,
        f"eftlocal: {file} is a file; EFTLOCAL_CONFIG names the folder of yours\n",
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("EFTLOCAL_TOP_P", "2", "EFTLOCAL_TOP_P is 2; it must be a number above 0"),
        ("EFTLOCAL_TEMPERATURE", "hot", "EFTLOCAL_TEMPERATURE is 'hot'; it must be a number"),
        ("EFTLOCAL_OFFLINE", "maybe", "EFTLOCAL_OFFLINE is 'maybe'; it must be true or false"),
        (
            "EFTLOCAL_TEMPRATURE",
            "1",
            "EFTLOCAL_TEMPRATURE is no setting; did you mean EFTLOCAL_TEM",
        ),
        ("EFTLOCAL_PRESET", "dem", 'EFTLOCAL_PRESET: no preset "dem"; did you mean "demo"?'),
        ("EFTLOCAL_THREADS", "512", "EFTLOCAL_THREADS is 512; this machine has"),
        ("EFTLOCAL_CHAT_TEMPLATE_KWARGS", "{", "EFTLOCAL_CHAT_TEMPLATE_KWARGS is not JSON"),
        ("EFTLOCAL_CHAT_TEMPLATE_KWARGS", '{"messages": 1}', "EFTLOCAL_CHAT_TEMPLATE_KWARGS: 'm"),
        ("EFTLOCAL_RECIPE", "upscal", "EFTLOCAL_RECIPE: unknown recipe 'upscal'"),
        ("EFTLOCAL_TRUST", "1", "EFTLOCAL_TRUST: trust can be given on the command line only"),
        ("EFTLOCAL_SPECIAL", "1", "EFTLOCAL_SPECIAL: special can be given on the command line or"),
    ],
)
def test_a_wrong_variable(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["run", "Hello"])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"eftlocal: {says}")


def test_other_variables_of_ours_and_others_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("EFTLOCAL_CACHE", "EFTLOCAL_WHEELS", "EFTLOCAL_API_KEY", "EFTLOCAL_MY_CLUSTER"):
        monkeypatch.setenv(name, "x")
    assert from_environment().keys() == {"models"}  # the tests' own folder


# The whole program --------------------------------------------------------------------------------


def test_the_program_reads_both(tmp_path: Path) -> None:
    write_settings(f'temperature = 0\nthreads = 1\nmodels = "{tmp_path.as_posix()}/here"\n')
    env = {**os.environ, "EFTLOCAL_MAX_TOKENS": "3", "EFTLOCAL_MODELS": ""}
    call = [sys.executable, "-m", "eftlocal"]
    asked = [*call, "run", "In which country is Toulouse?", "--json", "--seed", "5"]
    done = subprocess.run(asked, env=env, capture_output=True, text=True, timeout=60, check=True)
    said = json.loads(done.stdout)
    assert (said["tokens"], said["finish_reason"], said["seed"]) == (3, "length", 5)
    assert said["sampling"]["temperature"] == 0.0
    told = subprocess.run(
        [*call, "doctor", "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = json.loads(told.stdout)["user_settings"]
    assert found["file"] == str(settings_path()) and found["there"] and found["fault"] is None
    file = str(settings_path())
    assert found["values"]["temperature"] == {"value": 0.0, "source": file, "over": []}
    assert found["values"]["max_tokens"]["source"] == "EFTLOCAL_MAX_TOKENS"
    assert found["values"]["threads"]["over"][0]["source"] == "preset demo"
    assert found["values"]["models"]["value"].endswith("/here")


def test_the_doctor_shows_who_won_and_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from eftlocal.cli.doctor import settings_in_use

    write_settings("temperature = 0.3\nbeta = 0.5\nstop = ['secret']")
    monkeypatch.setenv("EFTLOCAL_TEMPERATURE", "0.2")
    monkeypatch.setenv("EFTLOCAL_ALPHA", "2")
    values = settings_in_use()["values"]
    assert values["temperature"]["value"] == 0.2
    assert values["temperature"]["over"] == [{"value": 0.3, "source": str(settings_path())}]
    assert values["beta"]["source"] is None and values["alpha"]["source"] == "EFTLOCAL_ALPHA"
    from eftlocal.cli.report import _without_texts

    assert "secret" not in json.dumps(_without_texts(settings_in_use()))
    write_settings("tempratur = 0.3")
    found = settings_in_use()
    assert 'unknown key "tempratur"' in found["fault"] and found["values"] == {}


@pytest.mark.parametrize(
    ("file", "top", "said"),
    [
        ("stop = ['w']", 'stop = ["q"]', {"stop": ("q", "w")}),
        ("lambda = {warm = 0.5, plain = 0.5}", "recipe = {beta = 2}", {"lambda": None, "beta": 2}),
        ('recipe = "guidance"\nstrength = 1', "", {"recipe": "guidance", "strength": 1}),
        ('draft_rule = "rejection"\nspeculative = "off"', "", {"draft_rule": None}),
        ("any_sum = true\nbeta = 3", "", {"any_sum": None, "beta": 3}),
    ],
)
def test_the_doctor_says_what_a_run_does(file: str, top: str, said: dict[str, Any]) -> None:
    from eftlocal.cli.doctor import settings_in_use

    own_preset(top)
    write_settings(f'preset = "mine"\n{file}')
    values = settings_in_use()["values"]
    assert {name: values[name]["value"] for name in said} == said
    defaults = selected()[0].defaults
    if "beta" in said:
        assert defaults.recipe.weights["base"] == said["beta"]
    if "draft_rule" in said:
        assert defaults.speculation.rule == "coupled"


def test_a_request_is_read_under_the_users_defaults() -> None:
    write_settings("temperature = 0.3\ntop_k = 9")
    asked = RequestDefaults(selected()[0].defaults)
    request = read_request({"prompt": "x", "top_k": 2}, defaults=asked)
    assert request.sampling is not None
    assert (request.sampling.temperature, request.sampling.top_k) == (0.3, 2)
