"""From files to running roles: headers checked, one vocabulary, memory planned, then loaded.

Everything that can be refused is refused before llama.cpp sees a file, and what nothing vouches for
is first loaded in a child process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import eftlocal
from eftlocal import hub, llama
from eftlocal.decoding.ensemble import Ensemble
from eftlocal.decoding.passes import most_rows
from eftlocal.errors import DoesNotFitError, ModelFileError, UsageError, WorkerError
from eftlocal.gguf_file.check import check_adapter, checked_model
from eftlocal.gguf_file.header import Header
from eftlocal.loading.attention import n_ubatch, with_attention
from eftlocal.loading.context_rules import check_context, with_contexts
from eftlocal.loading.host import check_threads, host_memory_free
from eftlocal.loading.identity import Identity, identity
from eftlocal.loading.placement import (
    Held,
    Plan,
    RoleNeeds,
    accelerators,
    of_workers,
    plan,
)
from eftlocal.loading.roles import DEFAULT_N_CTX, RoleSource
from eftlocal.loading.translating import (
    divided,
    end_tokens,
    require_rewinding,
    stop_tokens,
    translations,
)
from eftlocal.loading.vocabulary import Vocabulary
from eftlocal.loading.weight_types import main_type
from eftlocal.prompt.messages import check_variables
from eftlocal.prompt.render import RolePrompt, check_format
from eftlocal.selftest import read_build_facts, with_rpc
from eftlocal.speculation.widths import measured

_COUNTS = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
_MOST_ON_CPU = 32  # more sequences bring nothing there
_SMALL = 64 << 20  # bytes of weights that any type decodes fast enough
_SHARE = 0.5  # of the host's free memory that a run of many sequences may fill


_PACKAGE = Path(eftlocal.__file__).resolve().parent

Progress = Callable[[str, float], None]
"""Called with a role and the share of its weights loaded, 0.0 to 1.0."""


@dataclass(frozen=True)
class UpTo:
    """As many sequences as fit without cost to anything else, up to a number."""

    most: int = _COUNTS[0]


@dataclass(frozen=True)
class Prepared:
    """Files checked and placed, nothing loaded yet.

    adapters: the headers of those that are put on roles. vocabulary: of the answers. others: of
    the roles whose rows are translated into it. foreign: ids of differing meaning.
    workers: by the names of their devices.
    """

    sources: Mapping[str, RoleSource]
    headers: Mapping[str, Header]
    adapters: Mapping[str, Header]
    vocabulary: Vocabulary
    others: Mapping[str, Vocabulary]
    foreign: tuple[int, ...]
    plan: Plan
    n_seq_max: int
    workers: Mapping[str, llama.Worker] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """Running roles.

    Attributes:
        fingerprint: of files, settings and machine: what decides the cost of a decode.
        identity: what saved caches are bound to.
        slow: roles on the CPU whose weights are in a type that it decodes one row after another,
            and that type.
        resources: closes contexts and models, in that order.
        held: the memory that closing them gives back.
    """

    ensemble: Ensemble
    models: Mapping[str, llama.Model]
    prompts: Mapping[str, RolePrompt]
    fingerprint: str
    resources: ExitStack
    identity: Identity
    slow: Mapping[str, str] = field(default_factory=dict)
    held: Held = field(default_factory=Held)


def prepare(
    sources: Mapping[str, RoleSource],
    *,
    n_seq_max: int | UpTo = 1,
    vocabulary_exceptions: Collection[int] = (),
    force: bool = False,
    trust: bool = False,
    checking: Progress | None = None,
    freed: Held | None = None,
    host_free: int | None = None,
) -> Prepared:
    """Checks every file, plans the memory, and tries files that are new; loads nothing here.

    Args:
        n_seq_max: sequences side by side.
        trust: new files are not tried in a child process.
        checking: called while one is tried, with its name and the share that is done.
        freed: of models that are closed before these are loaded.
        host_free: bytes of the host's memory that are free; None looks.

    Raises:
        ModelFileError: a file is missing, torn, hostile, or not a language model.
        VocabularyError: the roles do not share a vocabulary, and are not to be translated.
        DoesNotFitError: with the numbers.
        WorkerError: a role's worker cannot be used.
    """
    most = n_seq_max.most if isinstance(n_seq_max, UpTo) else n_seq_max
    if most < 1:
        raise UsageError(f"n_seq_max is {most}; it must be 1 or more")
    for role, source in sources.items():
        check_threads(source.threads, f"role {role}: threads")
        check_format(source.prompt)
        check_variables(source.chat_template_kwargs)
    headers, adapters = checked_files(sources)
    for role, source in sources.items():
        check_context(role, source, headers[role])
    sources = with_contexts(sources, headers)
    vocabulary, others = divided(headers, sources, vocabulary_exceptions)
    reached = _reached(sources)
    sources = {  # two spellings may be one worker
        role: replace(source, rpc=tuple(dict.fromkeys(reached[e].endpoint for e in source.rpc)))
        for role, source in sources.items()
    }
    workers = tuple(dict.fromkeys(reached.values()))
    planned_for = partial(planned, sources, headers, adapters, workers, freed, host_free)
    if isinstance(n_seq_max, UpTo):
        most, placed = _most_sequences(planned_for, most, force=force)
    else:
        placed = planned_for(most, force=force)
    sources = {
        role: with_attention(source, headers[role], on_cpu=placed.roles[role].on_cpu)
        for role, source in sources.items()
    }
    foreign = tuple(token for token in vocabulary_exceptions if token < vocabulary.size)
    files = (file for h in (*headers.values(), *adapters.values()) for file in h.files)
    if not trust and not all(map(is_vouched, files)):
        from eftlocal.loading.trial import Candidate, shared

        roles_of: dict[Path, list[str]] = {}  # each file is tried once, with every role's adapter
        for role, source in sources.items():
            roles_of.setdefault(source.path.resolve(), []).append(role)
        candidates = [
            Candidate(
                headers[roles[0]],
                list(dict.fromkeys(adapters[role] for role in roles if role in adapters)),
                repacked=placed.roles[roles[0]].n_gpu_layers == 0,
            )
            for roles in roles_of.values()
        ]
        shared.require(candidates, vouched=is_vouched, checking=checking)
    of_device = {device.name: worker for worker in workers for device in worker.devices}
    return Prepared(
        sources, headers, adapters, vocabulary, others, foreign, placed, most, of_device
    )


def checked_files(
    sources: Mapping[str, RoleSource],
) -> tuple[dict[str, Header], dict[str, Header]]:
    """The headers of all roles, and of the adapters put on them, each file read and checked once.

    Raises:
        ModelFileError: a file is missing, torn, hostile, or not a language model.
    """
    header_of = cache(checked_model)  # a file may play several roles
    headers = {role: header_of(source.path) for role, source in sources.items()}
    for role, header in headers.items():
        if header.is_adapter:
            raise ModelFileError(
                f"{header.path}: is a LoRA adapter, not a model; give it as the adapter of {role} "
                "(--adapter; in a preset, lora)"
            )
    for source in sources.values():
        if source.lora is not None and (source.lora / "adapter_config.json").is_file():
            raise ModelFileError(
                f"{source.lora}: an adapter as PEFT saves it; `eftlocal models adapter "
                f"{source.lora} OUT.gguf --base {source.path}` writes the GGUF to give"
            )
    adapters = {role: header_of(s.lora) for role, s in sources.items() if s.lora is not None}
    for role, adapter in adapters.items():
        if not adapter.is_adapter:
            raise ModelFileError(
                f"{adapter.path}: not a LoRA adapter, so it cannot be put on {role}; give a GGUF "
                "whose general.type is adapter"
            )
        check_adapter(adapter, headers[role])
    return headers, adapters


def is_vouched(path: Path) -> bool:
    """Whether the file lies in this package, or has the checksum that a preset pins."""
    return _PACKAGE in path.resolve().parents or hub.pinned(path)


def _most_sequences(
    planned_for: Callable[..., Plan], most: int, *, force: bool
) -> tuple[int, Plan]:
    """How many sequences fit beside each other, up to the number that is worth having.

    Their caches take no layer off a device, and leave half of the host's free memory.
    """
    alone = planned_for(1, force=force)
    whole = [placement.split for placement in alone.roles.values()]
    if not any(any(split) for split in whole):
        most = min(most, _MOST_ON_CPU)
    for count in (n for n in _COUNTS if n <= most):
        try:
            placed = planned_for(count, force=False)
        except DoesNotFitError:
            continue
        free = placed.host_free
        roomy = free is None or placed.host_bytes <= _SHARE * free
        if roomy and [placement.split for placement in placed.roles.values()] == whole:
            return count, placed
    return 1, alone


def planned(
    sources: Mapping[str, RoleSource],
    headers: Mapping[str, Header],
    adapters: Mapping[str, Header] = MappingProxyType({}),
    workers: Sequence[llama.Worker] = (),
    freed: Held | None = None,
    host_free: int | None = None,
    n_seq_max: int = 1,
    *,
    force: bool,
) -> Plan:
    """Where checked files go on this machine; the arguments are those of `prepare`.

    Raises:
        DoesNotFitError: with the numbers; not where it is forced.
    """
    freed = freed or Held()
    needs = [
        RoleNeeds.of(
            role,
            source,
            headers[role],
            n_seq_max,
            adapters.get(role),
            llama.repacked_types(),
        )
        for role, source in sources.items()
    ]
    host_free = host_memory_free() if host_free is None else host_free
    if host_free is not None:
        host_free += freed.host
    devices = [
        replace(device, free=device.free + freed.devices.get(device.name, 0))
        for device in (*of_workers(workers), *accelerators(llama.devices(), host_free))
    ]
    if host_free is not None:
        host_free += sum(freed.devices.get(device.name, 0) for device in devices if device.unified)
    return plan(needs, devices, host_free, force=force)


def _reached(sources: Mapping[str, RoleSource]) -> dict[str, llama.Worker]:
    """The workers that roles ask for, by what they call them.

    Raises:
        WorkerError: one cannot be used; the line names a role that asks for it.
    """
    asked: dict[str, str] = {}
    for role, source in sources.items():
        asked = {**dict.fromkeys(source.rpc, role), **asked}
    if asked and not llama.has_rpc():
        raise WorkerError(
            f"role {next(iter(asked.values()))} asks for a worker, and this llama.cpp was built "
            f"without RPC; to build it in: {with_rpc(read_build_facts())}"
        )
    return {endpoint: _connected(endpoint, role) for endpoint, role in asked.items()}


def _connected(endpoint: str, role: str) -> llama.Worker:
    try:
        return llama.connect(endpoint)
    except WorkerError as error:
        raise WorkerError(f"role {role}: {error}") from None


def load_roles(prepared: Prepared, *, progress: Progress | None = None) -> Loaded:
    """Loads what was prepared. On an error, or Ctrl-C, nothing stays loaded.

    Raises:
        ModelFileError, EngineError: llama.cpp refuses a file, or a context.
    """
    resources = ExitStack()
    try:
        fingerprint, widths = _fingerprint(prepared), None
        bound_to = identity(
            prepared.sources,
            prepared.headers,
            prepared.adapters,
            prepared.n_seq_max,
            fingerprint,
        )
        loaded: dict[Path, llama.Model] = {}
        models: dict[str, llama.Model] = {}
        for role, source in prepared.sources.items():
            file = source.path.resolve()
            if file not in loaded:
                placement = prepared.plan.roles[role]
                used = prepared.plan.used_by(role)
                loaded[file] = resources.enter_context(
                    llama.Model(
                        file,
                        gpu_layers=placement.n_gpu_layers,
                        devices=[name for name, _ in used],
                        tensor_split=[layers for _, layers in used],
                        workers=[prepared.workers[n] for n, _ in used if n in prepared.workers],
                        mapped=_is_mapped(prepared, role),
                        progress=progress and partial(progress, role),
                    )
                )
            models[role] = loaded[file]
        contexts = {
            role: resources.enter_context(_context(models[role], role, prepared))
            for role in prepared.sources
        }
        require_rewinding(contexts, prepared.others)
        if any(source.reproducible for source in prepared.sources.values()):
            for role, context in contexts.items():
                if why := context.cannot_rewind:
                    raise UsageError(f"reproducible is impossible: the model of {role} {why}")
            told = progress and (lambda role, share: progress(f"{role}: comparing rows", share))
            widths = measured(contexts, f"{fingerprint}-{prepared.n_seq_max}", told)
        vocabulary = prepared.vocabulary
        ends = end_tokens(models, vocabulary, prepared.others)
        threads = [s.threads or llama.default_threads() for s in prepared.sources.values()]
        apart = prepared.plan.apart
        pool = None
        if len(contexts) > 1 and (apart or sum(threads) <= llama.default_threads()):
            workers = ThreadPoolExecutor(len(contexts), "eftlocal-role")
            pool = resources.enter_context(workers)
        ensemble = Ensemble(
            contexts,
            vocab_size=vocabulary.size,
            unusable=[int(t) for t in vocabulary.unusable],
            stop_tokens=stop_tokens(ends, prepared.others),
            foreign=prepared.foreign,
            pool=pool,
            side_by_side=apart,
            widths=widths,
            translations=translations(models, vocabulary, prepared.others, ends, prepared.sources),
        )
        prompts = {r: role_prompt(s, models[r]) for r, s in prepared.sources.items()}
        return Loaded(
            ensemble,
            models,
            prompts,
            fingerprint,
            resources,
            identity=bound_to,
            slow=_slow(prepared),
            held=_held(prepared),
        )
    except BaseException:
        resources.close()
        raise


def _is_mapped(prepared: Prepared, role: str) -> bool:
    on_host = prepared.plan.roles[role].n_gpu_layers == 0
    return not (on_host and is_repacked(prepared.headers[role]))


def _held(prepared: Prepared) -> Held:
    plan = prepared.plan
    mapped: dict[str, int] = {}
    for role, placement in plan.roles.items():
        if _is_mapped(prepared, role) and placement.host_weights:
            mapped[str(prepared.headers[role].path.resolve())] = placement.host_weights
    return Held(
        plan.host_bytes - sum(mapped.values()),
        {device.name: plan.device_bytes(i) for i, device in enumerate(plan.devices)},
        mapped,
    )


def _fingerprint(prepared: Prepared) -> str:
    parts = [
        eftlocal.__version__,
        llama.build(),
        llama.system_info(),
        *(f"{device.name} {device.description}" for device in llama.devices()),
    ]
    for role, source in prepared.sources.items():
        header, placement = prepared.headers[role], prepared.plan.roles[role]
        engine = replace(
            source,
            path=Path(),
            lora=None,
            lora_scale=1.0,
            prompt="",
            without_system=False,
            system_in_user=False,
            chat_template_kwargs={},
            n_ctx=None,
        )
        threads = source.threads or llama.default_threads()
        parts += [
            f"{role} {engine} {threads}",
            f"{placement.n_gpu_layers} {placement.split}",
            f"{header.path.name} {header.weight_bytes} {source.lora is not None}",
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def is_repacked(header: Header) -> bool:
    """Whether most of the weights would be copied when they are decoded on the CPU."""
    types = llama.repacked_types()
    copied = sum(tensor.nbytes for tensor in header.tensors if tensor.type.name in types)
    return copied > header.weight_bytes / 2


def _slow(prepared: Prepared) -> dict[str, str]:
    fast, found = llama.blocked_types(), {}
    for role, header in prepared.headers.items():
        on_cpu = prepared.plan.roles[role].n_gpu_layers <= header.n_layers
        kind = main_type(header)
        if fast and on_cpu and kind not in fast and header.weight_bytes > _SMALL:
            found[role] = kind
    return found


def _context(model: llama.Model, role: str, prepared: Prepared) -> llama.Context:
    source, n_seq_max = prepared.sources[role], prepared.n_seq_max
    return llama.Context(
        model,
        n_ctx=source.n_ctx or DEFAULT_N_CTX,
        n_batch=source.n_batch,
        n_ubatch=n_ubatch(source, on_cpu=prepared.plan.roles[role].on_cpu),
        n_seq_max=n_seq_max,
        n_rows=most_rows(n_seq_max),
        n_threads=source.threads,
        cache_type_k=source.cache_type_k,
        cache_type_v=source.cache_type_v,
        flash_attention=source.flash_attention,
        swa_full=source.swa_full,
        rope=source.rope,
        adapters=[(source.lora, source.lora_scale)] if source.lora else [],
    )


def role_prompt(source: RoleSource, model: llama.Model) -> RolePrompt:
    """How a role sees a conversation, from its settings and its model's vocabulary."""

    def text(token: int | None) -> str:
        return "" if token is None else model.piece(token, special=True).decode("utf-8", "replace")

    return RolePrompt(
        format=source.prompt,
        without_system=source.without_system,
        system_in_user=source.system_in_user,
        variables=source.chat_template_kwargs,
        thinking=source.thinking,
        template=model.chat_template,
        bos_token=text(model.bos),
        eos_token=text(model.eos),
        add_bos=model.adds_bos,
        special_texts=model.control_texts,
    )
