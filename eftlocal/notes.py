"""What a person should know before they use these models with a recipe, as lines."""

from __future__ import annotations

from collections.abc import Mapping

from eftlocal.decoding.ensemble import Ensemble
from eftlocal.llama import Model
from eftlocal.logits.recipe import BASE, PERSONA, REFERENCE, TUNED, Recipe
from eftlocal.presets.writing import optimized_of
from eftlocal.speculation.costs import Costs

_CHEAP = 2.2  # times one row: where four cost no more, another type brings little
_ROUNDED = 1e-6  # weights that sum to less sum to 0
_FEW_READ = 4  # tokens of a call: a prompt read so takes far longer


def notes_of(ensemble: Ensemble, recipe: Recipe, models: Mapping[str, Model]) -> list[str]:
    """Warnings about a recipe, contexts and how prompts are read."""
    found: list[str] = []
    base, reference = models.get(BASE), models.get(REFERENCE)
    both = reference is not None and reference.chat_template  # then what they share cancels
    if recipe.name == "steer" and base is not None and base.chat_template and not both:
        found.append(
            f"{base.path.name} has a chat template, so it may be tuned already: steering such "
            "a base gains little (arXiv 2401.17256)"
        )
    if recipe.name == PERSONA and base is not None and base is models.get(TUNED):
        found.append(
            "base and tuned are one model, so this is guidance: at alpha 1 that model reads the "
            "persona, and beyond 1 the persona is made stronger"
        )
    kinds: dict[tuple[int, int], list[str]] = {}
    for role, translation in ensemble.translations.items():
        if role in recipe.roles:
            rows = translation.rows
            kinds.setdefault((rows.twins, len(rows.missing)), []).append(role)
    for (twins, missing), roles in kinds.items():
        found.append(
            f"{' and '.join(roles)} {'have' if len(roles) > 1 else 'has'} another vocabulary than "
            f"base, so the rows are translated: {twins / ensemble.vocab_size:.0%} of base's tokens "
            f"are tokens there too, {missing:,} are left to base"
        )
    translated = [role for role in recipe.roles if role in ensemble.translations]
    if abs(total := sum(recipe.weights.get(role, 0.0) for role in translated)) > _ROUNDED:
        found.append(
            f"the weights of {' and '.join(translated)} sum to {total:g}, not 0: a translated row "
            "knows of most tokens only their first piece, so answers are poor; use the difference "
            "of a tuned role and its reference, as proxy does, and upscale at beta 1"
        )
    beyond: dict[tuple[int, int], list[str]] = {}
    for role, context in ensemble.contexts.items():
        if 0 < context.n_ctx_train < context.n_ctx:
            beyond.setdefault((context.n_ctx, context.n_ctx_train), []).append(role)
    for (n_ctx, trained), roles in beyond.items():
        found.append(
            f"n_ctx is {n_ctx}, and {', '.join(roles)} trained on {trained} tokens at most: "
            "beyond that, answers may make no sense; lower n_ctx, or see rope_freq_scale"
        )
    few: dict[int, list[str]] = {}
    for role, widths in ensemble.widths.items():
        if max(widths.reads) < _FEW_READ:
            few.setdefault(max(widths.reads), []).append(role)
    for count, roles in few.items():
        found.append(
            f"reproducible: the prompt of {' and '.join(roles)} is read {count} token"
            f"{'s' * (count > 1)} a call, which is slow; files in another quantization may be "
            "read faster"
        )
    return found


def slow_notes(preset: str, slow: Mapping[str, str], costs: Costs | None) -> list[str]:
    """A line about roles in types that hinder drafts here, where there are any.

    Args:
        slow: roles and their types; what was measured of these files counts more.
    """
    kinds: dict[str, list[str]] = {}
    for role, kind in slow.items():
        if costs is None or costs(role, 4) > _CHEAP * costs(role, 1):
            kinds.setdefault(kind, []).append(role)
    if not kinds:
        return []
    types = ", ".join(f"{' and '.join(roles)} in {kind}" for kind, roles in kinds.items())
    faster = f"`eftlocal models optimize {preset}` writes faster files"
    if made := optimized_of(preset):
        faster = f"the preset {made} has faster files of the same models"
    return [f"{types}: slow on this CPU for several tokens at once, as drafts need; {faster}"]
