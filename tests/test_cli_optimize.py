"""`eftlocal models optimize` as a user meets it; and what a slow preset says when it is loaded."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from random_gguf import random_deltas, write_adapter
from typer.testing import CliRunner

import eftlocal
from eftlocal import Sampling
from eftlocal.cli import models_optimize
from eftlocal.cli.models import models_app
from eftlocal.errors import DownloadError, InterruptedRunError, ModelFileError, UsageError
from eftlocal.gguf_file.check import checked_model
from eftlocal.llama.quantize import FILE_TYPES
from eftlocal.loading import loader
from eftlocal.loading.requantize import folder
from eftlocal.loading.weight_types import bits, main_type
from eftlocal.presets.reading import builtin_path, find, load_presets, user_path
from eftlocal.presets.schema import Preset
from eftlocal.presets.writing import add_preset, check_name
from eftlocal.speculation.costs import Costs, Curve
from eftlocal.study import miniature
from eftlocal.study.miniature import Shape

OWN = """\
# My presets. Do not touch.
[[preset]]
name = "mine"  # a trio
recipe = {{ name = "proxy", alpha = 1.0 }}
stop = ["\\u007f", "\\"end\\""]

[preset.roles.base]
file = '{base}'
n_ctx = 256

[preset.roles.tuned]
file = '{tuned}'
prompt = "plain"

[preset.roles.reference]
file = '{reference}'
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types cost what their bits are, and one of them less."""

    def curves(_shape: Shape, types: Iterable[str], **_: Any) -> dict[str, Curve]:
        costs = {type_: 1.0 if type_ == "MXFP4" else bits(type_) for type_ in types}
        return {type_: Curve({n: cost * n for n in (1, 2, 4, 8)}) for type_, cost in costs.items()}

    monkeypatch.setattr(models_optimize, "curves", curves)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def mine(tiny_files: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """A preset of the user's, its files in F16."""
    files = {r: Path(shutil.copy(path, tmp_path / f"{r}.gguf")) for r, path in tiny_files.items()}
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text(OWN.format(**files), encoding="utf-8")
    return files


def run(*arguments: str, text: str = "", verb: str = "optimize") -> Result:
    return CliRunner().invoke(models_app, [verb, *arguments], input=text)


def refused(error: type[Exception], match: str, *arguments: str, text: str = "") -> None:
    result = run(*arguments, text=text)
    assert isinstance(result.exception, error), result.output
    assert re.search(match, str(result.exception)), result.exception
    assert not [*folder().glob("*.gguf")]


def types_of(name: str) -> dict[str, str]:
    files = {role: find(name).weights(role).file for role in find(name).roles}
    return {role: main_type(checked_model(Path(file))) for role, file in files.items()}


def test_a_trio_becomes_the_users_preset_and_answers(mine: dict[str, Path]) -> None:
    before = {role: path.read_bytes() for role, path in mine.items()}
    result = run("mine", "--tokens", "20", text="y\n")
    assert result.exit_code == 0, result.exception
    for said in ("now (base: as it is", "chosen (base: MXFP4, tuned and reference: MXFP4)",
                 "times as many", "Write ", "against mine, on 20 tokens: the same first choice at",
                 "run it with `eftlocal run --preset mine-optimized"):  # fmt: skip
        assert said in result.output, said
    assert types_of("mine-optimized") == dict.fromkeys(mine, "MXFP4")
    assert {role: path.read_bytes() for role, path in mine.items()} == before
    assert user_path().read_text("utf-8").startswith(OWN.format(**mine))
    old, new = find("mine"), find("mine-optimized")
    assert new.settings() == old.settings()
    assert new.stop == ("\x7f", '"end"')
    assert new.roles["tuned"].prompt == "plain"
    with eftlocal.load("mine-optimized", threads=1) as emulator:
        assert emulator.generate("Hello", max_tokens=4, sampling=Sampling(0.0), raw=True).tokens


def test_as_json_with_the_types_that_are_asked_for(mine: dict[str, Path]) -> None:
    result = run("mine", "--to", "q4_0", "--role", "base=Q8_0", "--name", "quick.1", "-y", "--json",
                 "--tokens", "16")  # fmt: skip
    assert result.exit_code == 0, result.exception
    report = json.loads(result.stdout)
    assert report["preset"] == "quick.1"
    assert report["types"] == {"base": "Q8_0", "tuned and reference": "Q4_0"}
    assert report["tokens_per_second"] == {"now": None, "chosen": None}
    assert report["files"]["base"]["made_from"] == str(mine["base"])
    assert set(report["divergence"]) == {"tokens", "kl", "total_variation", "agreement"}
    assert 0.0 < report["divergence"]["kl"] < 0.5
    assert types_of("quick.1") == {"base": "Q8_0", "tuned": "Q4_0", "reference": "Q4_0"}


