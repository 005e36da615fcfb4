"""What must hold exactly on any real model, whatever it says."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from eftlocal import Emulator, Recipe, Sampling
from eftlocal.decoding.score import text_rows

GREEDY = Sampling(temperature=0.0)
PROMPTS = ["What is the capital of France?", "Name a river in Peru and say where it ends."]
LENGTH = 20


def own_greedy_text(path: Path, prompt: list[int], stop: frozenset[int]) -> list[int]:
    """What llama.cpp itself says: its own batches, its own greedy sampler."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch = 512, 512
    settings.n_threads = settings.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, settings)
    sampler = llama_cpp.llama_sampler_init_greedy()
    said: list[int] = []
    tokens = prompt
    while len(said) < LENGTH and (not said or said[-1] not in stop):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert (
            llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        )
        said.append(llama_cpp.llama_sampler_sample(sampler, context, -1))
        tokens = said[-1:]
    llama_cpp.llama_sampler_free(sampler)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return said


def fresh(emulator: Emulator) -> None:
    """Empty caches, so that prompts are decoded whole, as llama.cpp does in the comparison."""
    for context in emulator.ensemble.contexts.values():
        for slot in range(context.n_seq_max):
            context.clear(slot)


def tokens(emulator: Emulator, prompt: str, recipe: Recipe) -> tuple[int, ...]:
    fresh(emulator)
    return emulator.generate(prompt, recipe=recipe, sampling=GREEDY, max_tokens=LENGTH).tokens


