"""`eftlocal models` as a user meets it: on a hub on localhost, with real little GGUF files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hub_server import HubServer, isolate
from huggingface_hub import constants
from typer.testing import CliRunner

from eftlocal import hub
from eftlocal.cli.models import models_app
from eftlocal.errors import (
    DoesNotFitError,
    DownloadError,
    ModelFileError,
    UsageError,
    VocabularyError,
)
from eftlocal.gguf_file import check
from eftlocal.llama import Model
from eftlocal.loading import loader, placement
from eftlocal.presets.reading import load_presets, user_path
from eftlocal.presets.schema import FileRef
from eftlocal.selftest import write_random_model

PRESET = """
[[preset]]
name = "{name}"
title = "A [bold]test[/bold] trio"
license = "MIT"
gated = true
[preset.roles.base]
repo = "owner/models"
file = "base.gguf"
evidence = "made by the test"
approx_size = 1000
[preset.roles.tuned]
repo = "owner/models"
file = "{tuned}"
approx_size = 1000
[preset.roles.reference]
repo = "owner/models"
file = "reference.gguf"
approx_size = 1000
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Three models of one vocabulary, and one of another."""
    folder = tmp_path_factory.mktemp("models")
    contents = {}
    for seed, role in enumerate(("base", "tuned", "reference")):
        write_random_model(folder / role, seed)
        contents[role] = (folder / role).read_bytes()
    contents["stranger"] = contents["tuned"].replace("\u2581w7".encode(), "\u2581x7".encode(), 1)
    return contents


@pytest.fixture
def server(
    models: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with HubServer({f"owner/models/{role}.gguf": data for role, data in models.items()}) as running:
        template = running.address() + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.address())
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        write_presets(PRESET.format(name="mine", tuned="tuned.gguf"))
        yield running


def write_presets(*texts: str) -> None:
    user_path().parent.mkdir(parents=True, exist_ok=True)
    user_path().write_text("\n".join(texts), encoding="utf-8")


def run(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(models_app, arguments, input=text)


def run_json(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def stored(name: str) -> Path:
    return hub.stored_path(FileRef(repo="owner/models", file=name))


def test_list_tells_what_is_here_and_what_it_costs(
    server: HubServer, models: dict[str, bytes]
) -> None:
    before = {row["name"]: row for row in run_json("list")}["mine"]
    assert before["size"] == 3000
    assert not before["downloaded"]
    assert before["roles"]["base"] == "owner/models/base.gguf"
    begun = Path(f"{stored('base.gguf')}.part")
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"GGUF")
    assert " part " in run("list").stdout
    run("pull", "mine")
    after = {row["name"]: row for row in run_json("list")}["mine"]
    assert after["downloaded"]
    assert after["size"] == sum(len(models[role]) for role in ("base", "tuned", "reference"))
    result = run("list")
    line = next(line for line in result.stdout.splitlines() if "mine" in line)
    assert [word for word in line.split("  ") if word.strip()][-1].strip() == "MIT (gated)"
    assert " yes " in line
    assert str(user_path()) in result.stdout.replace("\n", "")
    stored("tuned.gguf").unlink()
    assert " part " in run("list").stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_list_breaks_no_name_and_names_no_file(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    long_name = PRESET.format(name="a-name-of-thirty-two-characters", tuned="tuned.gguf")
    write_presets(long_name.replace('title = "A [bold]test[/bold] trio"', ""))
    result = run("list")
    table, _, place = result.stdout.rpartition("\n\n")
    assert place.startswith("Your own presets go into ")
    lines = table.splitlines()
    assert max(map(len, lines)) <= columns
    begun = {line.split()[0] for line in lines if not line.startswith(" ")}
    assert set(load_presets()) <= begun
    assert ".gguf" not in table
    assert " ".join(lines[-1].split()[1:4]) == "base + tuned"


def test_show_breaks_no_file_name(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for preset in load_presets().values():
        words = run("show", preset.name).stdout.split()
        for file in preset.files().values():
            assert file.repo is None or {file.repo, file.file} <= set(words)


@pytest.mark.parametrize("separator", ["\\n", "\\r", "\\u0085", "\\u2028"])
def test_no_text_of_a_preset_makes_a_line_of_its_own(
    server: HubServer, separator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = f"of the test{separator}SHA-256 {'0' * 64}, checked"
    text = user_path().read_text().replace("made by the test", lines)
    user_path().write_text(text.replace("test[/bold] trio", f"test{separator}other yes"))
    for command in (["show", "mine"], ["list"]):
        told = run(*command).stdout.split("\n")
        assert not [line for line in told if line.strip().startswith(("SHA-256 0", "other yes"))]


def test_show_takes_no_text_of_a_file_for_markup(server: HubServer) -> None:
    result = run("show", "mine")
    assert "A [bold]test[/bold] trio" in result.stdout
    assert "made by the test" in result.stdout
    shown = run_json("show", "mine")
    assert shown["roles"]["base"]["evidence"] == "made by the test"
    assert shown["files"]["base"]["downloaded"] is False


@pytest.mark.parametrize("command", ["show", "pull", "rm", "check"])
def test_an_unknown_preset(server: HubServer, command: str) -> None:
    result = run(command, "mime")
    assert isinstance(result.exception, UsageError)
    assert 'did you mean "mine"?' in str(result.exception)


def test_pull_fetches_what_is_missing(server: HubServer, models: dict[str, bytes]) -> None:
    result = run("pull", "mine")
    assert result.exit_code == 0
    assert str(stored("base.gguf")) in result.stdout.replace("\n", "")
    assert stored("tuned.gguf").read_bytes() == models["tuned"]
    server.requests.clear()
    pulled = run_json("pull", "mine")
    assert pulled["files"]["base"]["path"] == str(stored("base.gguf"))
    assert server.requests == []
    stored("tuned.gguf").unlink()
    run("pull", "mine")
    assert [Path(request.path).name for request in server.gets()] == ["tuned.gguf"]


def test_what_no_checksum_vouches_for_is_told_everywhere(
    server: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    result = run("pull", "mine")
    assert result.stdout.count(" checked ") == 3
    assert "not checked" not in result.stdout + caplog.text
    assert run("rm", "mine", "--yes").exit_code == 0
    server.lfs = False
    assert run("pull", "mine").stdout.count("not checked") == 3
    sha256 = hashlib.sha256(server.files["owner/models/base.gguf"]).hexdigest()
    assert "owner/models/base.gguf: is not checked: neither the hub nor" in caplog.text
    assert f"it is {sha256}" in caplog.text
    listed = run("list").stdout
    assert " yes* " in listed
    assert "* not checked against a checksum" in listed
    assert f"SHA-256 {sha256}, not checked" in run("show", "mine").stdout
    assert [row["checked"] for row in run_json("list") if row["name"] == "mine"] == [False]
    shown = run_json("show", "mine")["files"]["base"]
    assert (shown["checked"], shown["sha256"]) == (False, sha256)


def test_json_is_all_of_stdout_while_bars_go_to_stderr(server: HubServer) -> None:
    result = run("pull", "mine", "--json")
    assert json.loads(result.stdout)["name"] == "mine"
    assert "base.gguf" in result.stderr
    assert run("rm", "mine", "--yes").exit_code == 0
    server.files.clear()
    result = run("pull", "mine")  # never begins, and draws nothing
    assert isinstance(result.exception, DownloadError)
    assert result.stdout == result.stderr == ""
    server.requests.clear()
    text = PRESET.format(name="mine", tuned="tuned.gguf")
    write_presets(text.replace('repo = "owner/models"\nfile = "base.gguf"', 'file = "b.gguf"'))
    assert isinstance(run("pull", "mine").exception, ModelFileError)
    assert server.requests == []


def test_rm_asks_first(server: HubServer) -> None:
    run("pull", "mine")
    result = run("rm", "mine", text="n\n")
    assert result.exit_code == 1
    assert "Remove these files" in result.stderr
    unasked = run("rm", "mine", text="")
    assert isinstance(unasked.exception, UsageError)
    assert "models/base.gguf" in str(unasked.exception)
    assert "--yes agrees" in str(unasked.exception) and unasked.stderr == ""
    assert stored("base.gguf").exists()
    result = run("rm", "mine", text="y\n")
    assert result.exit_code == 0
    assert not stored("base.gguf").exists()


def test_rm_leaves_what_another_preset_uses(server: HubServer) -> None:
    other = PRESET.format(name="other", tuned="stranger.gguf")
    write_presets(PRESET.format(name="mine", tuned="tuned.gguf"), other)
    run("pull", "mine")
    run("pull", "other")
    removed = run_json("rm", "mine", "--yes")
    assert removed["removed"] == ["owner/models/tuned.gguf"]
    assert removed["kept"]["owner/models/base.gguf"] == "also used by other"
    assert removed["freed"] > 0
    assert stored("base.gguf").exists()
    assert not stored("tuned.gguf").exists()
    assert "removed 0 files" in run("rm", "mine", "--yes").stdout


def test_rm_leaves_the_hubs_own_cache_alone(
    server: HubServer, models: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "hf" / "models--owner--models"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    cached = folder / "snapshots" / "abc" / "base.gguf"
    cached.write_bytes(models["base"])
    removed = run_json("rm", "mine", "--yes")
    assert str(cached) in removed["kept"]["owner/models/base.gguf"]
    assert cached.exists()


def test_check_reports_one_vocabulary_and_the_memory(
    server: HubServer, models: dict[str, bytes]
) -> None:
    checked = run_json("check", "mine", "--pull", "--n-ctx", "64")
    assert checked["vocabulary"]["ok"]
    assert checked["vocabulary"]["size"] == 512
    assert checked["vocabulary"]["end_tokens"]["tuned"] == [2]
    memory = checked["memory"]
    assert memory["fits"]
    assert memory["roles"]["base"]["n_ctx"] == 64
    assert (
        memory["host_needed"]
        + sum(sum(need["devices"].values()) for need in memory["roles"].values())
        > sum(len(models[role]) for role in ("base", "tuned", "reference")) * 0.9
    )
    text = run("check", "mine").stdout
    assert "shared, 512 tokens" in text
    assert text.rstrip().endswith(": fits")


def test_check_of_models_that_do_not_fit(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", "mine")
    monkeypatch.setattr(loader, "host_memory_free", lambda: 1 << 20)
    monkeypatch.setattr(loader.llama, "devices", list)
    result = run("check", "mine")
    assert isinstance(result.exception, DoesNotFitError)
    assert "does not fit" in result.stdout
    assert placement.gib(1 << 20) in str(result.exception)


def test_check_of_strangers(server: HubServer) -> None:
    text = PRESET.format(name="mine", tuned="stranger.gguf")
    write_presets(text)
    result = run("check", "mine", "--pull")
    assert isinstance(result.exception, VocabularyError)
    assert "x7" in result.stdout
    report = run("check", "mine", "--json")
    assert isinstance(report.exception, VocabularyError)
    assert json.loads(report.stdout)["vocabulary"]["ok"] is False
    # A preset may let one token differ.
    write_presets(text.replace("gated = true", f"vocabulary_exceptions = [{3 + 256 + 7}]"))
    assert run_json("check", "mine")["vocabulary"]["ok"]


def test_check_of_two_vocabularies_says_what_is_translated(
    cross_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    files = [word for role, file in cross_files.items() for word in (f"--{role}", str(file))]
    found = run_json("check", *files)["vocabulary"]
    assert found["ok"] and found["size"] == 4096 and list(found["widths"]) == ["base"]
    assert found["translated"]["tuned"] == found["translated"]["reference"]
    own = found["translated"]["tuned"]
    assert (own["method"], own["size"]) == ("candidates", 1024)
    with Model(cross_files["base"], vocab_only=True) as base:
        pieces = base.text_pieces(4096)
    with Model(cross_files["tuned"], vocab_only=True) as small:
        texts = set(small.text_pieces(1024).values())
    assert own["twins"] == sum(piece in texts for piece in pieces.values())
    assert own["twins"] + own["begun"] + own["missing"] == 4095  # and the end, which is an end
    two = ("check", *files)
    text = run(*two).stdout
    assert "base's, 4096 tokens" in text and "shared" not in text
    assert f"translated by candidates: {own['twins'] / 4096:.1%} of base's tokens" in text
    assert not any("tuned reference" in line for line in text.splitlines())  # a line for each
    method = ("--translation", "text")
    by_text = run_json("check", *files, *method)["vocabulary"]["translated"]["tuned"]
    assert (by_text["method"], by_text["begun"]) == ("text", 0)
    assert by_text["missing"] == 4095 - own["twins"]
    shown = ", ".join(map(repr, by_text["missing_first"]))
    assert f"{by_text['missing']:,} are left to base: {shown}, ..." in run(*two, *method).stdout


def test_check_of_a_recurrent_model_of_another_vocabulary(
    cross_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "cannot_rewind", "is recurrent", raising=True)
    files = [word for role, file in cross_files.items() for word in (f"--{role}", str(file))]
    error = run("check", *files, "--trust").exception
    assert isinstance(error, UsageError)
    assert "tuned has another vocabulary" in str(error) and str(error).endswith("is recurrent")


def test_check_without_the_files_asks_the_hub(server: HubServer, models: dict[str, bytes]) -> None:
    result = run("check", "mine", "--json")
    assert isinstance(result.exception, DownloadError)
    assert "`eftlocal models check mine --pull`" in str(result.exception)
    report = json.loads(result.stdout)
    assert report["complete"] is False
    assert report["files"]["base"]["hub"] == "found"
    assert report["files"]["base"]["size"] == len(models["base"])
    assert server.gets() == []


def test_check_finds_every_wrong_name_at_once(server: HubServer) -> None:
    write_presets(PRESET.format(name="mine", tuned="Tuned-Q8.gguf"))
    del server.files["owner/models/base.gguf"]
    result = run("check", "mine")
    assert isinstance(result.exception, DownloadError)
    assert "found" in result.stdout.split()
    report = json.loads(run("check", "mine", "--json").stdout)["files"]
    assert "nearest of the 3 .gguf files there: tuned.gguf" in report["tuned"]["hub"]
    assert "no such file" in report["base"]["hub"]


def test_check_of_files(
    server: HubServer, models: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role, content in models.items():
        (tmp_path / f"{role}.gguf").write_bytes(content)
    paths = {role: str(tmp_path / f"{role}.gguf") for role in models}
    good = ["--base", paths["base"], "--tuned", paths["tuned"], "--reference", paths["reference"]]
    read: list[Path] = []
    once = check.read_header
    monkeypatch.setattr(
        check, "read_header", lambda path, *known: (read.append(path), once(path, *known))[1]
    )
    found = run_json("check", *good)["vocabulary"]
    assert sorted(map(str, read)) == sorted(paths[role] for role in ("base", "reference", "tuned"))
    assert found["widths"] == {"base": 512, "tuned": 512, "reference": 512}
    (note,) = (note for note in found["notes"] if "template" in note)
    assert (
        note.startswith("tuned: its model file has no chat template")
        and "--chat-template tuned=" in note
    )
    two = ("check", "--base", paths["base"], "--tuned", paths["stranger"])
    wrong = run(*two, "--translation", "off")
    assert isinstance(wrong.exception, VocabularyError)
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(models["base"][:1000])
    assert isinstance(run("check", "--base", str(torn)).exception, ModelFileError)


@pytest.mark.parametrize("arguments", [[], ["mine", "--base", "x.gguf"]])
def test_check_wants_a_preset_or_files(server: HubServer, arguments: list[str]) -> None:
    assert isinstance(run("check", *arguments).exception, UsageError)


def test_the_models_of_the_tests_differ_only_where_they_should(models: dict[str, bytes]) -> None:
    digests = {hashlib.sha256(content).hexdigest() for content in models.values()}
    assert len(digests) == len(models)
    assert len(models["stranger"]) == len(models["tuned"])