def test_one_role_asked_for_leaves_the_others_to_measuring(mine: dict[str, Path]) -> None:
    report = json.loads(run("mine", "--role", "tuned=Q8_0", "-y", "--json", "--tokens", "0").stdout)
    assert report["types"] == {"base": "MXFP4", "tuned and reference": "Q8_0"}
    speed = report["tokens_per_second"]
    assert speed["chosen"]["plain"] > speed["now"]["plain"]
    assert report["divergence"] is None


def test_no_is_nothing_done(mine: dict[str, Path]) -> None:
    text = user_path().read_bytes()
    result = run("mine", text="n\n")
    assert result.exit_code == 1
    assert user_path().read_bytes() == text
    assert not folder().exists()


def test_what_is_best_already_is_left_alone(mine: dict[str, Path]) -> None:
    assert run("mine", "--to", "MXFP4", "-y", "--tokens", "0").exception is None
    for more in ([], ["--to", "MXFP4"]):
        result = run("mine-optimized", *more)
        assert result.exit_code == 0
        assert "nothing to do: mine-optimized is in the best types already" in result.output
    assert "mine-optimized-optimized" not in load_presets()


def test_done_files_are_kept_and_a_name_is_replaced_only_on_demand(mine: dict[str, Path]) -> None:
    run("mine", "-y", "--tokens", "0")
    made = {path: path.stat().st_mtime_ns for path in folder().glob("*.gguf")}
    text = user_path().read_text("utf-8")
    result = run("mine", "-y", "--tokens", "0")
    assert isinstance(result.exception, UsageError)
    assert "--force replaces it; or give another name with --name" in str(result.exception)
    assert "is there" in run("mine", "--force", "--tokens", "0").output  # and nothing to ask
    assert user_path().read_text("utf-8") == text
    assert {path: path.stat().st_mtime_ns for path in folder().glob("*.gguf")} == made


def test_a_preset_that_a_person_wrote_is_never_replaced(mine: dict[str, Path]) -> None:
    for name in ("mine", "demo", "olmo2-7b"):
        refused(UsageError, f'"{name}" already; give another name',
                "demo-down", "--name", name, "--force", "-y")  # fmt: skip


def test_a_more_precise_file_is_the_source(mine: dict[str, Path], tmp_path: Path) -> None:
    """One beside the file of the same name, or the one that is given."""
    old = user_path().read_text("utf-8")
    base = tmp_path / "big-Q4_K_M.gguf"
    run("mine", "--to", "Q4_K", "-y", "--tokens", "0")
    shutil.copy(find("mine-optimized").weights("base").file, base)
    user_path().write_text(old.replace(str(mine["base"]), str(base)), encoding="utf-8")
    twice = run("mine", "--role", "base=Q4_0", "--role", "tuned=Q8_0", "-y", "--tokens", "0")
    assert "note: base: quantized from few bits a second time" in twice.output
    shutil.copy(mine["base"], tmp_path / "big-F16.gguf")
    again = ["mine", "--role", "base=Q4_0", "--role", "tuned=Q8_0", "-y", "--json", "--force"]
    report = json.loads(run(*again, "--tokens", "0").stdout)
    assert report["files"]["base"]["made_from"] == str(tmp_path / "big-F16.gguf")
    given = json.loads(run(*again, "--tokens", "0", "--source", f"base={mine['base']}").stdout)
    assert given["files"]["base"]["made_from"] == str(mine["base"])
    shutil.copy(find("mine-optimized").weights("base").file, tmp_path / "big-Q4_0.gguf")
    there = json.loads(run(*again, "--tokens", "0").stdout)  # such a file needs no work
    assert "base" not in there["files"]
    assert find("mine-optimized").weights("base").file == str(tmp_path / "big-Q4_0.gguf")


