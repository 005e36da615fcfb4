"""`eftlocal models add`, and files named as hf:owner/name/file.gguf, against a hub on localhost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hub_server import COMMIT, HubServer, isolate
from huggingface_hub import constants
from random_gguf import random_deltas, write_adapter
from typer.testing import CliRunner

from eftlocal import Emulator
from eftlocal.cli import models_add
from eftlocal.cli.app import app
from eftlocal.errors import DownloadError, ModelFileError, UsageError, VocabularyError
from eftlocal.presets.reading import find, load_presets, user_path
from eftlocal.presets.schema import FileRef, RoleFile
from eftlocal_tui.engine import DownloadNeededError
from eftlocal_tui.engine.wanted import Start, Wanted

ROLES = ("base", "tuned", "reference")
HUB = {role: f"hf:owner/models/{role}.gguf" for role in ROLES}
QUESTION = "In which country is Toulouse?"


@pytest.fixture
def server(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub that has the demo's files."""
    isolate(monkeypatch, tmp_path)
    files = {f"owner/models/{role}.gguf": path.read_bytes() for role, path in demo_files.items()}
    with HubServer(files) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address())
        yield running


def options(files: dict[str, Any]) -> list[str]:
    return [word for role, file in files.items() for word in (f"--{role}", str(file))]


