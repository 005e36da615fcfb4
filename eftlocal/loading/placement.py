"""Where each model goes, and whether all fit in this machine, before anything is loaded.

The small models go to a device first, whole; then as many layers of the large one as fit. A role
that has workers goes to their devices, and what has no place there to those of this machine. What
does not fit in the host's memory is refused with the numbers. A file that plays several roles is
loaded once, so its weights count once, its caches once a role.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import psutil

from eftlocal.constraint import BYTES_A_TOKEN, BYTES_AN_ANSWER
from eftlocal.decoding.passes import most_rows
from eftlocal.errors import DoesNotFitError, UsageError
from eftlocal.gguf_file.header import Header, kv_cache_bytes
from eftlocal.kinds import OFF
from eftlocal.llama import Device, Worker
from eftlocal.loading.attention import n_ubatch, with_attention
from eftlocal.loading.roles import DEFAULT_N_CTX, RoleSource
from eftlocal.logits.recipe import TUNED
from eftlocal.settings import MAX_DRAFT

DEVICE_MARGIN = 512 << 20  # bytes left free on a device, for its driver's own buffers
_BYTES_A_TOKEN = 300  # of a vocabulary and its merges, measured at 49,152 and 128,256 tokens
_TRY = (
    "try a smaller context (n_ctx), KV-cache type q8_0, a smaller quantization of the base or a "
    "smaller model"
)
_SOFTWARE = ("llvmpipe", "SwiftShader")  # Vulkan on the CPU: slow, for tests


@dataclass(frozen=True)
class RoleNeeds:
    """What one role needs, in bytes. Roles with the same `file` share its weights.

    layers and cache: (n_layers,) weights and cache of each layer. output: the output matrix,
    which goes with the last layer; tied: on the host it is the embeddings themselves. rest:
    weights that stay in the host's memory (embeddings). compute: buffers of one decode; on_cpu: the
    same where all layers are on the host; staging: the part that the host keeps when the model is
    whole on devices. adapter: a LoRA adapter's weights.
    vocabulary: what llama.cpp keeps of the tokens' texts, on the host. constraints: what
    constrained answers take of the host's memory, of the role that they are in.
    n_gpu_layers: None places automatically; 0 keeps all on the host; n puts the output and the
    last n - 1 layers on devices, as llama.cpp counts; -1 puts everything there. workers: on whose
    devices some layer at least must be.
    """

    role: str
    file: str
    layers: tuple[int, ...]
    cache: tuple[int, ...]
    output: int
    rest: int
    compute: int
    on_cpu: int
    staging: int = 0
    tied: bool = False
    adapter: int = 0
    vocabulary: int = 0
    constraints: int = 0
    n_gpu_layers: int | None = None
    workers: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        role: str,
        source: RoleSource,
        header: Header,
        n_seq: int = 1,
        adapter: Header | None = None,
        repacked: Collection[str] = (),
    ) -> RoleNeeds:
        """The needs of a role with a context of n_seq sequences of `source.n_ctx` tokens each.

        Weights and cache are exact for ordinary transformers, the compute buffer is within some
        hundredths of what llama.cpp reserves; see `_buffers`.

        Args:
            repacked: tensor types that the host copies; embeddings that are the output as well are
                then there twice.
        """
        tied, output = header.has_tied_output, header.output_bytes
        n_ctx = source.n_ctx or DEFAULT_N_CTX
        compute, staging = _buffers(source, header, n_ctx, n_seq, on_cpu=False)
        on_cpu, _ = _buffers(source, header, n_ctx, n_seq, on_cpu=True)
        return cls(
            role=role,
            file=str(header.path.resolve()),
            layers=tuple(header.layer_bytes(i) for i in range(header.n_layers)),
            cache=kv_cache_bytes(header, n_ctx, n_seq, source.cache_type_k, source.cache_type_v),
            output=output,
            rest=header.other_bytes - (0 if tied else output),
            compute=compute,
            on_cpu=on_cpu,
            staging=staging,
            tied=tied and header.output_type not in repacked,
            adapter=adapter.weight_bytes if adapter else 0,
            vocabulary=header.n_vocab * _BYTES_A_TOKEN,
            constraints=(
                header.n_vocab * BYTES_A_TOKEN + n_seq * BYTES_AN_ANSWER if role == TUNED else 0
            ),
            n_gpu_layers=source.gpu_layers,
            workers=source.rpc,
        )


def _buffers(
    source: RoleSource, header: Header, n_ctx: int, n_seq: int, *, on_cpu: bool
) -> tuple[int, int]:
    """Bytes of a context's buffers, and the part that the host keeps of a model on devices.

    For n_ubatch tokens the widest layer's rows (float32: three of the feed-forward part and four of
    the model), or the scores of attention where flash attention is off, or the logits of
    `most_rows`, whichever is largest.
    """
    source = with_attention(source, header, on_cpu=on_cpu)
    n_tokens = min(n_ubatch(source, on_cpu=on_cpu), n_ctx * n_seq)  # no more than there is room for
    hidden, logits = 4 * header.n_embd, 4 * header.n_vocab
    off = source.flash_attention == OFF
    mask = (4 if off else 2) * n_ctx  # one row of the attention mask a token, float32 or float16
    row = 12 * max(header.n_ff) + 4 * hidden + mask
    if off:
        kv = 4 * max(header.n_heads_kv) * (header.key_length + header.value_length)
        row = max(row, 4 * n_ctx * max(header.n_heads) + mask + 5 * hidden + kv)
    rows = min(n_tokens, most_rows(n_seq)) * (logits + 2 * hidden) + 2 * n_tokens * hidden
    asked = max(n_seq, min(source.n_batch, MAX_DRAFT + 1)) * logits  # llama.cpp's copy of them
    return max(n_tokens * row, rows) + asked, n_tokens * (hidden + mask) + asked


@dataclass(frozen=True)
class DeviceMemory:
    """An accelerator and its free bytes; unified: they are the host's own memory. worker: whose it
    is, if not this process's; only roles that have this worker go there."""

    name: str
    free: int
    unified: bool = False
    worker: str = ""


