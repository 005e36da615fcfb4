"""What plays a role: its files, its prompt, and how llama.cpp is to run it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eftlocal.errors import UsageError
from eftlocal.kinds import REST, for_role, of_one_role
from eftlocal.logits.recipe import BASE, MADE, PERSONA, REFERENCE, TRIO, TUNED, UNGUIDED, Recipe
from eftlocal.presets.schema import FileRef, Preset
from eftlocal.settings import CONTEXT, ROPE, SETTINGS, misplaced

DEFAULT_N_CTX = 4096  # tokens, where neither the model nor the caller has less or more
_CHECKED = (*CONTEXT, "threads", "gpu_layers", "rpc")


@dataclass(frozen=True)
class RoleSource:
    """What plays a role, and how llama.cpp is to run it.

    Attributes:
        path: the weights.
        lora: an adapter put on them, for this role only.
        lora_scale: times it.
        prompt: "chat", "same" (the very text of the tuned role), "plain", the name of a chat format
            of llama.cpp's (chatml, llama3, ...), or a template's source.
        without_system: leave out system messages for this role.
        system_in_user: put them at the beginning of the user's instead, for its template.
        chat_template_kwargs: further variables for its template, such as enable_thinking.
        thinking: the texts before and after its thinking, where no template says them.
        n_ctx: longest sequence in tokens; None is what the model was trained for, at most 4096.
        n_batch: most tokens decoded in one call.
        threads: CPU threads; None is every physical core.
        gpu_layers: None places automatically; -1 is all.
        rpc: workers (host:port) whose devices take its layers, before those of this machine.
        cache_type_k, cache_type_v: element types of the KV cache.
        flash_attention: "auto", "on" or "off".
        translation: how its rows are translated where the base has another vocabulary:
            "candidates", "prefix", "text", or "off" to refuse such a base.
        swa_full: keep the whole cache of sliding-window layers, so that it can be rewound.
        rope_scaling, ..., yarn_beta_slow: how positions are encoded; None is as the model says.
        reproducible: keep to calls that give the bits of one row at a time.
    """

    path: Path
    lora: Path | None = None
    lora_scale: float = 1.0
    prompt: str = "chat"
    without_system: bool = False
    system_in_user: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    thinking: tuple[str, str] | None = None
    n_ctx: int | None = None
    n_batch: int = SETTINGS["n_batch"].default
    threads: int | None = None
    gpu_layers: int | None = None
    rpc: tuple[str, ...] = ()
    cache_type_k: str = SETTINGS["cache_type_k"].default
    cache_type_v: str = SETTINGS["cache_type_v"].default
    flash_attention: str = SETTINGS["flash_attention"].default
    translation: str = SETTINGS["translation"].default
    swa_full: bool = False
    rope_scaling: str | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_orig_ctx: int | None = None
    yarn_ext_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    reproducible: bool = False

    def __post_init__(self) -> None:
        for name in _CHECKED:
            if (value := getattr(self, name)) is not None:
                one = of_one_role(SETTINGS[name].kind).checked(name, value)
                object.__setattr__(self, name, one)

    @property
    def rope(self) -> dict[str, Any]:
        """How positions are encoded, where the model is not to say it."""
        return {name: value for name in ROPE if (value := getattr(self, name)) is not None}


def role_source(preset: Preset, role: str, fetch: Callable[[FileRef], Path]) -> RoleSource:
    """A preset's role with its files on this machine; what the preset leaves open is ours.

    `fetch` finds or downloads a file. Its errors pass through.
    """
    file = preset.roles[role]
    prompt = file.prompt or ("chat" if preset.kind(role) == "tuned" else "same")
    return RoleSource(
        fetch(preset.weights(role)),
        lora=fetch(file.lora) if file.lora else None,
        lora_scale=file.lora.scale if file.lora else 1.0,
        prompt=prompt if isinstance(prompt, str) else prompt.template,
        without_system=bool(file.without_system),
        thinking=file.thinking,
        **file.given,
    )


def preset_sources(preset: Preset, fetch: Callable[[FileRef], Path]) -> dict[str, RoleSource]:
    """Every role of a preset."""
    return {role: role_source(preset, role, fetch) for role in preset.roles}


def with_adapted(files: Mapping[str, Path], adapters: Collection[str]) -> dict[str, Path]:
    """The files of roles, and of those that have an adapter only: the reference's.

    Args:
        adapters: roles that have one.
    """
    found = dict(files)
    if REFERENCE in files:
        found |= {role: files[REFERENCE] for role in adapters if role not in (*files, BASE)}
    return {role: found[role] for role in dict.fromkeys((*TRIO, *found)) if role in found}


def file_sources(
    files: Mapping[str, Path], prompts: Mapping[str, str] | None = None
) -> dict[str, RoleSource]:
    """Roles played by files. Where nothing else is given, the tuned role (or the first) sees its
    own chat template and the others the same text."""
    chat = "tuned" if "tuned" in files else next(iter(files), "")
    prompt = {role: "chat" if role == chat else "same" for role in files} | dict(prompts or {})
    return {role: RoleSource(path, prompt=prompt[role]) for role, path in files.items()}


def with_settings(
    sources: Mapping[str, RoleSource],
    *,
    prompts: Mapping[str, str] | None = None,
    adapters: Mapping[str, tuple[Path, float]] | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, RoleSource]:
    """The sources with these settings for every role; None leaves one as it is.

    Args:
        prompts: role to its prompt.
        adapters: role to its LoRA adapter and the scale of it.
        chat_template_kwargs: on top of those that a role has.
        changes: further attributes of `RoleSource`, or mappings of roles to them.

    Raises:
        UsageError: there is no role that is named, or a value is out of its range.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    for key, value in {"prompts": prompts, "adapters": adapters, **given}.items():
        for role in value if isinstance(value, Mapping) else ():
            if role not in (*sources, REST):
                raise UsageError(f"{key}: there is no role {role}; there are {', '.join(sources)}")
    changed = {}
    for role, source in sources.items():
        new = {key: for_role(value, role) for key, value in given.items()}
        new = {key: value for key, value in new.items() if value is not None}
        if new.get("rope_scaling", source.rope_scaling) != source.rope_scaling:
            new = {**dict.fromkeys(misplaced(new["rope_scaling"])), **new}  # they went with the old
        if adapters and role in adapters:
            new["lora"], new["lora_scale"] = adapters[role]
        changed[role] = replace(
            source,
            prompt=(prompts or {}).get(role, source.prompt),
            chat_template_kwargs={**source.chat_template_kwargs, **(chat_template_kwargs or {})},
            **new,
        )
    return changed


