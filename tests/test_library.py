"""Finding models that other programs put on this machine, and trios of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from gguf_files import WORDS, write_model
from huggingface_hub import constants
from typer.testing import CliRunner

from eftlocal.cli.app import app
from eftlocal.gguf_file import parser
from eftlocal.gguf_file.header import read_header
from eftlocal.gguf_file.parser import Arrays
from eftlocal.library.guess import BASE, TUNED, Sure, guesses, words
from eftlocal.library.inventory import Inventory, Model, take
from eftlocal.library.places import Place, places
from eftlocal.library.trios import _by_identity, _possible
from eftlocal.loading import loader
from eftlocal.loading.roles import file_sources
from eftlocal.logits.recipe import TRIO

TEMPLATE = {"tokenizer.chat_template": "{{ messages[0].content }}"}
COMMIT = "c0ffee" * 6 + "c0ff"


def model(
    path: Path, name: str, family: str, *, large: bool = False, more: Mapping[str, Any] = {}
) -> Path:
    """A model of a family, which has a vocabulary of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = [*WORDS, *(f"{family}{i}" for i in range(32))]
    sizes = {"n_embd": 64, "n_ff": 256} if large else {}
    return write_model(
        path, tokens=tokens, merges=["w o"], more={"general.name": name, **more}, **sizes
    )


def in_hub_cache(hub: Path, repo: str, file: str, *args: Any, **more: Any) -> Path:
    """A model as huggingface_hub keeps it: a blob, and links to it in two revisions."""
    top = hub / f"models--{repo.replace('/', '--')}"
    blob = model(top / "blobs" / ("ab" * 32 + file[:4]), *args, **more)
    for revision in (COMMIT, "0" * 40):
        link = top / "snapshots" / revision / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return top