def run(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(app, arguments, input=text)


def add(*arguments: str, text: str = "") -> Result:
    return run("models", "add", *arguments, text=text)


def refused(error: type[Exception], part: str, *arguments: str) -> None:
    result = add(*arguments)
    assert result.exit_code == getattr(error, "exit_code", None), result.output
    assert part in result.stderr


def test_three_paths_become_a_preset_that_answers(
    demo_files: dict[str, Path], tmp_path: Path
) -> None:
    user_path().parent.mkdir(parents=True)
    user_path().write_text("# mine, and kept\n", encoding="utf-8")
    result = add("mine", *options(demo_files))
    assert result.exit_code == 0, result.output
    assert "shared, 4096 tokens" in result.stdout
    assert "fits" in result.stdout
    assert "eftlocal chat --preset mine" in result.stdout
    assert user_path().read_text(encoding="utf-8").startswith("# mine, and kept\n")
    assert find("mine").roles["base"].file == str(demo_files["base"].absolute())
    answer = run("run", "--preset", "mine", QUESTION, "--temperature", "0", "--threads", "1")
    assert answer.exit_code == 0, answer.output
    assert "France" in answer.stdout


def test_a_pair_of_another_vocabulary_becomes_a_preset_that_says_so(
    cross_files: dict[str, Path],
) -> None:
    result = add("mine", *options(cross_files))
    assert result.exit_code == 0, result.output
    assert "base's, 4096 tokens" in result.stdout and "translated by" in result.stdout
    asked = ("--recipe", "proxy", "--max-tokens", "2", "--n-ctx", "128", "--threads", "1")
    answer = run("run", "--preset", "mine", QUESTION, *asked)
    assert answer.exit_code == 0, answer.output
    assert "tuned and reference have another vocabulary than base" in answer.stderr


def test_a_name_that_is_taken_needs_replace(demo_files: dict[str, Path]) -> None:
    files = options(demo_files)
    assert add("mine", *files).exit_code == 0
    refused(UsageError, "--replace replaces it; or give another name", "mine", *files)
    assert add("mine", *files, "--chat-template", "plain", "--replace").exit_code == 0
    assert find("mine").roles["tuned"].prompt == "plain"
    assert user_path().read_text(encoding="utf-8").count('name = "mine"') == 1
    refused(UsageError, '"demo" already; give another name', "demo", *files, "--replace")


def test_what_does_not_go_together_writes_nothing(
    demo_files: dict[str, Path], smollm2: Path
) -> None:
    other = {**demo_files, "tuned": smollm2}
    refused(VocabularyError, "do not share one vocabulary", "mine", *options(other))
    gone = {**demo_files, "base": "gone.gguf"}
    refused(ModelFileError, "gone.gguf: no such file", "mine", *options(gone))
    refused(UsageError, "models add: give --tuned and --reference", "mine", "--base", "x")
    refused(UsageError, "models add: give a name", *options(demo_files))
    assert not user_path().exists()


def test_a_download_is_told_where_nobody_sees_its_bar(server: HubServer) -> None:
    command = ["run", *options(HUB), QUESTION, "--max-tokens", "2", "--threads", "1", "--quiet"]
    first, again = run(*command), run(*command)
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    assert "downloading base.gguf, 5.71 MB\n" in first.stderr
    assert first.stderr.count("downloading") == 3
    assert "downloading" not in again.stderr and first.stdout == again.stdout


def test_files_of_the_hub_are_asked_about_fetched_and_pinned(server: HubServer) -> None:
    files = options(HUB)
    no = add("mine", *files, text="n\n")
    assert no.exit_code == 1
    assert "owner/models/base.gguf: 5.71 MB" in no.stderr
    assert "Download 6.75 MB?" in no.stderr
    assert "[y/N]: n\n" in no.stderr
    unasked = add("mine", *files)  # stdin is empty
    assert unasked.exit_code == UsageError.exit_code
    assert unasked.stderr == (
        "eftlocal: Download 6.75 MB (owner/models/base.gguf: 5.71 MB, owner/models/tuned.gguf: "
        "519 kB, owner/models/reference.gguf: 519 kB)? There is no terminal to ask on; "
        "--yes agrees\n"
    )
    assert server.bytes_sent() == 0
    assert not user_path().exists()
    result = add("mine", *files, text="y\n")
    assert result.exit_code == 0, result.output
    assert {ref.revision for ref in find("mine").files().values()} == {COMMIT}
    sent = server.bytes_sent()
    answer = run("run", "--preset", "mine", QUESTION, "--max-tokens", "2", "--threads", "1")
    assert answer.exit_code == 0, answer.output
    assert server.bytes_sent() == sent
    wrong = options({**HUB, "tuned": "hf:owner/models/tuner.gguf"})
    refused(DownloadError, "nearest of the 3 .gguf files there: tuned.gguf", "next", *wrong)


def test_an_adapter_takes_the_place_of_the_tuned_file(
    tiny_files: dict[str, Path], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "mine.gguf", random_deltas("tiny"))
    files = {role: tiny_files[role] for role in ("base", "reference")}
    put_on = ["--adapter", f"tuned={adapter}:0.5"]
    refused(UsageError, "models add: give --reference", "mine", *options(files)[:2], *put_on)
    result = add("mine", *options(files), *put_on)
    assert result.exit_code == 0, result.output
    tuned = find("mine").roles["tuned"]
    assert tuned.of == "reference"
    assert tuned.lora is not None
    assert (tuned.lora.file, tuned.lora.scale) == (str(adapter), 0.5)
    answer = run("run", "--preset", "mine", "word", "--max-tokens", "2", "--threads", "1")
    assert answer.exit_code == 0, answer.output


def test_run_takes_names_of_the_hub_wherever_paths_go(
    server: HubServer, demo_files: dict[str, Path]
) -> None:
    words = [QUESTION, "--max-tokens", "8", "--temperature", "0", "--threads", "1"]
    mixed = {**demo_files, "base": f"{HUB['base']}@main"}
    answers = {run("run", *options(files), *words).stdout for files in (demo_files, HUB, mixed)}
    assert len(answers) == 1
    assert answers.pop().strip()
    offline = run("run", *options({**HUB, "base": "hf:owner/models/x.gguf"}), "--offline", *words)
    assert offline.exit_code == DownloadError.exit_code
    assert "owner/models/x.gguf is not on this machine" in offline.stderr
    checked = run("models", "check", *options({**HUB, "base": "hf:owner/models/x.gguf"}))
    assert "x.gguf: is not on this machine; --pull downloads it" in checked.stderr
    assert run("models", "check", *options(HUB), "--pull").exit_code == 0


def test_python_takes_them_too(server: HubServer) -> None:
    with Emulator.from_files(**HUB, threads=1, trust=True) as emulator:
        assert emulator.generate(QUESTION, max_tokens=2).text
    assert server.count("HEAD") >= 3


def test_the_chat_asks_before_it_downloads_them(server: HubServer) -> None:
    wanted = Wanted.of(Start({role: Path(name) for role, name in HUB.items()}), None)
    assert wanted.name == "base.gguf, tuned.gguf, reference.gguf"
    with pytest.raises(DownloadNeededError):
        wanted.ask_first()
    assert set(wanted.fetched(lambda _: None).roles) == set(ROLES)
    wanted.ask_first()


def test_a_name_of_the_hub_is_read_as_its_parts() -> None:
    ref = FileRef.at("hf:owner/name/sub/file-00001-of-00002.gguf@refs/pr/1")
    assert (ref.repo, ref.file, ref.revision) == (
        "owner/name",
        "sub/file-00001-of-00002.gguf",
        "refs/pr/1",
    )
    assert FileRef.at(r"hf:owner\name\file.gguf") == FileRef(repo="owner/name", file="file.gguf")
    assert FileRef.at("hf").repo is None
    assert RoleFile(file="hf:owner/name/a.gguf", prompt="plain").repo == "owner/name"
    for wrong in ("hf:", "hf:owner", "hf:owner/name", "hf:owner/name/", "hf:o/../x.gguf",
                  "hf:owner/name/../x.gguf", "hf:owner/name/x.gguf@", "hf:-/-/x.part"):  # fmt: skip
        with pytest.raises(UsageError, match="hf:"):
            FileRef.at(wrong)


def test_a_preset_may_name_them(server: HubServer) -> None:
    user_path().parent.mkdir(parents=True)
    roles = "".join(f'[preset.roles.{role}]\nfile = "{name}"\n' for role, name in HUB.items())
    user_path().write_text(f'[[preset]]\nname = "short"\n{roles}', encoding="utf-8")
    assert load_presets()["short"].weights("base").repo == "owner/models"
    user_path().write_text(f'[[preset]]\nname = "short"\n{roles}repo = "a/b"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="says it all; leave repo out"):
        load_presets()


def test_on_a_terminal_it_asks_step_by_step(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_add, "_can_ask", lambda: True)
    monkeypatch.setattr(models_add, "look", lambda *_: (None, [], [], 0))
    typed = ["gone.gguf", *map(str, demo_files.values()), "demo", "mine"]
    result = add(text="\n".join([*typed, ""]))
    assert result.exit_code == 0, result.output
    assert "gone.gguf: no such file" in result.stderr
    assert '"demo" already; give another name' in result.stderr
    assert find("mine").roles["tuned"].file == str(demo_files["tuned"])


def test_on_a_terminal_it_proposes_what_find_finds(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_add, "_can_ask", lambda: True)
    monkeypatch.setattr("eftlocal.cli.models_find.places", list)
    folder = demo_files["base"].parent
    look = models_add.look
    monkeypatch.setattr(models_add, "look", lambda _, most: look([folder], most))
    result = add(text="9\n2\nmine\n")
    assert result.exit_code == 0, result.output
    assert "1. base steered by plain over reference" in result.stdout
    assert "give a number up to 3" in result.stderr
    assert find("mine").roles["tuned"].file == str(demo_files["tuned"])


def search(*arguments: str) -> Any:
    result = run("models", "search", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_search_tells_base_from_tuned_and_sizes(server: HubServer) -> None:
    server.files |= {
        "some/Qwen2.5-7B-GGUF/Qwen2.5-7B.Q4_K_M-00001-of-00002.gguf": b"x" * 3000,
        "some/Qwen2.5-7B-GGUF/Qwen2.5-7B.Q4_K_M-00002-of-00002.gguf": b"x" * 2000,
        "some/Qwen2.5-7B-GGUF/Qwen2.5-7B.Q2_K.gguf": b"x",
        "some/Qwen2.5-7B-GGUF/mmproj-q8_0.gguf": b"x",
        "Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q8_0.gguf": b"x" * 700,
        "gated/Qwen2.5-0.5B/only.gguf": b"x" * 600,
        "some/Qwen2.5-notes/README.md": b"x",
    }
    found = search("qwen2.5")["files"]
    assert [(row["kind"], row["file"], row["size"]) for row in found] == [
        ("base", "hf:some/Qwen2.5-7B-GGUF/Qwen2.5-7B.Q4_K_M-00001-of-00002.gguf", 5000),
        ("tuned", "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q8_0.gguf", 700),
        ("base", "hf:gated/Qwen2.5-0.5B/only.gguf", 600),
    ]
    assert [row["gated"] for row in found] == [False, False, True]
    assert len(search("qwen2.5", "--most", "1")["files"]) == 1
    none = run("models", "search", "llama-3.2-1b-instruct")  # of a preset, too, that is not there
    assert 'has no GGUF for "llama-3.2-1b-instruct"' in none.stdout
    assert "note: preset llama3.1-8b: bartowski/" in none.stderr


def test_search_tells_of_newer_revisions(server: HubServer) -> None:
    user_path().parent.mkdir(parents=True)
    roles = "".join(
        f'[preset.roles.{role}]\nrepo = "owner/models"\nfile = "{role}.gguf"\n'
        f'revision = "{COMMIT if role == "base" else "0" * 40}"\n'
        for role in ROLES
    )
    roles += f'sha256 = "{server.etag("owner/models/reference.gguf")}"\n'  # the file is the same
    user_path().write_text(f'[[preset]]\nname = "old"\n{roles}', encoding="utf-8")
    assert search("models")["newer"] == [
        {"preset": "old", "file": "owner/models/tuned.gguf", "pinned": "0" * 40, "now": COMMIT}
    ]
    assert (
        "is pinned to 0000000000, and the hub has c0ffee"
        in run("models", "search", "models").stdout
    )


@pytest.mark.parametrize(
    ("page", "part"),
    [
        (b"{}", "no list of repositories"),
        (b"[1", "not valid JSON"),
        (b'[{"id": "../../etc"}, {"id": 1}, 2, {}]', ""),
    ],
)
def test_a_search_that_the_hub_answers_wrongly_is_one_line(
    server: HubServer, page: bytes, part: str
) -> None:
    server.search = page
    result = run("models", "search", "x")
    if not part:
        assert "has no GGUF" in result.stdout
        return
    assert result.exit_code == DownloadError.exit_code
    assert len(result.stderr.splitlines()) == 1
    assert 'searching the hub for "x": ' in result.stderr
