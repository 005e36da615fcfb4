"""How contexts are made: caches and positions by role, what cannot be, what llama.cpp is told."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_model
from settings_files import own_preset, write_settings
from typer.testing import CliRunner, Result

from eftlocal import Emulator
from eftlocal.cli.app import app
from eftlocal.cli.doctor import settings_in_use
from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import read_header
from eftlocal.kinds import ByRole, Choice, Range, RefusedError, Switch
from eftlocal.llama import Context, Model
from eftlocal.loading.attention import n_ubatch, with_attention
from eftlocal.loading.context_rules import check_context
from eftlocal.loading.roles import RoleSource
from eftlocal.logits.recipe import TRIO
from eftlocal.user_settings import config_folder


def test_a_value_by_role() -> None:
    kind = ByRole(Range(0.0, 1.0, above=True))
    assert kind.parse("0.5") == 0.5
    assert kind.parse("base=0.5,tuned=1") == kind.read({"base": 0.5, "tuned": 1}) == {
        "base": 0.5,
        "tuned": 1.0,
    }  # fmt: skip
    for text, told in (
        ("2", "x is 2; it must be a number above 0 and at most 1"),
        ("base=0", r"x[base] is 0; it must be a number above 0"),
        ("base=0.5,base=1", "names a role twice"),
        ("0.5,1", "x is '0.5,1'; it must be a number above 0"),
        *(
            (text, f"x is '{text}'; it must be a number above 0")
            for text in ("base=", "=1", "1,=1")
        ),
        ("0.5,base=2", "x[base] is 2; it must be"),
    ):
        with pytest.raises(RefusedError) as caught:
            kind.parse(text)
        assert told in caught.value.told("x")
    assert ByRole(Choice(("none", "yarn"))).words == ("none", "yarn")
    assert [Switch().read(v) for v in (True, False, "auto")] == ["on", "off", "auto"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cache_type_v": "q8_0", "flash_attention": "off"}, "cache_type_v q8_0 needs flash atten"),
        ({"cache_type_k": "q8_0"}, "keeps 32 numbers together, and m.gguf has 8 a head; take f16"),
        ({"rope_scaling": "none", "rope_freq_scale": 0.5}, "rope_freq_scale does nothing where"),
        ({"yarn_beta_fast": 3}, "yarn_beta_fast is for rope_scaling yarn, and it is linear; give"),
        ({"yarn_orig_ctx": 9, "rope_scaling": "linear"}, "yarn_orig_ctx is for rope_scaling yarn"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    header = read_header(write_model(tmp_path / "m.gguf"))
    with pytest.raises(UsageError) as caught:
        check_context("tuned", RoleSource(header.path, **given), header)
    assert str(caught.value).startswith("role tuned: ") and told in str(caught.value)


@pytest.mark.parametrize(
    ("given", "on_cpu", "flash_attention", "cache_type_v", "at_once"),
    [
        ({}, True, "off", "f16", 128),
        ({}, False, "auto", "f16", 512),
        ({"flash_attention": "on"}, True, "on", "f16", 512),
        ({"flash_attention": "off"}, True, "off", "f16", 128),
        ({"flash_attention": "off"}, False, "off", "f16", 512),
        ({"cache_type_k": "q8_0"}, True, "off", "f16", 128),
        ({"cache_type_v": "q8_0"}, True, "auto", "q8_0", 512),
        ({"n_ctx": 512}, True, "auto", "f16", 512),
        ({"n_ctx": 513, "n_batch": 32}, True, "off", "f16", 32),
        ({"reproducible": True}, True, "auto", "bf16", 512),
        ({"reproducible": True}, False, "auto", "f16", 512),
        ({"reproducible": True, "cache_type_k": "f32"}, True, "auto", "f16", 512),
    ],
)
def test_attention_is_computed_by_where_the_layers_lie(
    given: dict[str, Any],
    on_cpu: bool,
    flash_attention: str,
    cache_type_v: str,
    at_once: int,
    tmp_path: Path,
) -> None:
    header = read_header(write_model(tmp_path / "m.gguf"))
    used = with_attention(RoleSource(header.path, **given), header, on_cpu=on_cpu)
    assert (used.flash_attention, used.cache_type_v) == (flash_attention, cache_type_v)
    assert n_ubatch(used, on_cpu=on_cpu) == at_once
    needs_it = replace(header, metadata={**header.metadata, "general.architecture": "minimax-m3"})
    used = with_attention(RoleSource(header.path, **given), needs_it, on_cpu=on_cpu)
    assert used.flash_attention == given.get("flash_attention", "auto")


def test_a_model_that_scales_by_yarn_itself_takes_its_settings(tmp_path: Path) -> None:
    more = {"llama.rope.scaling.type": "yarn"}
    header = read_header(write_model(tmp_path / "m.gguf", more=more))
    check_context("base", RoleSource(header.path, yarn_beta_fast=16.0), header)
    check_context(
        "base", RoleSource(header.path, cache_type_k="q8_0", flash_attention="off"), header
    )


def test_positions_are_scaled_by_role_and_llama_cpp_is_told(
    demo_files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    files = {role: demo_files[role] for role in ("base", "tuned", "reference")}
    log = logging.getLogger("eftlocal.llama")
    log.addHandler(caplog.handler)
    log.setLevel(logging.INFO)
    try:
        with Emulator.from_files(
            **files,
            n_ctx=1024,
            threads=1,
            rope_scaling={"base": "yarn"},
            rope_freq_scale={"base": 0.25, "tuned": 0.5},
            cache_type_k="q8_0",
            cache_type_v={"reference": "q8_0"},
        ) as em:
            trained = em.models["base"].n_ctx_train
            reach = {role: c.n_ctx_train for role, c in em.ensemble.contexts.items()}
            (note,) = em.notes()
            assert em.generate("Where is Toulouse?", max_tokens=4).text
    finally:
        log.removeHandler(caplog.handler)
        log.setLevel(logging.NOTSET)
    assert reach == {"base": 4 * trained, "tuned": 2 * trained, "reference": trained}
    assert note.startswith(f"n_ctx is 1024, and reference trained on {trained} tokens at most")
    said = [record.getMessage() for record in caplog.records]
    scales = [line.rpartition("= ")[2] for line in said if " freq_scale " in line]
    assert [scale for scale in scales if scale] == ["0.25", "0.5", "1"]
    caches = [line.partition("K (")[2] for line in said if "K (" in line]
    kinds = [(line[:4], "V (q8_0)" in line) for line in caches]
    assert kinds == [("q8_0", False), ("q8_0", False), ("q8_0", True)]


def test_a_model_without_rotary_positions_is_told(demo_files: dict[str, Path]) -> None:
    with Model(demo_files["base"]) as model:
        model.is_rotary = False
        with pytest.raises(UsageError, match=r"has no rotary positions to scale; leave out rope_"):
            Context(model, n_ctx=64, rope={"rope_scaling": "yarn"})


def run(*arguments: str) -> Result:
    quick = ["--max-tokens", "2", "--seed", "3", "--temperature", "0", "--threads", "1"]
    return CliRunner().invoke(app, ["run", "Where is Toulouse?", *arguments, *quick])


def test_the_command_line_and_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--cache-type-k", "base=q8_0", "--rope-freq-scale", "0.5").exit_code == 0
    result = run("--rope-scaling", "bose=yarn")
    assert (result.exit_code, result.exception.code) == (2, 2)
    assert (
        "--rope-scaling: there is no role bose; there are base, tuned, reference" in result.stderr
    )
    result = run("--yarn-beta-fast", "tuned=3")
    assert "role tuned: yarn_beta_fast is for rope_scaling yarn" in result.stderr
    assert "--rope-scaling is 'rope'; it must be none, linear or yarn" in run(
        "--rope-scaling", "rope"
    ).stderr  # fmt: skip
    # A default for roles that are not there changes nothing.
    monkeypatch.setenv("EFTLOCAL_CACHE_TYPE_V", "other=q8_0,base=q9_9")
    assert "EFTLOCAL_CACHE_TYPE_V[base] is 'q9_9'" in run().stderr
    monkeypatch.setenv("EFTLOCAL_CACHE_TYPE_V", "other=q8_0,base=q8_0")
    assert run().exit_code == 0
    monkeypatch.delenv("EFTLOCAL_CACHE_TYPE_V")


@pytest.mark.parametrize(
    ("line", "environment", "file", "used"),
    [
        ("", "", "", "q5_0 f16 f16"),
        ("q8_0", "tuned=q4_0", "", "q8_0 q8_0 q8_0"),
        ("tuned=q8_0", "", "", "q5_0 q8_0 f16"),
        ("tuned=q8_0 base=q4_0", "", "", "q4_0 q8_0 f16"),
        ("q4_0 base=q8_0", "", "", "q8_0 q4_0 q4_0"),
        ("tuned=q8_0", "q4_0", "", "q4_0 q8_0 q4_0"),
        ("base=q8_0", "tuned=q4_0,nobody=q4_0", "", "q8_0 q4_0 f16"),
        ("", "tuned=q4_0", "q8_0", "q8_0 q4_0 q8_0"),
        ("", "q8_0,base=q4_0", "tuned=f32", "q4_0 q8_0 q8_0"),
    ],
)
def test_what_a_level_does_not_say_of_a_role_the_next_one_says(
    line: str,
    environment: str,
    file: str,
    used: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_preset("", "cache_type_k = 'q5_0'")
    monkeypatch.setenv("EFTLOCAL_CACHE_TYPE_K", environment)
    write_settings("preset = 'mine'\n" + (f"cache_type_k = '{file}'" if file else ""))
    sources = sources_of(*(f"--cache-type-k={one}" for one in line.split()))
    assert [sources[role].cache_type_k for role in TRIO] == used.split()
    if not line:
        values = settings_in_use()["values"]
        told = {role: values.get(f"cache_type_k of {role}", {"value": "f16"}) for role in TRIO}
        assert [told[role]["value"] for role in TRIO] == used.split()


def test_a_role_that_is_not_there_is_refused_before_files_are_looked_for() -> None:
    own_preset("")
    told = run("--preset=mine", "--cache-type-k=base=q8_0", "--cache-type-k=bose=q8_0").stderr
    assert told.startswith("eftlocal: --cache-type-k: there is no role bose; there are base, tuned")


def test_a_scaling_takes_the_place_of_all_that_went_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_preset("", "rope_scaling = 'yarn'\nyarn_beta_fast = 3.0")
    write_settings("preset = 'mine'")
    assert sources_of()["base"].rope == {"rope_scaling": "yarn", "yarn_beta_fast": 3.0}
    assert sources_of("--rope-scaling=none")["base"].rope == {"rope_scaling": "none"}
    monkeypatch.setenv("EFTLOCAL_YARN_BETA_SLOW", "2")
    monkeypatch.setenv("EFTLOCAL_ROPE_FREQ_SCALE", "0.5")
    rope = {role: s.rope for role, s in sources_of("--rope-scaling=yarn,tuned=none").items()}
    assert rope["tuned"] == {"rope_scaling": "none"}
    assert rope["reference"] == {
        **{"rope_scaling": "yarn", "rope_freq_scale": 0.5, "yarn_beta_slow": 2.0}
    }
    result = run("--rope-scaling=none", "--yarn-beta-fast=bose=2")
    assert "--yarn-beta-fast: there is no role bose" in result.stderr


def sources_of(*arguments: str) -> dict[str, RoleSource]:
    """How `eftlocal run` loads the roles."""
    found: dict[str, RoleSource] = {}
    for role in TRIO:
        (config_folder() / f"{role}.gguf").touch()

    def prepared(sources: dict[str, RoleSource], **_: Any) -> None:
        found.update(sources)
        raise UsageError("enough")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("eftlocal.preparation.prepare", prepared)
        assert "enough" in run(*arguments).stderr
    return found


def test_models_check_counts_the_cache_that_is_asked_for() -> None:
    def needed(*more: str) -> int:
        result = CliRunner().invoke(app, ["models", "check", "demo", "--json", *more])
        return int(json.loads(result.stdout)["memory"]["host_needed"])

    both = ["--cache-type-k", "q8_0", "--cache-type-v", "q8_0"]
    assert needed("--n-ctx", "8192") - needed("--n-ctx", "8192", *both) > 8 << 20