@dataclass(frozen=True)
class Held:
    """Bytes that loaded models hold of the host's memory, of devices by their names, and of files
    that are mapped into the host's memory, by their paths; host is without these."""

    host: int = 0
    devices: Mapping[str, int] = field(default_factory=dict)
    mapped: Mapping[str, int] = field(default_factory=dict)


def of_workers(workers: Iterable[Worker]) -> list[DeviceMemory]:
    """The devices of workers. That of one on this machine may be its CPU, with the host's memory:
    llama.cpp does not say so, but it has as much of it."""
    total = psutil.virtual_memory().total
    return [
        DeviceMemory(
            device.name,
            device.memory_free,
            unified=worker.is_here and device.memory_total == total,
            worker=worker.endpoint,
        )
        for worker in workers
        for device in worker.devices
    ]


def accelerators(
    found: Sequence[Device], host_free: int | None, system: str = sys.platform
) -> list[DeviceMemory]:
    """The devices that models go to, of all that llama.cpp finds; those it would take by itself.

    Each GPU once, though several backends may drive it, and integrated GPUs only where this
    machine has no other. A device that reports no memory is taken to share the host's.
    """
    gpus: list[Device] = []
    integrated: list[Device] = []
    for device in found:
        if device.kind == "gpu" and not (device.id and device.id in [gpu.id for gpu in gpus]):
            gpus.append(device)
        if device.kind == "igpu" and device.backend in [i.backend for i in integrated or [device]]:
            integrated.append(device)
    if all(gpu.backend == "RPC" for gpu in gpus):
        gpus += integrated
    return [
        DeviceMemory(
            gpu.name,
            gpu.memory_free if gpu.memory_total else host_free or 0,
            unified=(system == "darwin" and gpu.backend != "RPC")
            or gpu.kind == "igpu"
            or not gpu.memory_total
            or gpu.description.startswith(_SOFTWARE),
        )
        for gpu in gpus
    ]


@dataclass(frozen=True)
class Placement:
    """Where one role goes.

    n_gpu_layers as llama.cpp counts (output included); split: how many of those each device
    takes, in the order of the devices given to plan (llama.cpp's tensor_split);
    device_bytes: on each device; host_bytes: in the host's memory, host_weights of them in the
    file. Shared weights are counted at the first of the roles that share them.
    """

    n_gpu_layers: int
    split: tuple[int, ...]
    device_bytes: tuple[int, ...]
    host_bytes: int
    host_weights: int = 0

    @property
    def on_cpu(self) -> bool:
        """Whether all layers are on the host; the output need not be."""
        return self.n_gpu_layers <= 1