def text_role(roles: Collection[str], others: Collection[str] = ()) -> str:
    """The role whose tokens an answer is made of.

    Args:
        others: roles that have another vocabulary.
    """
    return (
        TUNED
        if TUNED in roles and TUNED not in others
        else next(r for r in roles if r not in others)
    )


def require_roles(
    recipe: Recipe,
    roles: Collection[str],
    *,
    to_load: bool = False,
    written: Callable[[str], str] | None = None,
) -> Recipe:
    """The recipe, if there is every role that it needs.

    Args:
        roles: that are there.
        to_load: they are still to be loaded, which adds those of `made_roles`.
        written: how a user would give a role, for the message.

    Raises:
        UsageError: a role is missing; the line names it.
    """
    made = made_roles(recipe, roles)
    missing = [role for role in recipe.roles if role not in roles]
    if not missing or (to_load and made.keys() >= set(missing)):
        return recipe
    if made.keys() >= set(missing):
        advice = "load with this recipe"
    else:  # others are made of what is missing
        missing = [role for role in missing if role not in MADE] or [TUNED]
        it = "them" if missing[1:] else "it"
        advice = f"give {' and '.join(map(written, missing)) if written else it}, or another recipe"
    raise UsageError(
        f"recipe {recipe.name} needs the role{'s' * bool(missing[1:])} {' and '.join(missing)}, "
        f"and there {'are' if len(roles) > 1 else 'is'} only {', '.join(roles)}; {advice}"
    )


def made_roles(recipe: Recipe, roles: Collection[str]) -> dict[str, str]:
    """The recipe's roles that loading makes of those that are there, each with what it is made of:
    the tuned model under another prompt; and for a persona of one model alone, the pair."""
    made: dict[str, str] = {}
    tuned = TUNED if TUNED in roles else ""
    if PERSONA in recipe.weights and len(roles) == 1 and {BASE, TUNED}.issuperset(roles):
        (tuned,) = roles
        made = {role: tuned for role in (BASE, TUNED) if role in recipe.weights and role != tuned}
    if tuned:
        made |= {role: tuned for role in MADE if role in recipe.weights and role not in roles}
    return made


def with_made(sources: Mapping[str, RoleSource], recipe: Recipe) -> dict[str, RoleSource]:
    """The sources, and those that loading makes of them: of `unguided` the conversation's system
    prompt is left out, and `prompt` adds a persona to what the role of this name reads."""
    found = dict(sources)
    for role, of in made_roles(recipe, sources).items():
        apart = found[of].without_system or role == UNGUIDED
        found[role] = replace(found[of], without_system=apart)
    return found
