"""Presets: what models.toml may say, what is refused and how, and what comes with the program."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eftlocal import hub
from eftlocal.defaults import chosen_recipe, preset_defaults
from eftlocal.errors import UsageError
from eftlocal.loading.roles import preset_sources
from eftlocal.logits.recipe import Recipe
from eftlocal.logits.recipe_text import parse_recipe
from eftlocal.presets import reading as presets
from eftlocal.presets import schema as preset_schema
from eftlocal.presets.reading import find, load_presets
from eftlocal.presets.schema import FileRef, Preset, PromptTemplate
from eftlocal.settings import ROPE

TRIO = """
[[preset]]
name = "mine"
title = "Mine"
license = "MIT"
{top}
[preset.roles.base]
file = "base.gguf"
{base}
[preset.roles.tuned]
repo = "owner/models"
file = "tuned.gguf"
{tuned}
[preset.roles.reference]
repo = "owner/models"
file = "reference.gguf"
{reference}
"""


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLOCAL_CONFIG", str(tmp_path / "config"))


def load(folder: Path, **parts: str) -> Preset:
    file = folder / "presets.toml"
    sections = dict.fromkeys(("top", "base", "tuned", "reference"), "") | parts
    file.write_text(TRIO.format(**sections), encoding="utf-8")
    return load_presets(file)["mine"]


def refusal(folder: Path, **parts: str) -> str:
    with pytest.raises(UsageError) as refused:
        load(folder, **parts)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(str(folder / "presets.toml"))
    return message.removeprefix(f"{folder / 'presets.toml'}: ")


# What comes with the program ------------------------------------------------------------------


def test_every_built_in_preset_is_valid() -> None:
    found = load_presets(presets.builtin_path())
    assert next(iter(found)) == "demo"
    assert {"smollm2-1.7b", "olmo2-7b"} <= set(found)
    for preset in found.values():
        if preset.name != "moods":  # its base is the reference
            assert {"base", "tuned", "reference"} <= set(preset.roles)
        assert preset.license
        assert preset.title


def test_built_in_small_roles_are_q8_and_bases_q4_or_q8() -> None:
    for preset in load_presets(presets.builtin_path()).values():
        if preset.name.startswith("demo") or preset.name in ("moods", "calm-gemma3"):
            continue
        for role in ("tuned", "reference"):
            assert preset.roles[role].file.lower().endswith("q8_0.gguf")
        assert preset.roles["base"].file.lower().endswith(("q4_k_m.gguf", "q8_0.gguf"))
        assert all(source.evidence for source in preset.roles.values())
        assert all(source.size or source.approx_size for source in preset.roles.values())


def test_a_checksum_is_pinned_only_with_the_revision_it_belongs_to() -> None:
    for preset in load_presets(presets.builtin_path()).values():
        for source in preset.roles.values():
            assert not source.sha256 or (source.revision and source.size)


def test_the_demo_lies_in_the_package() -> None:
    demo = find("demo")
    assert (
        Path(demo.weights("base").file) == Path(presets.__file__).parents[1] / "demo" / "base.gguf"
    )
    assert demo.roles["tuned"].prompt == "chat"
    assert demo.roles["base"].prompt == demo.roles["reference"].prompt == "same"


# What a preset may say ------------------------------------------------------------------------


def test_paths_are_relative_to_the_presets_file(tmp_path: Path) -> None:
    assert Path(load(tmp_path).weights("base").file) == tmp_path / "base.gguf"


def test_a_path_may_be_absolute_or_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    file = tmp_path / "p.toml"
    there = (tmp_path / "there.gguf").as_posix()
    text = TRIO.format(top="", base="", tuned="", reference="")
    file.write_text(text.replace("base.gguf", "~/models/base.gguf"), encoding="utf-8")
    assert Path(load_presets(file)["mine"].weights("base").file) == tmp_path / "models/base.gguf"
    file.write_text(text.replace("base.gguf", there), encoding="utf-8")
    assert Path(load_presets(file)["mine"].weights("base").file) == Path(there)


def test_everything_a_preset_may_hold(tmp_path: Path) -> None:
    preset = load(
        tmp_path,
        top=(
            'recipe = {name = "upscale", beta = 1, delta_top_p = 0.9}\n'
            "sampling = {temperature = 0.5, top_k = 40, seed = 1, max_tokens = 64}\n"
            'stop = ["###"]\nvocabulary_exceptions = [7]\ngated = true\nnotes = "n"\n'
        ),
        base='prompt = {template = "{{ x }}"}\nn_ctx = 2048\nn_batch = 256\nthreads = 4\n'
        'gpu_layers = "auto"\ncache_type_k = "q8_0"\nflash_attention = true\nswa_full = true',
        tuned='prompt = "chat"\nrevision = "main"\nsize = 5\nsha256 = "' + "0" * 64 + '"',
        reference="gpu_layers = -1",
    )
    assert preset.recipe is not None
    assert (preset.recipe.name, preset.recipe.beta, preset.recipe.delta_top_p) == (
        "upscale",
        1.0,
        0.9,
    )
    assert preset.sampling.given == {
        "temperature": 0.5,
        "top_k": 40,
        "seed": 1,
        "max_tokens": 64,
    }
    assert (preset.stop, preset.vocabulary_exceptions, preset.gated) == (("###",), (7,), True)
    base = preset.roles["base"]
    assert base.prompt == PromptTemplate(template="{{ x }}")
    assert (base.n_ctx, base.gpu_layers, base.cache_type_k) == (2048, "auto", "q8_0")
    assert preset.roles["reference"].gpu_layers == -1
    assert str(preset.weights("tuned")) == "owner/models/tuned.gguf@main"


def test_a_preset_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load(tmp_path).name = "other"  # type: ignore[misc]


def test_a_tuned_role_may_be_the_reference_with_an_adapter(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    text = TRIO.format(top="", base="", tuned="", reference="").replace(
        'repo = "owner/models"\nfile = "tuned.gguf"',
        'of = "reference"\nlora = {repo = "owner/lora", file = "lora.gguf"}',
    )
    file.write_text(text, encoding="utf-8")
    preset = load_presets(file)["mine"]
    assert preset.weights("tuned") == preset.roles["reference"]
    assert {label: ref.file for label, ref in preset.files().items()} == {
        "base": str(tmp_path / "base.gguf"),
        "reference": "reference.gguf",
        "tuned lora": "lora.gguf",
    }


def test_further_tuned_roles_and_files_that_play_two(tmp_path: Path) -> None:
    warm = '[preset.roles.warm]\nkind = "tuned"\nrepo = "owner/models"\nfile = "tuned.gguf"'
    preset = load(tmp_path, reference=warm)
    assert preset.kind("warm") == "tuned"
    assert preset.kind("base") == "base"
    assert "warm" not in preset.files()


@pytest.mark.parametrize(
    ("recipe", "roles"),
    [
        ('{name = "realign", lambda = 2.0}', ("tuned", "reference")),
        ("{weights = {tuned = 1.5, reference = -0.5, base = 0}}", ("tuned", "reference")),
        ('{name = "contrast", strength = 0.5}', ("base", "reference")),
        ('{name = "tuned"}', ("tuned",)),
    ],
)
def test_a_recipe_may_need_fewer_roles(tmp_path: Path, recipe: str, roles: tuple[str, ...]) -> None:
    tables = [f'[preset.roles.{role}]\nfile = "{role}.gguf"' for role in roles]
    file = tmp_path / "p.toml"
    head = f'[[preset]]\nname = "mine"\nrecipe = {recipe}\n'
    file.write_text(head + "\n".join(tables), encoding="utf-8")
    assert set(load_presets(file)["mine"].roles) == set(roles)
    file.write_text(head + "\n".join(tables[1:]) + "\n[preset.roles]\n", encoding="utf-8")
    with pytest.raises(UsageError, match=f'role "{roles[0]}" is missing'):
        load_presets(file)


@pytest.mark.parametrize("name", ["realign", "contrast", "base", "tuned", "reference"])
def test_the_fewer_roles_are_those_that_the_recipe_decodes(name: str) -> None:
    dial = {"realign": {"lambda_": 2.0}, "contrast": {"strength": 0.5}}.get(name, {})
    assert set(preset_schema._FEWER[name]) == set(parse_recipe(name, **dial).roles)


# What is refused, and how ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"top": "titel = 1"}, 'preset "mine": unknown key "titel"; did you mean "title"?'),
        (
            {"tuned": 'revison = "x"'},
            'preset "mine": roles.tuned: unknown key "revison"; did you mean "revision"?',
        ),
        (
            {"tuned": 'prompt = {tempalte = "x"}'},
            'preset "mine": roles.tuned.prompt: unknown key "tempalte"; did you mean "template"?',
        ),
        (
            {"top": "recipe = {lamda = 1.0}"},
            'preset "mine": recipe: unknown key "lamda"; did you mean "lambda"?',
        ),
        (
            {"top": "sampling = {zzz = 1}"},
            'preset "mine": sampling: unknown key "zzz"; known: frequency_penalty, loop_guard, '
            "max_tokens, min_p, presence_penalty, repeat_penalty, seed, temperature, top_k, top_p",
        ),
        (
            {"top": "sampling = {loop_guard = 5}"},
            'preset "mine": sampling: loop_guard is 5; it must be a whole number, 16 or more',
        ),
        (
            {"tuned": 'prompt = {template = "hello"}'},
            "preset \"mine\": roles.tuned.prompt.template: 'hello' is neither a prompt format nor",
        ),
        (
            {"tuned": "chat_template_kwargs = {messages = 1}"},
            'preset "mine": roles.tuned: chat_template_kwargs: '
            "'messages' is set by eftlocal; leave it out",
        ),
        (
            {"tuned": 'prompt = "caht"'},
            'preset "mine": roles.tuned.prompt: "caht" is no prompt: use "chat", "same", "plain", '
            "the name of a chat format that",
        ),
        (
            {"base": "n_ctx = 0"},
            'preset "mine": roles.base: n_ctx is 0; it must be a whole number, 1 or more',
        ),
        (
            {"base": 'n_ctx = "4096"'},
            "n_ctx is '4096'; it must be a whole number, 1 or more",
        ),
        (
            {"base": 'cache_type_v = "q3_k"'},
            "roles.base: cache_type_v is 'q3_k'; it must be f32, f16, bf16, q8_0, q5_1, q5_0, "
            "q4_1, q4_0 or iq4_nl",
        ),
        ({"base": 'revision = "x"'}, "revision needs repo: a path has nothing to pin"),
        ({"tuned": 'sha256 = "12"'}, "roles.tuned.sha256: string should match pattern"),
        ({"base": 'of = "tuned"'}, "roles.base: needs either file"),
        ({"base": 'kind = "tuned"'}, 'role "base" cannot be of kind "tuned"'),
        (
            {"reference": '[preset.roles.tunde]\nfile = "x.gguf"'},
            'role "tunde" needs a kind: base, tuned or reference; did you mean the role "tuned"?',
        ),
        (
            {"reference": '[preset.roles.warm]\nkind = "tuned"\nof = "nobody"'},
            'role "warm" takes its weights from "nobody", which is not a role',
        ),
        (
            {"top": "sampling = {temperature = nan}"},
            "sampling: temperature is nan; it must be",
        ),
        ({"top": "vocabulary_exceptions = [1, -2]"}, "vocabulary_exceptions.1:"),
        ({"top": "gated = 1"}, "gated: input should be a valid boolean, not 1"),
    ],
)
def test_a_refusal_names_the_place_and_the_nearest_right_thing(
    tmp_path: Path, parts: dict[str, str], message: str
) -> None:
    assert message in refusal(tmp_path, **parts)


@pytest.mark.parametrize(
    "repo", ["models", "a/b/c", "../models", "a/..", "owner/mo dels", "/models", "o/m.git", "o/-m"]
)
def test_a_repository_is_owner_slash_name(repo: str) -> None:
    with pytest.raises(ValidationError, match="owner/name"):
        FileRef(repo=repo, file="x.gguf")


@pytest.mark.parametrize(
    "file", ["../x.gguf", "/x.gguf", "a/../../x.gguf", "a\\x.gguf", "c:x.gguf", "a\n.gguf"]
)
def test_a_file_on_the_hub_cannot_leave_its_folder(file: str) -> None:
    with pytest.raises(ValidationError, match="not a path inside a repository"):
        FileRef(repo="owner/models", file=file)
    with pytest.raises(ValidationError, match="not a path inside a repository"):
        FileRef(repo="owner/models", file="x.gguf", revision=file)


def test_a_checksum_may_be_in_capitals() -> None:
    with pytest.raises(ValidationError, match="python_package needs sha256"):
        FileRef(repo="owner/models", file="x.gguf", python_package="some-package")
    with pytest.raises(ValidationError, match="python_package"):
        FileRef(repo="o/m", file="x.gguf", sha256="ab" * 32, python_package="../some")
    pinned = FileRef(repo="owner/models", file="x.gguf", sha256="AB" * 32)
    assert pinned.sha256 == "ab" * 32


@pytest.mark.parametrize(
    "value", ['"~nobody-of-this-name/x.gguf"', '"a\\u0000b"', '"' + "x" * 5000 + '"']
)
def test_a_path_that_cannot_be_is_a_line_or_no_file(tmp_path: Path, value: str) -> None:
    file = tmp_path / "presets.toml"
    table = TRIO.format(**dict.fromkeys(("top", "base", "tuned", "reference"), ""))
    file.write_text(table.replace('"base.gguf"', value), encoding="utf-8")
    try:
        base = load_presets(file)["mine"].weights("base")
    except UsageError as refused:
        assert "a user who is not known here" in str(refused)
    else:
        assert hub.locate(base) is None


@pytest.mark.parametrize("pins", [{"sha256": "0" * 64}, {"size": 1}])
def test_one_checksum_cannot_pin_many_shards(pins: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="pin revision instead"):
        FileRef(repo="owner/models", file="x-00001-of-00002.gguf", **pins)


def test_a_role_that_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text('[[preset]]\nname = "x"\n[preset.roles.base]\nfile = "b"\n', encoding="utf-8")
    with pytest.raises(UsageError, match='preset "x": role "tuned" is missing'):
        load_presets(file)
    file.write_text('[[preset]]\nname = "x"\n', encoding="utf-8")
    with pytest.raises(UsageError, match='preset "x": roles: is missing'):
        load_presets(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[preset]]\nname =\n", r"\(at line 2, column 7\)"),
        ("[presets]\n", r'unknown key "presets"; every preset is a \[\[preset\]\] table'),
        ('[preset]\nname = "x"\n', r"\[preset\] must be \[\[preset\]\]"),
        ("preset = [1]\n", "preset number 1: "),
        ("[[preset]]\ntitle = 1\n", "preset number 1: "),
    ],
)
def test_a_file_that_is_no_list_of_presets(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_presets(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.toml: cannot be read"):
        load_presets(tmp_path / "gone.toml")
    (tmp_path / "deep.toml").write_text("preset = " + "[" * 100_000)
    with pytest.raises(UsageError, match=r"deep\.toml: nested more than 200 deep"):
        load_presets(tmp_path / "deep.toml")
    (tmp_path / "bytes.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(UsageError, match="not valid UTF-8: byte"):
        load_presets(tmp_path / "bytes.toml")


def test_two_presets_of_one_name(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(TRIO.format(top="", base="", tuned="", reference="") * 2, encoding="utf-8")
    with pytest.raises(UsageError, match='two presets are named "mine"'):
        load_presets(file)


# Finding one ----------------------------------------------------------------------------------


def test_the_users_preset_replaces_the_built_in_one() -> None:
    mine = TRIO.format(top="", base="", tuned="", reference="").replace('"mine"', '"demo"', 1)
    presets.user_path().parent.mkdir(parents=True)
    presets.user_path().write_text(mine, encoding="utf-8")
    assert find("demo").title == "Mine"
    assert find("olmo2-7b").license == "Apache-2.0"


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r'no preset "olmo2"; did you mean "olmo2-7b"\?'):
        find("olmo2")
    with pytest.raises(UsageError, match="`eftlocal models list` shows them all"):
        find("zzzzzzzz")


# Several tuned roles --------------------------------------------------------------------------

MOODS = """
[[preset]]
name = "two"
[preset.recipe]
name = "mix"
alpha = 1.5
lambda = { calm = 0.25, happy = 0.75 }
references = { calm = "base", happy = "base" }
plausibility = 0.1
[preset.roles]
base = { file = "base.gguf" }
calm = { kind = "tuned", of = "base", lora = { file = "calm.gguf" } }
happy = { kind = "tuned", of = "base", lora = { file = "happy.gguf" } }
"""


def test_alpha_and_lambda_of_a_mix_are_turned_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "presets.toml"
    file.write_text(MOODS, encoding="utf-8")
    begun = preset_defaults(load_presets(file)["two"]).recipe
    own = {"calm": "base", "happy": "base"}
    shares = {"calm": 0.25, "happy": 0.75}
    assert begun == Recipe.mix(shares, 1.5, own).stabilise(plausibility=0.1)
    assert set(begun.roles) == {"base", "calm", "happy"}
    more = chosen_recipe(begun, {"alpha": -1.0})
    assert more == Recipe.mix(shares, -1.0, own).stabilise(plausibility=0.1)
    calm = chosen_recipe(begun, {"lambda_": {"calm": 1.0, "happy": 0.0}})
    assert calm == Recipe.mix({"calm": 1.0, "happy": 0.0}, 1.5, own).stabilise(plausibility=0.1)
    assert chosen_recipe(begun, {"recipe": "interpolate", "lambda_": shares}).references == own


# Any text -------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    """name title roles recipe sampling stop gated vocabulary_exceptions base tuned reference file
    repo of lora kind prompt template weights lambda n_ctx gpu_layers rpc size sha256
    python_package""".split()  # noqa: SIM905
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


PLACES = st.sampled_from(
    [(), ("roles",), ("roles", "tuned"), ("roles", "tuned", "lora"), ("recipe",), ("sampling",)]
)


@given(PLACES, KEYS, VALUES)
def test_whatever_a_table_holds_is_a_preset_or_one_line(
    place: tuple[str, ...], key: str, value: Any
) -> None:
    roles = {role: {"file": role} for role in ("base", "tuned", "reference")}
    table: dict[str, Any] = {"name": "x", "roles": roles}
    inner = table
    for step in place:
        inner = inner.setdefault(step, {})
    inner[key] = value
    try:
        preset = presets._validate(Path("p.toml"), 1, table, Path())
    except UsageError as refused:
        assert "\n" not in str(refused)
    else:
        assert preset.name == table["name"]


def as_data(preset: Preset, folder: Path) -> dict[str, Any]:
    """What a preset means, as plain data without later keys; paths in its folder are relative."""
    defaults = preset_defaults(preset)
    sampling = {**vars(defaults.sampling), "logit_bias": dict(defaults.sampling.logit_bias)}
    roles = preset_sources(preset, lambda file: Path(file.file))
    found: dict[str, Any] = {
        "recipe": str(defaults.recipe),
        "anchor": dict(defaults.recipe.anchor),
        "sampling": sampling,
        "max_tokens": defaults.max_tokens,
        "stop": defaults.stop,
        "loop_guard": defaults.loop_guard,
        "speculation": vars(defaults.speculation),
        "roles": {
            role: {k: v for k, v in vars(source).items() if k not in ROPE or v is not None}
            for role, source in roles.items()
        },
        "files": {label: str(file) for label, file in preset.files().items()},
        "vocabulary_exceptions": preset.vocabulary_exceptions,
        "gated": preset.gated,
    }
    later = ("rpc", "reproducible", "thinking", "lora_scale", "translation")
    new = {tuple(role.pop(key) for key in later) for role in found["roles"].values()}
    assert new == {((), False, None, 1.0, "candidates")}
    text = json.dumps(found, default=lambda v: v.as_posix() if isinstance(v, Path) else dict(v))
    data: dict[str, Any] = json.loads(text.replace(f"{folder.as_posix()}/", ""))
    return data


def test_a_presets_file_of_version_0_1_0_means_what_it_did() -> None:
    """The expected values were written by that version."""
    samples = Path(__file__).parent / "samples"
    expected = json.loads((samples / "models.json").read_text(encoding="utf-8"))
    found = {n: as_data(p, samples) for n, p in load_presets(samples / "models.toml").items()}
    assert found == expected