@dataclass(frozen=True)
class Plan:
    """Where all roles go; host_free is None where it could not be found out."""

    roles: Mapping[str, Placement]
    devices: tuple[DeviceMemory, ...]
    host_free: int | None

    @property
    def apart(self) -> bool:
        """Whether some two roles share no device, the host's processor counted as one."""
        places = [
            {number for number, layers in enumerate(placement.split) if layers}
            | ({"host"} if placement.n_gpu_layers == 0 else set())
            for placement in self.roles.values()
        ]
        return any(a.isdisjoint(b) for a, b in combinations(places, 2))

    def used_by(self, role: str) -> list[tuple[str, int]]:
        """The devices of a role and its layers on each. One that is all on the host has every
        device, with no layer: llama.cpp computes its large batches there."""
        split = self.roles[role].split
        each = [(device.name, n) for device, n in zip(self.devices, split, strict=True)]
        if any(split):
            return [(name, n) for name, n in each if n]
        return [(device.name, 0) for device in self.devices if not device.worker]

    @property
    def host_bytes(self) -> int:
        return sum(placement.host_bytes for placement in self.roles.values())

    @property
    def needed(self) -> int:
        """Bytes of the host's memory, with what lies on devices that share it."""
        shared = (d for d, device in enumerate(self.devices) if device.unified)
        return self.host_bytes + sum(map(self.device_bytes, shared))

    @property
    def fits(self) -> bool:
        return self.host_free is None or self.needed <= self.host_free

    def device_bytes(self, device: int) -> int:
        return sum(placement.device_bytes[device] for placement in self.roles.values())


def plan(
    needs: Sequence[RoleNeeds],
    devices: Sequence[DeviceMemory],
    host_free: int | None,
    *,
    force: bool = False,
) -> Plan:
    """Place all roles, small models first, each on one device if it fits there.

    force leaves out the refusal. Raises DoesNotFitError with the numbers when the host's memory, a
    device under a given n_gpu_layers, or a role's workers are too small; UsageError when roles that
    share a file ask for different n_gpu_layers or workers.
    """
    groups: dict[str, list[RoleNeeds]] = {}
    for need in needs:
        groups.setdefault(need.file, []).append(need)
    free = [max(0, device.free - DEVICE_MARGIN) for device in devices]
    placed: dict[str, Placement] = {}
    # roles whose place was asked for go first: the others take what is left
    order = sorted(groups.values(), key=lambda group: (_asked(group) is None, _weights(group[0])))
    for group in order:
        split = _place(group, free, devices, force)
        for number, need in enumerate(group):
            placed[need.role] = placement = _bytes(need, split, with_weights=number == 0)
            free = [left - used for left, used in zip(free, placement.device_bytes, strict=True)]
    result = Plan({need.role: placed[need.role] for need in needs}, tuple(devices), host_free)
    if not force:
        _refuse_if_too_large(result)
    return result


def _asked(group: list[RoleNeeds]) -> int | None:
    """The n_gpu_layers that the roles sharing a file ask for."""
    everything = len(group[0].layers) + 1
    asked = {need.n_gpu_layers for need in group}
    counts = {everything if n < 0 else min(n, everything) for n in asked if n is not None}
    if len(counts) > 1:
        roles = " and ".join(need.role for need in group)
        raise UsageError(
            f"{roles} share one file, loaded once, but ask for different n_gpu_layers "
            f"({', '.join(map(str, sorted(counts)))}): give them the same"
        )
    return counts.pop() if counts else None


def _workers(group: list[RoleNeeds]) -> tuple[str, ...]:
    """The workers that the roles sharing a file ask for."""
    asked = {need.workers for need in group}
    if len(asked) > 1:
        roles = " and ".join(need.role for need in group)
        raise UsageError(f"{roles} share one file, loaded once: give them the same rpc")
    return asked.pop()


def _weights(need: RoleNeeds) -> int:
    return sum(need.layers) + need.rest + (0 if need.tied else need.output)


