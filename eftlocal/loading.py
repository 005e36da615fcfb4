"""From files to an emulator: headers checked, one vocabulary, memory planned, then loaded.

Everything that can be refused is refused before llama.cpp sees a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eftlocal import llama
from eftlocal.emulator import Defaults, Emulator
from eftlocal.ensemble import Ensemble
from eftlocal.errors import ModelFileError, UsageError
from eftlocal.file_ref import FileRef
from eftlocal.gguf_header import Header, read_header
from eftlocal.host_memory import host_memory_free
from eftlocal.placement import DeviceMemory, Plan, RoleNeeds, plan
from eftlocal.preset_schema import Preset, RecipeSettings
from eftlocal.presets import find
from eftlocal.prompt import RolePrompt
from eftlocal.recipe import Recipe
from eftlocal.sampling import Sampling
from eftlocal.vocabulary import Vocabulary, require

DEFAULT_N_CTX = 4096  # tokens, where neither the model nor the caller has less or more

Progress = Callable[[str, float], None]
"""Called with a role and the share of its weights loaded, 0.0 to 1.0."""


@dataclass(frozen=True)
class RoleSource:
    """What plays a role, and how llama.cpp is to run it.

    Attributes:
        path: the weights.
        lora: an adapter put on them, for this role only.
        prompt: "chat", "same" (the very text of the tuned role), "plain", or a template's source.
        n_ctx: longest sequence in tokens; None is what the model was trained for, at most 4096.
        n_batch: most tokens decoded in one call.
        threads: CPU threads; None is every physical core.
        gpu_layers: None places automatically; -1 is all.
        cache_type_k, cache_type_v: element types of the KV cache.
        flash_attention: "auto", "on" or "off".
        swa_full: keep the whole cache of sliding-window layers, so that it can be rewound.
    """

    path: Path
    lora: Path | None = None
    prompt: str = "chat"
    n_ctx: int | None = None
    n_batch: int = 512
    threads: int | None = None
    gpu_layers: int | None = None
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: str = "auto"
    swa_full: bool = False


@dataclass(frozen=True)
class Prepared:
    """Files checked and placed, nothing loaded yet."""

    sources: Mapping[str, RoleSource]
    headers: Mapping[str, Header]
    vocabulary: Vocabulary
    plan: Plan


def load(
    preset: str,
    *,
    offline: bool = False,
    recipe: Recipe | None = None,
    sampling: Sampling | None = None,
    n_ctx: int | None = None,
    n_seq_max: int = 1,
    threads: int | None = None,
    gpu_layers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Emulator:
    """Loads a preset by name, downloading what is missing.

    Args:
        preset: a name in models.toml or the user's presets file.
        offline: refuse to download.
        recipe, sampling: defaults instead of the preset's.
        n_ctx, threads, gpu_layers: for every role, instead of the preset's.
        n_seq_max: sequences that may run side by side.
        force: load even where the memory seems too small.
        progress: called while weights are loaded.

    Raises:
        EftlocalError: see eftlocal.errors; nothing stays loaded.
    """
    from eftlocal.hub import resolve

    found = find(preset)
    sources = {
        role: _source(found, role, lambda file: resolve(file, offline=offline))
        for role in found.roles
    }
    defaults = _defaults(found)
    return load_sources(
        _with_engine(sources, n_ctx=n_ctx, threads=threads, gpu_layers=gpu_layers),
        defaults=replace(
            defaults,
            recipe=recipe or defaults.recipe,
            sampling=sampling or defaults.sampling,
        ),
        vocabulary_exceptions=found.vocabulary_exceptions,
        n_seq_max=n_seq_max,
        force=force,
        progress=progress,
        name=preset,
    )


def load_files(
    files: Mapping[str, str | os.PathLike[str]],
    *,
    prompts: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    n_ctx: int | None = None,
    n_seq_max: int = 1,
    threads: int | None = None,
    gpu_layers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Emulator:
    """Loads one GGUF file per role.

    Args:
        files: role to path; a path may play several roles and is loaded once.
        prompts: role to "chat", "same", "plain" or a template. By default the tuned role sees
            its own chat template, and the others the same text.

    The other arguments are those of `load`.
    """
    prompts = prompts or {}
    for role in prompts:
        if role not in files:
            raise UsageError(f"prompts: there is no role {role}; loaded are {', '.join(files)}")
    chat = "tuned" if "tuned" in files else next(iter(files))
    sources = {
        role: RoleSource(Path(path), prompt=prompts.get(role, "chat" if role == chat else "same"))
        for role, path in files.items()
    }
    return load_sources(
        _with_engine(sources, n_ctx=n_ctx, threads=threads, gpu_layers=gpu_layers),
        defaults=Defaults(recipe or Recipe.upscale(), sampling or Sampling(), stop=tuple(stop)),
        n_seq_max=n_seq_max,
        force=force,
        progress=progress,
    )


def load_sources(
    sources: Mapping[str, RoleSource],
    *,
    defaults: Defaults | None = None,
    vocabulary_exceptions: Collection[int] = (),
    n_seq_max: int = 1,
    force: bool = False,
    progress: Progress | None = None,
    name: str = "",
) -> Emulator:
    """Loads roles with settings of their own; see `prepare` for what is refused before that."""
    prepared = prepare(
        sources,
        n_seq_max=n_seq_max,
        vocabulary_exceptions=vocabulary_exceptions,
        force=force,
    )
    defaults = defaults or Defaults(Recipe.upscale())
    for role in defaults.recipe.roles:
        if role not in sources:
            raise UsageError(
                f"recipe {defaults.recipe.name} needs the role {role}, and there are only "
                f"{', '.join(sources)}"
            )
    return _load(prepared, defaults=defaults, n_seq_max=n_seq_max, progress=progress, name=name)


def _with_engine(sources: Mapping[str, RoleSource], **changes: Any) -> dict[str, RoleSource]:
    """The sources with these settings for every role; None leaves one as it is."""
    given = {key: value for key, value in changes.items() if value is not None}
    return {role: replace(source, **given) for role, source in sources.items()}


def prepare(
    sources: Mapping[str, RoleSource],
    *,
    n_seq_max: int = 1,
    vocabulary_exceptions: Collection[int] = (),
    force: bool = False,
) -> Prepared:
    """Checks every file and plans the memory; loads nothing.

    Raises:
        ModelFileError: a file is missing, torn, hostile, or not a language model.
        VocabularyError: the roles do not share a vocabulary.
        DoesNotFitError: with the numbers.
    """
    headers = {role: read_header(source.path) for role, source in sources.items()}
    for role, header in headers.items():
        if header.is_adapter:
            raise ModelFileError(
                f"{header.path}: a LoRA adapter cannot play {role} by itself; give it as lora"
            )
    for role, source in sources.items():
        if source.lora is not None and not read_header(source.lora).is_adapter:
            raise ModelFileError(
                f"{source.lora}: not a LoRA adapter, so it cannot be put on {role}; give a GGUF "
                "whose general.type is adapter"
            )
    sources = {
        role: source
        if source.n_ctx is not None
        else replace(source, n_ctx=min(headers[role].n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX))
        for role, source in sources.items()
    }
    vocabulary = require(headers, vocabulary_exceptions)
    needs = [
        RoleNeeds.from_header(
            role,
            headers[role],
            n_ctx=source.n_ctx or DEFAULT_N_CTX,
            n_seq=n_seq_max,
            n_batch=source.n_batch,
            type_k=source.cache_type_k,
            type_v=source.cache_type_v,
            adapter=read_header(source.lora) if source.lora else None,
            n_gpu_layers=source.gpu_layers,
        )
        for role, source in sources.items()
    ]
    accelerators = [
        DeviceMemory(d.name, d.memory_free, unified=d.kind == "igpu" or sys.platform == "darwin")
        for d in llama.devices()
        if d.kind in ("gpu", "igpu")
    ]
    return Prepared(
        sources, headers, vocabulary, plan(needs, accelerators, host_memory_free(), force=force)
    )


def _load(
    prepared: Prepared,
    *,
    defaults: Defaults,
    n_seq_max: int,
    progress: Progress | None,
    name: str,
) -> Emulator:
    resources = ExitStack()
    try:
        loaded: dict[Path, llama.Model] = {}
        models: dict[str, llama.Model] = {}
        for role, source in prepared.sources.items():
            file = source.path.resolve()
            if file not in loaded:
                placement = prepared.plan.roles[role]
                loaded[file] = resources.enter_context(
                    llama.Model(
                        file,
                        gpu_layers=placement.n_gpu_layers,
                        tensor_split=placement.split,
                        progress=_of_role(progress, role),
                    )
                )
            models[role] = loaded[file]
        contexts = {
            role: resources.enter_context(_context(models[role], source, n_seq_max))
            for role, source in prepared.sources.items()
        }
        vocabulary = prepared.vocabulary
        ends = {t for ids in vocabulary.end_tokens_declared.values() for t in ids}
        for model in loaded.values():
            ends |= model.end_tokens(model.special_tokens())
        ensemble = Ensemble(
            contexts,
            vocab_size=vocabulary.size,
            unusable=[int(t) for t in vocabulary.unusable],
            stop_tokens=frozenset(t for t in ends if t < vocabulary.size),
        )
        return Emulator(
            ensemble,
            models,
            {r: _role_prompt(s.prompt, models[r]) for r, s in prepared.sources.items()},
            defaults,
            resources,
            name=name,
        )
    except BaseException:
        resources.close()
        raise


def _context(model: llama.Model, source: RoleSource, n_seq_max: int) -> llama.Context:
    return llama.Context(
        model,
        n_ctx=source.n_ctx or DEFAULT_N_CTX,
        n_batch=source.n_batch,
        n_seq_max=n_seq_max,
        n_threads=source.threads,
        cache_type_k=source.cache_type_k,
        cache_type_v=source.cache_type_v,
        flash_attention=source.flash_attention,
        swa_full=source.swa_full,
        adapters=[(source.lora, 1.0)] if source.lora else [],
    )


def _role_prompt(kind: str, model: llama.Model) -> RolePrompt:
    def text(token: int | None) -> str:
        return "" if token is None else model.piece(token, special=True).decode("utf-8", "replace")

    return RolePrompt(
        format=kind,
        template=model.chat_template,
        bos_token=text(model.bos),
        eos_token=text(model.eos),
        add_bos=model.adds_bos,
        special_texts=frozenset(text(t) for t in model.special_tokens(user_defined=False)),
    )


def _source(preset: Preset, role: str, fetch: Callable[[FileRef], Path]) -> RoleSource:
    """A preset's role with its files on this machine; what the preset leaves open is ours."""
    file = preset.roles[role]
    prompt = file.prompt or ("chat" if preset.kind(role) == "tuned" else "same")
    settings = {
        "n_ctx": file.n_ctx,
        "n_batch": file.n_batch,
        "threads": file.threads,
        "gpu_layers": None if file.gpu_layers == "auto" else file.gpu_layers,
        "cache_type_k": file.cache_type_k,
        "cache_type_v": file.cache_type_v,
        "flash_attention": {None: None, True: "on", False: "off"}[file.flash_attention],
        "swa_full": file.swa_full,
    }
    source = RoleSource(
        fetch(preset.weights(role)),
        lora=fetch(file.lora) if file.lora else None,
        prompt=prompt if isinstance(prompt, str) else prompt.template,
    )
    given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
    return replace(source, **given)