def rows(
    emulator: Emulator, prompts: dict[str, str], recipe: Recipe
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The combined row and each role's own, after prompts that may differ by role."""
    ids = {role: emulator.models[role].tokenize(text) for role, text in prompts.items()}
    _, combined, own = next(text_rows(emulator.ensemble, ids, [7], recipe=recipe))
    return combined.copy(), {role: row.copy() for role, row in own.items()}


def close(row: np.ndarray, other: np.ndarray) -> bool:
    """The same distribution within float32 rounding of sums of logits."""
    return bool(np.allclose(row - row.max(), other - other.max(), rtol=0, atol=2e-4))


@pytest.fixture(params=["smol", "demo"])
def emulator(request: pytest.FixtureRequest) -> Emulator:
    chosen: Emulator = request.getfixturevalue(request.param)
    return chosen


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", ["smol tuned", "demo base", "demo tuned", "demo reference"])
def test_weight_one_on_one_role_is_llama_cpp_token_for_token(
    name: str, prompt: str, request: pytest.FixtureRequest
) -> None:
    fixture, role = name.split()
    emulator: Emulator = request.getfixturevalue(fixture)
    ids = emulator.tokenize(prompt)[role]
    own = own_greedy_text(emulator.models[role].path, ids, emulator.ensemble.stop_tokens)
    assert tokens(emulator, prompt, Recipe.single(role)) == tuple(own)


def test_a_single_role_passes_through_bit_for_bit(emulator: Emulator) -> None:
    text = dict.fromkeys(emulator.roles, PROMPTS[0])
    for role in emulator.roles:
        combined, own = rows(emulator, text, Recipe.single(role))
        size = emulator.ensemble.vocab_size
        unusable = np.isneginf(combined)
        assert np.array_equal(combined[~unusable], own[role][:size][~unusable])


def test_one_dial_at_zero_is_one_model_alone(demo: Emulator) -> None:
    for prompt in PROMPTS:
        alone = {role: tokens(demo, prompt, Recipe.single(role)) for role in ("base", "tuned")}
        assert tokens(demo, prompt, Recipe.upscale(0.0)) == alone["tuned"]
        assert tokens(demo, prompt, Recipe.proxy(0.0)) == alone["base"]
        assert tokens(demo, prompt, Recipe.realign(1.0)) == alone["tuned"]


def test_the_same_model_in_all_roles_is_that_model(smol: Emulator) -> None:
    alone = tokens(smol, PROMPTS[0], Recipe.single("base"))
    for recipe in (Recipe.upscale(2.5), Recipe.proxy(0.3), Recipe.realign(1.7)):
        combined, own = rows(smol, dict.fromkeys(smol.roles, PROMPTS[0]), recipe)
        assert close(combined, next(iter(own.values())))
        assert tokens(smol, PROMPTS[0], recipe) == alone


@pytest.mark.parametrize("dial", [0.5, 1.0, 2.0])
def test_equal_tuned_and_reference_is_base(emulator: Emulator, dial: float) -> None:
    """Here the models are equal because one plays both roles, or sees the same prompt."""
    texts = {"base": PROMPTS[0], "tuned": PROMPTS[1], "reference": PROMPTS[1]}
    weights = {"base": 1.0, "tuned": dial, "tuned_again": -dial}
    combined, own = rows(emulator, texts, Recipe.proxy(dial))
    if emulator.models["tuned"] is emulator.models["reference"]:
        assert close(combined, own["base"])
    else:
        from eftlocal.logits.combine import Combiner

        twice = {"base": own["base"], "tuned": own["tuned"], "tuned_again": own["tuned"]}
        combiner = Combiner(emulator.ensemble.vocab_size)
        assert close(combiner(twice, Recipe(weights)), own["base"])


def test_equal_base_and_reference_is_tuned(smol: Emulator) -> None:
    texts = {"base": PROMPTS[0], "tuned": PROMPTS[1], "reference": PROMPTS[0]}
    combined, own = rows(smol, texts, Recipe.upscale())
    assert close(combined, own["tuned"])


def test_beta_one_is_alpha_one_and_a_filter_of_one_is_none(emulator: Emulator) -> None:
    texts = dict.fromkeys(emulator.roles, PROMPTS[1])
    plain, _ = rows(emulator, texts, Recipe.upscale())
    for same in (Recipe.proxy(), Recipe.upscale().stabilise(delta_top_p=1.0, delta_clip=np.inf)):
        assert np.array_equal(rows(emulator, texts, same)[0], plain)


def test_a_constant_added_to_one_role_changes_nothing(demo: Emulator) -> None:
    from eftlocal.logits.combine import Combiner

    _, own = rows(demo, dict.fromkeys(demo.roles, PROMPTS[0]), Recipe.upscale())
    combiner = Combiner(demo.ensemble.vocab_size)
    for recipe in (
        Recipe.upscale(1.5),
        Recipe.upscale().stabilise(delta_top_p=0.9),
        Recipe.upscale().stabilise(plausibility=0.05),
        Recipe.upscale().stabilise(delta_clip=2.0),
    ):
        before = combiner(own, recipe).copy()
        for role in own:
            shifted = {**own, role: own[role] + np.float32(3.0)}
            after = combiner(shifted, recipe)
            assert np.array_equal(np.isneginf(before), np.isneginf(after))
            assert close(before, after)


def test_interpolation_at_its_ends_is_one_tuned_model(demo_files: dict[str, Path]) -> None:
    files = {**demo_files, "other": demo_files["reference"]}
    with Emulator.from_files(**files, threads=1) as four:
        for lambdas, tuned in (
            ({"tuned": 1.0, "other": 0.0}, "tuned"),
            ({"tuned": 0.0, "other": 1.0}, "other"),
        ):
            alone = Recipe({"base": 1.0, tuned: 1.0, "reference": -1.0})
            for prompt in PROMPTS:
                expected = tokens(four, prompt, alone)
                assert tokens(four, prompt, Recipe.interpolate(lambdas)) == expected
                assert tokens(four, prompt, Recipe.mix(lambdas)) == expected
                assert tokens(four, prompt, Recipe.mix(lambdas, 0.0)) == tokens(
                    four, prompt, Recipe.single("base")
                )
        assert four.models["other"] is four.models["reference"]
