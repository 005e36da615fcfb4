"""From a preset's role to what llama.cpp is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from eftlocal.errors import DownloadError, UsageError
from eftlocal.loading.roles import RoleSource, require_roles, role_source, with_settings
from eftlocal.logits.recipe import Recipe
from eftlocal.presets.schema import FileRef, Preset

BASE, ADAPTER = Path("base.gguf"), Path("adapter.gguf")


def preset(**tuned: object) -> Preset:
    roles = {
        "base": {"file": "base.gguf"},
        "reference": {"file": "reference.gguf"},
        "tuned": {"of": "base", **tuned},
    }
    return Preset.model_validate({"name": "mine", "roles": roles})


def fetch(ref: FileRef) -> Path:
    return Path(ref.file)


def test_what_a_preset_leaves_open_is_ours() -> None:
    assert role_source(preset(), "tuned", fetch) == RoleSource(BASE, prompt="chat")
    assert role_source(preset(), "base", fetch) == RoleSource(BASE, prompt="same")
    assert role_source(preset(gpu_layers="auto"), "tuned", fetch).gpu_layers is None


def test_what_a_preset_says_is_taken() -> None:
    said = {"n_ctx": 64, "n_batch": 8, "threads": 3, "gpu_layers": -1, "swa_full": True}
    caches = {"cache_type_k": "q8_0", "cache_type_v": "q4_0"}
    found = role_source(
        preset(
            **said,
            **caches,
            flash_attention=False,
            lora={"file": "adapter.gguf", "scale": 0.5},
            prompt={"template": "{{ messages }}"},
        ),
        "tuned",
        fetch,
    )
    assert found == RoleSource(
        BASE,
        lora=ADAPTER,
        lora_scale=0.5,
        prompt="{{ messages }}",
        flash_attention="off",
        **said,
        **caches,
    )


def test_a_file_that_cannot_be_fetched_is_told() -> None:
    def refuse(ref: FileRef) -> Path:
        raise DownloadError(f"{ref}: not here")

    with pytest.raises(DownloadError, match=r"base\.gguf: not here"):
        role_source(preset(), "tuned", refuse)


UP = "recipe upscale needs the role"


@pytest.mark.parametrize(
    ("recipe", "roles", "says"),
    [
        (Recipe.upscale(), ["base"], f"{UP}s tuned and reference, and there is only base; give"),
        (Recipe.upscale(), ["base", "tuned"], f"{UP} reference, and there are only base, tuned; "),
        (Recipe.guidance(1.0), ["base", "tuned"], "only base, tuned; load with this recipe"),
        (Recipe.guidance(1.0), ["base"], "the role tuned, and .*; give it, or another"),
        (Recipe.persona("Hi"), ["base"], "roles persona and tuned, .*; load with this recipe"),
    ],
)
def test_a_recipe_whose_roles_are_not_there(recipe: Recipe, roles: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        require_roles(recipe, roles)
    if not says.endswith("load with this recipe"):
        with pytest.raises(UsageError, match="needs the role"):
            require_roles(recipe, roles, to_load=True)


def test_a_recipe_whose_roles_are_there() -> None:
    recipe = Recipe.upscale()
    assert require_roles(recipe, ["reference", "base", "tuned", "plain"]) is recipe
    assert require_roles(Recipe.proxy(0.0), ["base"]).roles == ("base",)
    guided = Recipe.guidance(1.0)
    assert require_roles(guided, ["tuned"], to_load=True) is guided


def test_the_message_says_how_roles_are_given() -> None:
    with pytest.raises(UsageError, match=r"; give --tuned and --reference, or another recipe$"):
        require_roles(Recipe.upscale(), ["base"], written=lambda role: f"--{role}")


def test_a_setting_may_be_given_by_role() -> None:
    sources = {"base": RoleSource(BASE, cache_type_k="q5_0"), "tuned": RoleSource(BASE)}
    by_role = {"cache_type_k": {"tuned": "q8_0"}, "rope_scaling": {"base": "yarn"}}
    found = with_settings(sources, rope_freq_scale=0.5, flash_attention=True, **by_role)
    assert (found["base"].cache_type_k, found["tuned"].cache_type_k) == ("q5_0", "q8_0")
    assert found["base"].rope == {"rope_scaling": "yarn", "rope_freq_scale": 0.5}
    assert found["tuned"].rope == {"rope_freq_scale": 0.5}
    assert found["base"].flash_attention == "on"
    with pytest.raises(UsageError, match="rope_scaling: there is no role rice; there are base"):
        with_settings(sources, rope_scaling={"rice": "yarn"})