def preset_defaults(preset: str | None) -> Defaults:
    """What a preset's generations use where nothing else is said; None: the program's own."""
    return Defaults(Recipe.upscale()) if preset is None else _defaults(find(preset))


def _defaults(preset: Preset) -> Defaults:
    given = preset.sampling.model_dump(exclude_none=True, exclude={"max_tokens"})
    return Defaults(
        recipe=_recipe(preset.recipe),
        sampling=replace(Sampling(), **given),
        max_tokens=preset.sampling.max_tokens,
        stop=preset.stop,
    )


def _recipe(settings: RecipeSettings | None) -> Recipe:
    """The recipe that a preset's numbers mean; up-scaling where it has none."""
    if settings is None:
        return Recipe.upscale()
    if settings.weights is not None:
        recipe = Recipe(settings.weights)
    else:
        recipe = Recipe.parse(
            settings.name,
            alpha=settings.alpha,
            beta=settings.beta,
            lambda_=settings.lambda_,
            strength=settings.strength,
        )
    return recipe.stabilise(
        delta_top_p=settings.delta_top_p,
        plausibility=settings.plausibility,
        delta_clip=settings.delta_clip,
    )


def _of_role(progress: Progress | None, role: str) -> Callable[[float], None] | None:
    if progress is None:
        return None
    report = progress
    return lambda share: report(role, share)
