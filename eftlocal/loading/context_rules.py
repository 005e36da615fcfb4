"""Which settings of a context go together, and with a model: what llama.cpp would ignore, or refuse
only after the weights were loaded, is refused before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from eftlocal.errors import UsageError
from eftlocal.gguf_file.header import Header, is_latent
from eftlocal.gguf_file.parser import block_of
from eftlocal.kinds import OFF
from eftlocal.loading.roles import DEFAULT_N_CTX, RoleSource
from eftlocal.settings import misplaced


def check_context(role: str, source: RoleSource, header: Header) -> None:
    """Refuses a role's settings of its context that cannot be.

    Raises:
        UsageError: one line, which names the role and the settings.
    """
    _check_cache(role, source, header)
    _check_positions(role, source, header)


def with_contexts(
    sources: Mapping[str, RoleSource], headers: Mapping[str, Header]
) -> dict[str, RoleSource]:
    """The roles with the number of tokens of a context: what was asked for, or else what the model
    was trained for, 4096 at most."""
    return {
        role: replace(
            source,
            n_ctx=source.n_ctx or min(headers[role].n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX),
        )
        for role, source in sources.items()
    }


def _check_cache(role: str, source: RoleSource, header: Header) -> None:
    off = source.flash_attention == OFF
    if off and block_of(source.cache_type_v)[0] > 1:
        raise UsageError(
            f"role {role}: cache_type_v {source.cache_type_v} needs flash attention; leave "
            "flash_attention to auto, or take f16"
        )
    for name, width in (("k", header.key_length), ("v", header.value_length)):
        kind = getattr(source, f"cache_type_{name}")
        block, _ = block_of(kind)
        if not off and width % block:
            raise UsageError(
                f"role {role}: cache_type_{name} {kind} keeps {block} numbers together, and "
                f"{header.path.name} has {width} a head; take f16"
            )
    if is_latent(header) and source.cache_type_k != source.cache_type_v:
        raise UsageError(
            f"role {role}: {header.path.name} keeps keys and values together; give cache_type_k "
            "and cache_type_v the same type"
        )


def _check_positions(role: str, source: RoleSource, header: Header) -> None:
    own = str(header.metadata.get(f"{header.architecture}.rope.scaling.type", "linear"))
    scaling = source.rope_scaling or own
    for name in misplaced(scaling):
        # llama.cpp knows one original length, whatever the scaling of the model's own.
        if name not in source.rope or (name == "yarn_orig_ctx" and scaling == "longrope"):
            continue
        if name == "rope_freq_scale":
            raise UsageError(
                f"role {role}: {name} does nothing where rope_scaling is none; leave one out"
            )
        raise UsageError(
            f"role {role}: {name} is for rope_scaling yarn, and it is {scaling}; give "
            f"rope_scaling yarn, or leave out {name}"
        )