def _place(
    group: list[RoleNeeds], free: list[int], devices: Sequence[DeviceMemory], force: bool
) -> tuple[int, ...]:
    """How many layers of a group go to each device."""
    nowhere = (0,) * len(free)
    everything = len(group[0].layers) + 1
    roles = " and ".join(need.role for need in group)
    asked, workers = _asked(group), _workers(group)
    if asked == 0 and workers:
        raise UsageError(
            f"{roles}: gpu_layers 0 keeps all layers here, and rpc puts them on a worker: leave "
            "one of the two out"
        )
    if asked == 0 or not devices:
        return nowhere
    each = list(zip(devices, free, strict=True))
    ours = [0 if device.worker else left for device, left in each]
    theirs = [left if device.worker in workers else 0 for device, left in each]
    both = [left + more for left, more in zip(ours, theirs, strict=True)]
    first = theirs if workers else ours
    for count in [asked] if asked is not None else range(everything, 0, -1):
        split = _split(group, count, first)
        if split is None and workers:
            split = _in_order(group, count, both)
        if split is not None and (not workers or any(map(min, split, theirs))):
            return split
    if force and (asked is not None or workers):
        largest = first.index(max(first))
        return tuple((asked or everything) * (d == largest) for d in range(len(free)))
    if asked is None and not workers:
        return nowhere
    needed = sum(_device_bytes(group, everything - (asked or 1), everything))
    names = [device.name for device in devices if not device.worker or device.worker in workers]
    remedy = "leave rpc out" if asked is None else "lower n_gpu_layers or leave it to be chosen"
    raise DoesNotFitError(
        f"{roles}: n_gpu_layers {asked or 1} needs {gib(needed)} on {', '.join(names)} and "
        f"{gib(sum(both))} is free there: {remedy}, or {_TRY}"
    )


def _split(group: list[RoleNeeds], count: int, free: list[int]) -> tuple[int, ...] | None:
    """Devices for the last `count` layers (the output is one): one if it fits, else in order."""
    everything = len(group[0].layers) + 1
    whole = sum(_device_bytes(group, everything - count, everything))
    best = max(range(len(free)), key=free.__getitem__)
    if whole <= free[best]:
        return tuple(count if d == best else 0 for d in range(len(free)))
    return _in_order(group, count, free)


def _in_order(group: list[RoleNeeds], count: int, free: list[int]) -> tuple[int, ...] | None:
    """As many of the last `count` layers as fit on the first device, then the second, and on."""
    everything = len(group[0].layers) + 1
    start, split = everything - count, []
    for left in free:
        end = start
        while end < everything and sum(_device_bytes(group, start, end + 1)) <= left:
            end += 1
        split.append(end - start)
        start = end
    return tuple(split) if start == everything else None


def _device_bytes(group: list[RoleNeeds], start: int, end: int) -> list[int]:
    """Bytes of layers start to end on one device, for each role of a group."""
    return [
        _on_device(need, start, end, with_weights=number == 0) for number, need in enumerate(group)
    ]


def _on_device(need: RoleNeeds, start: int, end: int, *, with_weights: bool) -> int:
    if start == end:
        return 0
    weights = sum(need.layers[start:end]) + (need.output if end > len(need.layers) else 0)
    kept = sum(need.cache[start:end]) + need.compute + need.adapter
    return kept + (weights if with_weights else 0)


def _bytes(need: RoleNeeds, split: tuple[int, ...], *, with_weights: bool) -> Placement:
    n_layers, count = len(need.layers), sum(split)
    first = start = n_layers + 1 - count
    on_devices = []
    for part in split:
        on_devices.append(_on_device(need, start, start + part, with_weights=with_weights))
        start += part
    compute = need.on_cpu if count <= 1 else need.compute if first else need.staging
    host = sum(need.cache[:first]) + compute + need.constraints + (0 if count else need.adapter)
    weights = 0
    if with_weights:
        host += need.vocabulary
        weights = sum(need.layers[:first]) + need.rest
        weights += 0 if count or need.tied else need.output
    return Placement(count, split, tuple(on_devices), host + weights, weights)


def _refuse_if_too_large(result: Plan) -> None:
    if result.host_free is not None and not result.fits:
        parts = ", ".join(f"{role} {gib(p.host_bytes)}" for role, p in result.roles.items())
        raise DoesNotFitError(
            f"the models need {gib(result.needed)} of memory ({parts}) and "
            f"{gib(result.host_free)} is free: {_TRY}"
        )


def gib(nbytes: int) -> str:
    """Bytes as people read them."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / 2**20:.0f} MiB"