def test_an_adapter_stays_as_it_is(mine: dict[str, Path], tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora.gguf", random_deltas("tiny"))
    text = user_path().read_text("utf-8").replace(
        f"file = '{mine['tuned']}'", f"of = \"reference\"\nlora = {{ file = '{lora}' }}"
    )  # fmt: skip
    user_path().write_text(text, encoding="utf-8")
    result = run("mine", "--to", "Q4_0", "-y", "--tokens", "10")
    assert result.exit_code == 0, result.exception
    tuned = find("mine-optimized").roles["tuned"]
    assert tuned.of == "reference"
    assert tuned.lora is not None and tuned.lora.file == str(lora)
    assert len([*folder().glob("*.gguf")]) == 2


@pytest.mark.parametrize(
    ("says", "arguments"),
    [
        (r"--to: Q9_9 is no type .*BF16, F16, Q8_0", ["--to", "Q9_9"]),
        (r"--role: IQ1_S is no type", ["--role", "base=IQ1_S"]),
        (r"--role little=Q4_0: there is no role little; there are base, tuned, reference",
         ["--role", "little=Q4_0"]),
        (r"--role base: give a role and its value", ["--role", "base"]),
        (r"--role: base is given twice", ["--role", "base=Q4_0", "--role", "base=Q8_0"]),
        (r"tuned and reference take one type.*Q4_0 and Q8_0 were given",
         ["--role", "tuned=Q8_0", "--role", "reference=Q4_0"]),
        (r"--name mine is the preset itself", ["--name", "mine"]),
        (r'"a b" is no name for a preset', ["--name", "a b"]),
        (r"--source: base=.* |another model than base.gguf", ["--source", "base={smaller}"]),
        (r"--text .*: cannot be read", ["--text", "nothing.txt", "-y"]),
        (r"--threads", ["--threads", "500"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_work(
    says: str, arguments: list[str], demo_files: dict[str, Path]
) -> None:
    arguments = [word.format(smaller=demo_files["tuned"]) for word in arguments]
    refused(UsageError, says, "mine", *arguments)


def test_widths_that_a_type_does_not_divide_are_refused() -> None:
    refused(UsageError, "do not divide into blocks of Q4_K", "demo", "--to", "Q4_K", "-y")


def test_a_local_file_that_is_not_there_is_named(mine: dict[str, Path]) -> None:
    mine["tuned"].unlink()
    refused(ModelFileError, r"tuned.gguf: no such file; correct the path", "mine", "-y")


def test_a_presets_file_that_cannot_be_written_is_refused_before_any_work() -> None:
    user_path().unlink()
    user_path().mkdir()
    refused(UsageError, r"models.toml is a folder", "demo", "--to", "Q4_0", "-y")


def test_files_that_are_not_here_are_to_be_pulled_first() -> None:
    refused(DownloadError, r"3 of its files are not .*`eftlocal models pull olmo2-7b`", "olmo2-7b")


def test_a_file_that_is_no_model_is_named(mine: dict[str, Path]) -> None:
    mine["tuned"].write_bytes(b"GGUF")
    refused(ModelFileError, "tuned.gguf", "mine", "-y")


def test_too_little_disk_is_one_line_before_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(UsageError, "to write and only 1 kB free", "mine", "--to", "Q4_0")


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models_optimize, "write", interrupted)
    refused(InterruptedRunError, "files that are done are kept", "mine", "--to", "Q4_0", "-y")
    assert "mine-optimized" not in load_presets()


def test_ctrl_c_in_the_comparison_leaves_the_same_command_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(models_optimize, "divergence", interrupted)
        result = run("mine", "--to", "Q4_0", "-y", "--tokens", "10")
    assert isinstance(result.exception, InterruptedRunError)
    assert "mine-optimized" not in load_presets()
    assert run("mine", "--to", "Q4_0", "--tokens", "10").exception is None  # nothing to ask


def test_the_output_matrix_in_a_type_of_its_own(mine: dict[str, Path]) -> None:
    def output() -> str:
        tensors = checked_model(Path(find("mine-optimized").weights("base").file)).tensors
        return next(t.type.name for t in tensors if t.name == "token_embd.weight")  # tied

    run("mine", "--to", "Q4_0", "-y", "--tokens", "0")
    six_bits, made = output(), {*folder().glob("*.gguf")}
    result = run("mine", "--to", "Q4_0", "--output", "q4_0", "-y", "--force", "--tokens", "0")
    assert result.exception is None
    assert (six_bits, output()) == ("Q6_K", "Q4_0")
    assert len({*folder().glob("*.gguf")}) == 2 * len(made)
    again = run("mine-optimized", "--to", "Q4_0", "--output", "Q4_0")
    assert "nothing to do" in again.output
    measured = run("mine", "--output", "MXFP4", "-y", "--force", "--tokens", "0", "--json")
    assert json.loads(measured.stdout)["types"]["base"] == "MXFP4"
    assert output() == "MXFP4"


def test_more_bits_than_the_source_are_no_better(mine: dict[str, Path]) -> None:
    run("mine", "--to", "Q4_0", "-y", "--tokens", "0")
    result = run("mine-optimized", "--to", "Q8_0", text="n\n")
    assert "note: base and tuned and reference: made from fewer bits" in result.output
    assert "importance matrix" not in result.output
    assert "a second time" not in result.output


def test_types_are_really_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_optimize, "curves", miniature.curves)
    monkeypatch.setattr(miniature, "_MINIATURE", 1)
    result = run("mine", "--threads", "1", text="n\n")
    assert "now (base: as it is" in result.output, result.exception or result.output  # any may win
    for type_ in ("as it is", "Q8_0", "IQ4_NL", "Q4_0"):
        assert any(line.startswith(type_) for line in result.output.splitlines())


# Away with it -------------------------------------------------------------------------------------


def test_rm_takes_the_copies_and_the_preset(mine: dict[str, Path]) -> None:
    run("mine", "--to", "Q4_0", "-y", "--tokens", "0")
    run("mine", "--role", "base=Q4_0", "--role", "tuned=Q8_0", "-y", "--tokens", "0", "--name", "x")
    assert run("mine-optimized", verb="rm", text="n\n").exit_code == 1
    assert len([*folder().glob("*.gguf")]) == 5
    report = json.loads(run("mine-optimized", "-y", "--json", verb="rm").stdout)
    assert len(report["removed"]) == 2
    assert report["preset_removed"]
    assert [*report["kept"].values()] == ["also used by x"]  # the base
    result = run("x", verb="rm", text="y\n")
    assert "Remove these files and the preset x, " in result.output
    assert "removed the preset x and 3 files" in result.output
    assert not [*folder().iterdir()]
    assert user_path().read_text("utf-8").rstrip() == OWN.format(**mine).rstrip()
    kept = json.loads(run("mine", "-y", "--json", verb="rm").stdout)
    assert not kept["removed"]
    assert not kept["preset_removed"]
    assert all(path.exists() for path in mine.values())


# The user's file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", load_presets(builtin_path()))
def test_a_preset_that_is_written_is_read_again_as_it_was(name: str) -> None:
    preset = find(name)
    table = preset.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    add_preset({**table, "name": "again"}, "a copy")
    again = find("again")
    assert again.model_copy(update={"name": name}) == preset
    assert again.settings() == preset.settings()


def test_awkward_texts_survive() -> None:
    text = 'a "quoted" \\ back\nslash \x7f\x00\x1f \U0001f600 # no comment ]]'
    roles = {r: {"file": f"/{r}.gguf", "prompt": {"template": "{{ x }}" + text}} for r in
             ("base", "tuned", "reference")}  # fmt: skip
    table = {"name": "odd", "notes": text, "roles": roles, "stop": [text, "x"],
             "recipe": {"name": "proxy", "alpha": 1.5}}  # fmt: skip
    add_preset(table, "two\nlines")
    assert find("odd") == Preset.model_validate({**table, "stop": tuple(table["stop"])})


def test_a_file_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    before = user_path().read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eftlocal.disk.os.fsync", full)
    with pytest.raises(UsageError, match=r"cannot write .*models\.toml: No space left"):
        add_preset({"name": "x", "roles": {}}, "")
    assert user_path().read_bytes() == before
    check_name("x", replace=False)


# What a slow preset says --------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_SMALL", 0)
    monkeypatch.setattr("eftlocal.llama.engine.system_info", lambda: "AVX2 = 1 | REPACK = 1 |")


def notes(name: str) -> list[str]:
    with eftlocal.load(name, threads=1) as emulator:
        return [note for note in emulator.notes() if "slow" in note]


def test_a_preset_in_slow_types_says_so(slow: None, mine: dict[str, Path]) -> None:
    assert notes("mine") == [
        "base and tuned and reference in F16: slow on this CPU for several tokens at once, as "
        "drafts need; `eftlocal models optimize mine` writes faster files"
    ]
    run("mine", "--role", "base=Q8_0", "--role", "tuned=Q4_0", "-y", "--tokens", "0")
    assert [note[:20] for note in notes("mine-optimized")] == ["base in Q8_0: slow o"]
    assert notes("mine")[0].endswith(
        "the preset mine-optimized has faster files of the same models"
    )


def test_files_in_fast_types_say_nothing(slow: None) -> None:
    run("mine", "--to", "IQ4_NL", "-y", "--tokens", "0")
    assert notes("mine-optimized") == []


def test_files_that_are_no_preset_say_nothing(slow: None, mine: dict[str, Path]) -> None:
    with eftlocal.Emulator.from_files(**mine, n_ctx=64, threads=1) as emulator:
        assert not [note for note in emulator.notes() if "slow" in note]


def test_what_was_measured_of_the_preset_counts_more(slow: None) -> None:
    with eftlocal.load("mine", threads=1) as emulator:
        for cost, told in ((2.0, False), (3.0, True)):
            curve = Curve({1: 1.0, 4: cost})
            emulator.rounds.planner.use(Costs(dict.fromkeys(emulator.roles, curve)))
            assert any("slow" in note for note in emulator.notes()) == told


def test_the_demo_says_nothing() -> None:
    assert notes("demo") == []


def test_every_type_that_a_file_can_have_is_one_of_ggmls() -> None:
    assert all(bits(type_) > 4 for type_ in FILE_TYPES)