def in_ollama(top: Path, tag: str, digit: str, *args: Any, **more: Any) -> Path:
    """A model as Ollama keeps it: a manifest, and a blob without a name."""
    name, _, tag = tag.partition(":")
    blob = model(top / "blobs" / f"sha256-{digit * 64}", *args, **more)
    manifest = top / "manifests" / "registry.ollama.ai" / "library" / name / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'9' * 64}"},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digit * 64}"},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
    return blob


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder with what six programs keep there."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "LLAMA_CACHE", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    cache = home / ".cache"
    hub = cache / "huggingface" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))

    # Qwen2.5: the bases have a chat template too, and no word says that they are bases.
    qwen = {"family": "qwen", "more": TEMPLATE}
    of = {"general.base_model.0.name": "Qwen2.5 0.5B", "general.finetune": "Instruct"}
    in_hub_cache(hub, "bartowski/Qwen2.5-7B-GGUF", "Qwen2.5-7B-Q4_K_M.gguf", "Qwen2.5 7B",
                 large=True, **qwen)  # fmt: skip
    tuned = in_hub_cache(
        hub, "Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q8_0.gguf",
        "Qwen2.5 0.5B Instruct", "qwen", more={**TEMPLATE, **of})  # fmt: skip
    (tuned / "blobs" / "abc.incomplete").write_bytes(b"GGUF")
    in_hub_cache(hub, "openai/whisper", "readme.gguf.md", "no model", "qwen")
    model(cache / "llama.cpp" / "mradermacher_Qwen2.5-0.5B-GGUF_Qwen2.5-0.5B.Q8_0.gguf",
          "Qwen2.5 0.5B", **qwen)  # fmt: skip

    # Llama 3: a large base in LM Studio, small ones in Ollama, where only manifests have names.
    studio = home / ".lmstudio" / "models"
    base = studio / "someone" / "Meta-Llama-3.1-8B-GGUF" / "Meta-Llama-3.1-8B.Q4_K_M.gguf"
    model(base, "Meta Llama 3.1 8B", "llama", large=True)
    model(base.with_name("mmproj-model-f16.gguf"), "projector", "llama")
    again = home / "models" / "renamed.gguf"
    again.parent.mkdir()
    again.hardlink_to(base)
    ollama = home / ".ollama" / "models"
    in_ollama(ollama, "llama3.2:1b", "1", "Llama 3.2 1B Instruct", "llama", more=TEMPLATE)
    in_ollama(ollama, "llama3.2:1b-base-q8_0", "2", "Llama 3.2 1B", "llama")
    in_ollama(ollama, "lost:latest", "3", "lost", "llama").unlink()
    (ollama / "blobs" / f"sha256-{'4' * 64}-partial").write_bytes(b"GGUF")

    # Gemma 3 in GPT4All, with what is no language model, and with files that are broken.
    gpt4all = home / ".local" / "share" / "nomic.ai" / "GPT4All"
    model(gpt4all / "gemma-3-4b-pt.Q4_0.gguf", "Gemma 3 4b Pt", "gemma", large=True)
    model(gpt4all / "gemma-3-1b-pt-Q8_0.gguf", "Gemma 3 1b Pt", "gemma")
    model(gpt4all / "gemma-3-1b-it-Q8_0.gguf", "Gemma 3 1b It", "gemma", more=TEMPLATE)
    model(gpt4all / "embeddinggemma-300M.gguf", "Embeddinggemma", "gemma")
    model(gpt4all / "qwen3-e.gguf", "e", "gemma", more={"llama.pooling_type": 3})
    model(gpt4all / "persona.gguf", "Persona", "gemma", more={"general.type": "adapter"})
    (gpt4all / "incomplete-Phi-3.gguf").write_bytes(b"GGUF")
    (gpt4all / "page.gguf").write_text("<!doctype html><title>Sign in</title>")
    whole = (gpt4all / "gemma-3-1b-pt-Q8_0.gguf").read_bytes()
    (gpt4all / "torn.gguf").write_bytes(whole[: len(whole) // 2])
    (gpt4all / "big-00002-of-00003.gguf").write_bytes(whole)

    # Two that nobody can tell apart: one vocabulary and shape, names that say nothing.
    model(home / "models" / "alpha.gguf", "alpha", "odd", more=TEMPLATE)
    model(home / "models" / "beta.gguf", "beta", "odd")
    model(home / "models" / "gamma.gguf", "gamma", "odd", large=True)
    return home


def find(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", "find", *arguments])


def find_json(*arguments: str) -> Any:
    result = find(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_find_proposes_the_right_trios_of_every_program(home: Path) -> None:
    report = find_json(str(home / "models"))
    names = {entry["path"]: entry["name"] for entry in report["models"]}
    proposed = [
        (tuple(names[trio[role]] for role in ("base", "tuned", "reference")), trio["sure"])
        for trio in report["trios"]
    ]
    assert dict(proposed) == {
        ("gemma-3-4b-pt", "gemma-3-1b-it", "gemma-3-1b-pt"): "sure",
        ("Meta-Llama-3.1-8B", "llama3.2:1b", "llama3.2:1b-base-q8_0"): "likely",
        (
            "Qwen2.5-7B",
            "qwen2.5-0.5b-instruct",
            "mradermacher_Qwen2.5-0.5B-GGUF_Qwen2.5-0.5B",
        ): "likely",
        ("gamma", "alpha", "beta"): "unsure",
    }
    assert [sure for _, sure in proposed] == ["sure", "likely", "likely", "unsure"]
    assert all(trio["fits"] for trio in report["trios"])
    sure = {entry["name"]: entry["kind"] for entry in report["models"] if entry["sure"] == "sure"}
    assert sure == {
        "gemma-3-4b-pt": BASE,
        "gemma-3-1b-pt": BASE,
        "gemma-3-1b-it": TUNED,
        "qwen2.5-0.5b-instruct": TUNED,
        "llama3.2:1b": TUNED,
        "llama3.2:1b-base-q8_0": BASE,
    }


def test_each_file_is_counted_once_and_what_is_no_model_is_told(home: Path) -> None:
    report = find_json(str(home / "models"), str(home))
    assert len(report["models"]) == 12
    assert report["left_out"] == {
        "LoRA adapter": 1,
        "embedding model": 2,
        "unfinished download": 3,
        "vision projector (mmproj)": 1,
    }
    told = "\n".join(report["broken"])
    assert len(report["broken"]) == 4
    for part in ("page.gguf: is a saved web page", "torn.gguf: is cut short",
                 f"sha256-{'3' * 64}: no such file", "big-00002-of-00003.gguf: "):  # fmt: skip
        assert part in told


@pytest.mark.parametrize("columns", [80, 200])
def test_a_models_name_is_whole(home: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    name = "A-Model-8B-Instruct-abliterated-and-long-enough-for-a-line"
    model(home / "models" / f"{name}.gguf", name, "odd", more=TEMPLATE)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = find(str(home / "models")).stdout.splitlines()
    row = next(at for at, line in enumerate(lines) if name in line)
    is_table = lines[0].startswith("vocabulary")
    assert is_table is (columns == 200)
    if not is_table:
        assert lines[row] == name
        assert " is tuned" in lines[row + 1]


def test_the_lines_say_what_is_doubtful_and_give_commands_that_run(home: Path) -> None:
    result = find(str(home / "models"))
    assert result.exit_code == 0, result.exception
    lines = result.stdout.splitlines()
    assert "left out: 1 LoRA adapter, 2 embedding models, 3 unfinished downloads, " in result.stdout
    doubtful = lines.index("4. gamma steered by alpha over beta")
    assert lines[doubtful + 1].endswith("free: fits; doubtful")
    assert any("is not said anywhere" in line for line in lines[doubtful:])
    commands = [line.split(": ", 1)[1].strip() for line in lines if line.startswith("  save it")]
    assert commands[3] == "eftlocal models add mine " + " ".join(
        f"--{role} {home / 'models' / name}.gguf"
        for role, name in {"base": "gamma", "tuned": "alpha", "reference": "beta"}.items()
    )


def test_the_memory_is_that_of_loading_them(home: Path) -> None:
    """With the context that these models were trained for, which is a short one."""
    trio = find_json()["trios"][0]
    sources = file_sources({role: Path(trio[role]) for role in TRIO})
    assert trio["needed"] == loader.prepare(sources, trust=True).plan.needed


def test_what_does_not_fit_comes_last_with_the_numbers(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "host_memory_free", lambda: 1 << 20)
    report = find_json()
    assert report["trios"]
    assert not any(trio["fits"] for trio in report["trios"])
    assert " needed, 1 MiB free: does not fit" in find().stdout


def test_a_base_without_a_pair_of_its_vocabulary_is_proposed_with_others(
    tmp_path: Path, home: Path
) -> None:
    for large, folder in ((True, tmp_path / "a"), (False, tmp_path / "b")):
        model(folder / "Phi-4-Base.gguf", "Phi 4 Base", "phi", large=large)
    report = find_json(str(tmp_path / "a"), "--most", "9")
    names = {entry["path"]: entry["name"] for entry in report["models"]}
    trios = report["trios"]
    one, two = ([t for t in trios if t["translated"] is which] for which in (False, True))
    assert trios == one + two and len(one) == 3
    assert [names[trio["base"]] for trio in two] == ["Phi-4-Base"] * 2  # and three pairs are there
    assert [trio["sure"] for trio in two] == ["sure", "sure"]
    assert report["possible"] == 5
    lines = find(str(tmp_path / "a"), "--most", "9").stdout
    assert lines.count("translated: the pair's vocabulary has 96 tokens, base's has 96") == 2
    assert not any(t["translated"] for t in find_json(str(tmp_path / "b"))["trios"])  # too small


def test_no_pair_that_cannot_take_tokens_back_is_translated() -> None:
    names = ("Rwkv-1B-Base", False), ("Rwkv-1B-Instruct", True), ("Phi-4-Base", False)
    known = of_names(*names).models
    shapes = (("rwkv7",), ("rwkv7",), ("phi",))
    models = [
        replace(m, vocabulary=i // 2, parameters=10 ** (i // 2), shape=shape)
        for i, (m, shape) in enumerate(zip(known, shapes, strict=True))
    ]
    assert [*_possible(_by_identity(guesses(models)))] == []
    others = [replace(m, shape=m.shape[0].replace("rwkv7", "llama").split()) for m in models]
    (found,) = _possible(_by_identity(guesses([replace(m, shape=tuple(m.shape)) for m in others])))
    assert found.is_translated and found.base.model.path == models[2].path


def test_no_trio_says_what_one_takes(tmp_path: Path, home: Path) -> None:
    for folder in (".cache", ".lmstudio", ".ollama", ".local", "models"):
        (home / folder).rename(tmp_path / folder)
    assert "no language models found" in find().stdout
    (tmp_path / "one").mkdir()
    model(tmp_path / "one" / "a.gguf", "a", "a")
    assert "no trio: it takes a tuned model" in find(str(tmp_path / "one")).stdout
    refused = find(str(tmp_path / "none"))
    assert refused.exit_code == 2
    assert "none: no such folder" in refused.stderr


def test_places_follow_the_system_and_the_environment(tmp_path: Path) -> None:
    def of(system: str, **environment: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for place in places(tmp_path, environment, system):
            if place.folder.is_relative_to(tmp_path) and place.program not in ("eftlocal",):
                inside = place.folder.relative_to(tmp_path).as_posix()
                found.setdefault(place.program, []).append(inside)
        return found

    assert of("linux")["llama.cpp"] == [".cache/llama.cpp"]
    assert of("linux")["GPT4All"][0] == ".local/share/nomic.ai/GPT4All"
    assert of("darwin")["llama.cpp"] == ["Library/Caches/llama.cpp"]
    assert of("darwin")["GPT4All"][0] == "Library/Application Support/nomic.ai/GPT4All"
    local = str(tmp_path / "Local")
    assert of("win32", LOCALAPPDATA=local)["llama.cpp"] == ["Local/llama.cpp"]
    assert of("win32")["GPT4All"][0] == "AppData/Local/nomic.ai/GPT4All"
    moved = of("linux", OLLAMA_MODELS=f"{tmp_path}/o", LLAMA_CACHE=f"{tmp_path}/l",
               XDG_DATA_HOME=f"{tmp_path}/d")  # fmt: skip
    assert moved["Ollama"] == ["o"]
    assert moved["llama.cpp"] == ["l"]
    assert moved["GPT4All"][0] == "d/nomic.ai/GPT4All"
    (tmp_path / ".lmstudio-home-pointer").write_text(str(tmp_path / "studio") + "\n")
    (tmp_path / "studio").mkdir()
    elsewhere = json.dumps({"downloadsFolder": str(tmp_path / "big disk")})
    (tmp_path / "studio" / "settings.json").write_text(elsewhere)
    assert of("linux")["LM Studio"][:2] == ["big disk", "studio/models"]


def test_a_split_model_is_one_and_links_do_not_lead_in_circles(tmp_path: Path) -> None:
    part = model(tmp_path / "a" / "big-00001-of-00002.gguf", "big", "x")
    model(tmp_path / "a" / "big-00002-of-00002.gguf", "big", "x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    found = take([Place("", tmp_path), Place("", tmp_path / "a")])
    assert [entry.path for entry in found.models] == [part]


@pytest.mark.parametrize("first", [1 << 20, 1024])  # bytes read at first: all, and some
def test_arrays_of_files_read_before_change_nothing(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "_FIRST_OF_MANY", first)
    words = [f"w{i}" for i in range(1500)]
    names = {"a": words, "b": words, "c": [*words[:-1], "other"], "d": [*words, "more"]}
    files = [write_model(tmp_path / n, tokens=t, merges=["w 1"]) for n, t in names.items()]
    known: Arrays = {}
    read = [read_header(file, known).metadata["tokenizer.ggml.tokens"] for file in files]
    assert read[0] is read[1]
    for tokens, file in zip(read, files, strict=True):
        alone = read_header(file).metadata["tokenizer.ggml.tokens"]
        assert tokens.to_bytes() == alone.to_bytes()


def of_names(*names: tuple[str, bool], **more: Any) -> Inventory:
    """Models of one vocabulary by their names, and whether they have a chat template."""
    return Inventory(
        [
            Model(Path(f"/{i}.gguf"), "", (name,), more.get("finetune", ""),
                  more.get("made_from", ""), (), 1, "F32", 4, template, 0, 8)
            for i, (name, template) in enumerate(names)
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "template", "kind", "sure"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct-GGUF", True, TUNED, Sure.SURE),
        ("DeepSeek-R1-Distill-Qwen-1.5B-Q8_0", True, TUNED, Sure.SURE),
        ("ibm-granite.granite-3.1-8b-base.Q4_K_M", False, BASE, Sure.SURE),
        ("Falcon3-7B-Base", True, BASE, Sure.LIKELY),  # some bases have their family's template
        ("Llama-3.2-1B.Q8_0", False, BASE, Sure.LIKELY),
        ("Llama-2-7B-Chat", False, TUNED, Sure.LIKELY),
        ("Qwen3-0.6B", True, TUNED, Sure.UNSURE),
        ("llama-3-8b-it", True, TUNED, Sure.UNSURE),  # Italian?
        ("base-chat-model", False, BASE, Sure.UNSURE),
    ],
)
def test_a_guess_is_as_sure_as_it_can_be(name: str, template: bool, kind: str, sure: Sure) -> None:
    (guess,) = guesses(of_names((name, template)).models)
    assert (guess.kind, guess.sure) == (kind, sure)


def test_a_family_shows_how_it_names_its_models() -> None:
    qwen3 = guesses(of_names(("Qwen3-0.6B", True), ("Qwen3-8B-Base", False)).models)
    assert (qwen3[0].kind, qwen3[0].sure) == (TUNED, Sure.LIKELY)
    qwen2 = guesses(of_names(("Qwen2.5-7B", True), ("Qwen2.5-0.5B-Instruct", True)).models)
    assert (qwen2[0].kind, qwen2[0].sure) == (BASE, Sure.LIKELY)


def test_words_of_a_name() -> None:
    assert words("Qwen/Qwen2.5-0.5B-Instruct-GGUF") == {"qwen2.5", "0.5b", "instruct"}
    assert words("llama3.2:1b-text-q8_0") == {"llama3.2", "1b", "text"}
    assert words("Meta-Llama-3.1-8B.i1-IQ4_XS.gguf") == {"llama", "3.1", "8b"}
