"""Where models go, on numbers alone: small first, shared files, refusals; what the host has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import write_model
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.errors import DoesNotFitError, UsageError
from eftlocal.gguf_file.header import kv_cache_bytes, read_header
from eftlocal.llama import Device
from eftlocal.loading import host
from eftlocal.loading.host import cgroup_free, host_memory_free
from eftlocal.loading.placement import (
    DEVICE_MARGIN,
    DeviceMemory,
    Plan,
    RoleNeeds,
    accelerators,
    plan,
)
from eftlocal.loading.roles import RoleSource

MIB = 1 << 20


def needs(
    role: str, layer: int = 100, n_layers: int = 10, n_gpu_layers: int | None = None, **more: int
) -> RoleNeeds:
    """A model of n_layers of `layer` MiB, each with 10 MiB of cache; numbers in MiB."""
    return RoleNeeds(
        role=role,
        file=f"{role}.gguf",
        layers=(layer * MIB,) * n_layers,
        cache=(10 * MIB,) * n_layers,
        output=more.get("output", 50) * MIB,
        rest=more.get("rest", 50) * MIB,
        compute=20 * MIB,
        on_cpu=more.get("on_cpu", 20) * MIB,
        staging=5 * MIB,
        adapter=more.get("adapter", 0) * MIB,
        tied=bool(more.get("tied", False)),
        n_gpu_layers=n_gpu_layers,
    )


def device(free: int, name: str = "CUDA0", unified: bool = False) -> DeviceMemory:
    """A device with `free` MiB besides the margin."""
    return DeviceMemory(name, free * MIB + DEVICE_MARGIN, unified)


def found(
    name: str, kind: str = "gpu", id: str = "", memory: int = 8000, text: str = "a device"
) -> Device:
    """A device as llama.cpp tells it: CUDA1 is the backend CUDA's second."""
    size = memory * MIB
    return Device(name, text, kind, size, size, name.rstrip("0123456789"), id)  # type: ignore[arg-type]


DISCRETE, INTEGRATED = found("Vulkan1", id="0000:01:00.0"), found("Vulkan0", "igpu", "0000:c1:00.0")


@pytest.mark.parametrize(
    ("devices", "taken"),
    [
        ([found("CPU", "cpu"), found("BLAS", "accel")], []),
        ([INTEGRATED], ["Vulkan0"]),
        ([INTEGRATED, DISCRETE], ["Vulkan1"]),
        ([INTEGRATED, found("RPC0")], ["RPC0", "Vulkan0"]),
        ([found("CUDA0", id="0000:01:00.0"), DISCRETE], ["CUDA0"]),
        ([found("Vulkan0"), found("Vulkan1")], ["Vulkan0", "Vulkan1"]),
        ([found("SYCL0", "igpu"), INTEGRATED, found("SYCL1", "igpu")], ["SYCL0", "SYCL1"]),
    ],
)
def test_models_go_to_the_devices_that_llama_cpp_would_take(
    devices: list[Device], taken: list[str]
) -> None:
    assert [device.name for device in accelerators(devices, None)] == taken


@pytest.mark.parametrize(
    ("device", "system", "unified"),
    [
        (found("CUDA0"), "linux", False),
        (found("MTL0"), "darwin", True),
        (found("RPC0"), "darwin", False),
        (INTEGRATED, "linux", True),
        (found("Vulkan0", text="llvmpipe (LLVM 19.1.7, 256 bits)"), "linux", True),
        (found("OpenCL0", memory=0), "linux", True),
    ],
)
def test_whose_memory_a_device_has(device: Device, system: str, unified: bool) -> None:
    (memory,) = accelerators([device], 100 * MIB, system)
    assert memory == DeviceMemory(device.name, device.memory_free or 100 * MIB, unified)


def test_a_model_is_given_the_devices_that_it_is_placed_on() -> None:
    devices = [device(1500), device(2000, "CUDA1")]
    result = plan([needs("base"), needs("reference", layer=50)], devices, None)
    assert result.used_by("base") == [("CUDA0", 11)]
    assert result.used_by("reference") == [("CUDA1", 11)]
    host = plan([needs("base", n_gpu_layers=0)], devices, None)
    assert host.used_by("base") == [("CUDA0", 0), ("CUDA1", 0)]
    assert plan([needs("base")], [], None).used_by("base") == []


def layers(result: Plan) -> dict[str, int]:
    return {role: where.n_gpu_layers for role, where in result.roles.items()}


def test_all_on_the_host_or_on_a_large_device() -> None:
    result = plan([needs("base")], [], None)
    assert layers(result) == {"base": 0} and result.roles["base"].split == ()
    assert result.host_bytes == (1000 + 100 + 50 + 50 + 20) * MIB
    where = plan([needs("base")], [device(5000)], None).roles["base"]
    assert where.n_gpu_layers == 11 and where.split == (11,)
    assert where.device_bytes == ((1000 + 100 + 50 + 20) * MIB,)
    assert where.host_bytes == (50 + 5) * MIB
    tied = needs("base", tied=True)  # a copy of the embeddings, on the device only
    assert plan([tied], [], None).host_bytes == (1000 + 100 + 50 + 20) * MIB
    assert plan([tied], [device(5000)], None).device_bytes(0) == (1000 + 100 + 50 + 20) * MIB


def test_roles_on_devices_of_their_own_are_apart() -> None:
    gpu = DeviceMemory("gpu", 40_000 * MIB)
    trio = [needs("base", n_gpu_layers=0), needs("tuned"), needs("reference")]
    assert plan(trio, [gpu], None).apart  # the small ones on the device, the base on the host
    assert not plan([needs("base"), needs("tuned")], [gpu], None).apart
    assert not plan(trio, [], None).apart
    assert plan([needs("base"), needs("tuned")], [gpu, gpu], None).apart


def test_small_models_first_then_as_much_of_the_base_as_fits() -> None:
    # the small ones take 100 + 100 + 50 + 20 each; the base 20 + 50 and 110 a layer
    trio = [needs("base"), needs("tuned", layer=10), needs("reference", layer=10)]
    result = plan(trio, [device(2 * 270 + 70 + 4 * 110 + 109)], None)
    assert layers(result) == {"base": 5, "tuned": 11, "reference": 11}
    assert result.device_bytes(0) == (2 * 270 + 70 + 4 * 110) * MIB
    assert result.roles["base"].host_bytes == (6 * 110 + 50 + 20) * MIB


def test_nothing_fits_on_a_full_device() -> None:
    result = plan([needs("base")], [device(69)], None)
    assert layers(result) == {"base": 0} and result.device_bytes(0) == 0
    assert layers(plan([needs("base")], [DeviceMemory("CUDA0", 10)], None)) == {"base": 0}


def test_whole_models_go_to_the_emptiest_device_so_that_they_can_run_side_by_side() -> None:
    devices = [device(1500), device(2000)]
    result = plan([needs("base"), needs("reference", layer=50)], devices, None)
    assert result.roles["reference"].split == (0, 11)
    assert result.roles["base"].split == (11, 0)


def test_a_base_larger_than_one_device_is_split_in_order() -> None:
    # five layers and compute on the first, five and the output on the second
    where = plan([needs("base")], [device(5 * 110 + 20), device(5 * 110 + 70)], None).roles["base"]
    assert where.split == (5, 6) and where.n_gpu_layers == 11
    assert where.device_bytes == ((5 * 110 + 20) * MIB, (5 * 110 + 70) * MIB)


def test_shared_file_counts_its_weights_once() -> None:
    pair = [needs("reference"), needs("tuned")]
    shared = [pair[0], RoleNeeds(**{**vars(pair[1]), "file": pair[0].file, "adapter": 7 * MIB})]
    on_host, on_device = plan(shared, [], None), plan(shared, [device(5000)], None)
    assert on_host.host_bytes == (1000 + 50 + 50 + 2 * 100 + 2 * 20 + 7) * MIB
    assert on_device.device_bytes(0) == (1000 + 50 + 2 * 100 + 2 * 20 + 7) * MIB
    assert len({where.split for where in on_device.roles.values()}) == 1


@pytest.mark.parametrize(("given", "placed"), [(3, 3), (0, 0), (-1, 11), (99, 11)])
def test_given_layers_are_honoured(given: int, placed: int) -> None:
    alone = plan([needs("base", n_gpu_layers=given)], [device(5000)], None)
    assert layers(alone) == {"base": placed}
    # They take their place before the others.
    pair = [needs("tuned", layer=10), needs("base", n_gpu_layers=-1)]
    assert layers(plan(pair, [device(1170)], None)) == {"tuned": 0, "base": 11}


def test_given_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        plan([needs("base", n_gpu_layers=-1)], [device(500)], None)
    message = str(caught.value)
    assert message.startswith("base: n_gpu_layers 11 needs 1.1 GiB on CUDA0 and 500 MiB is free")
    assert "lower n_gpu_layers" in message and "\n" not in message
    forced = plan([needs("base", n_gpu_layers=-1)], [device(500)], None, force=True)
    assert layers(forced) == {"base": 11}


def test_roles_of_one_file_must_agree_on_layers() -> None:
    one, other = needs("tuned", n_gpu_layers=3), needs("tuned", n_gpu_layers=4)
    with pytest.raises(UsageError, match="share one file"):
        plan([one, RoleNeeds(**{**vars(other), "role": "reference"})], [device(5000)], None)


def test_too_little_host_memory_is_refused_with_the_numbers() -> None:
    trio = [needs("base"), needs("tuned", layer=10)]
    with pytest.raises(DoesNotFitError) as caught:
        plan(trio, [], 1000 * MIB)
    message = str(caught.value)
    assert "need 1.5 GiB of memory (base 1.2 GiB, tuned 320 MiB) and 1000 MiB is free" in message
    assert all(word in message for word in ("n_ctx", "q8_0", "quantization"))
    assert plan(trio, [], 1000 * MIB, force=True).host_bytes == 1540 * MIB
    assert plan(trio, [], 1540 * MIB).host_bytes == 1540 * MIB


def test_unified_memory_counts_as_the_hosts() -> None:
    separate, unified = device(2000), device(2000, "Metal", unified=True)
    assert layers(plan([needs("base")], [separate], 1000 * MIB)) == {"base": 11}
    with pytest.raises(DoesNotFitError):
        plan([needs("base")], [unified], 1000 * MIB)


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    frees=st.lists(st.integers(0, 4000), max_size=3),
)
def test_no_device_is_overfilled_and_nothing_is_lost(sizes: list[int], frees: list[int]) -> None:
    roles = [needs(f"role{i}", layer=size) for i, size in enumerate(sizes)]
    result = plan(roles, [device(free, f"CUDA{i}") for i, free in enumerate(frees)], None)
    for i, free in enumerate(frees):
        assert result.device_bytes(i) <= free * MIB
    for need in roles:
        where = result.roles[need.role]
        assert sum(where.split) == where.n_gpu_layers <= 11
        used = sum(1 for part in where.split if part)
        compute = need.staging if where.n_gpu_layers == 11 else need.compute
        total = sum(need.layers + need.cache) + need.output + need.rest + used * need.compute
        assert sum(where.device_bytes) + where.host_bytes == total + compute


def test_more_free_memory_never_places_fewer_layers() -> None:
    counts = [plan([needs("base")], [device(free)], None).roles["base"].n_gpu_layers
              for free in range(0, 1300, 10)]  # fmt: skip
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 11


@pytest.mark.parametrize(("layers", "buffers"), [(0, 500), (1, 500), (2, 20), (11, 5)])
def test_the_host_keeps_buffers_of_its_own_kind_of_attention(layers: int, buffers: int) -> None:
    """The first of the layers that are counted is the output, in which there is no attention."""
    need = needs("base", n_gpu_layers=layers, on_cpu=500)
    placed = plan([need], [device(9000)], None).roles["base"]
    assert placed.on_cpu == (layers <= 1)
    weights = 50 + (50 if layers == 0 else 0)
    assert placed.host_bytes == (weights + (11 - max(1, layers)) * 110 + buffers) * MIB


@pytest.mark.parametrize("tied", [True, False])
def test_needs_from_a_file(tmp_path: Path, tied: bool) -> None:
    header = read_header(write_model(tmp_path / "m.gguf", tied=tied))
    adapter = read_header(write_model(tmp_path / "a.gguf", more={"general.type": "adapter"}))
    source = RoleSource(header.path, n_ctx=512)
    base = RoleNeeds.of("base", source, header)
    tuned = RoleNeeds.of("tuned", source, header, adapter=adapter)
    assert (base.file, base.adapter, tuned.adapter) == (tuned.file, 0, adapter.weight_bytes)
    matrix = header.output_bytes
    assert sum(base.layers) + base.rest + (0 if tied else matrix) == header.weight_bytes
    assert base.cache == kv_cache_bytes(header, 512) and base.compute >= 512 * 4 * header.n_vocab
    host = plan([base], [], None).host_bytes
    assert host == header.weight_bytes + base.vocabulary + sum(base.cache) + base.on_cpu
    # What constrained answers take is of the role whose tokens they are in.
    assert base.constraints == 0 and tuned.constraints > header.n_vocab
    several = RoleNeeds.of("tuned", source, header, 3, adapter=adapter)
    assert several.constraints - tuned.constraints == 2 << 20
    apart = replace(tuned, constraints=0)
    grown = plan([tuned], [], None).host_bytes - plan([apart], [], None).host_bytes
    assert grown == tuned.constraints
    wide = RoleNeeds.of("base", replace(source, cache_type_k="f32"), header, 2)
    assert wide.cache == kv_cache_bytes(header, 512, 2, "f32") > base.cache


UNLIMITED_V1 = 9223372036854771712  # what the kernel writes


V1 = ("limit_in_bytes", "usage_in_bytes", "active_file 7\ntotal_active_file 50\ntotal_")
V2 = ("max", "current", "anon 1\nactive_file 50\n")


def groups(root: Path, found: dict[str, tuple[int | str, int]]) -> Path:
    """Control groups under `root` (folder: limit, used), 75 bytes of each in the file cache."""
    for name, amounts in found.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        *files, cached = V1 if name.startswith("memory") else V2
        for file, amount in zip(files, amounts, strict=True):
            (folder / f"memory.{file}").write_text(f"{amount}\n")
        (folder / "memory.stat").write_text(f"{cached}inactive_file 25\n")
    return root


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    free = host_memory_free()
    assert free is not None and 0 < free < 1 << 50
    monkeypatch.setattr(host, "cgroup_free", lambda _root, _membership: 5)
    assert host_memory_free() == 5


V1_INNER, V1_OUTER = "memory/outer/inner", "memory/outer"
INNER = {"outer/inner": ("max", 5)}


@pytest.mark.parametrize(
    ("found", "free"),
    [
        ({}, None),
        (INNER, None),
        ({**INNER, "outer": (1000, 400)}, 675),
        ({V1_INNER: (UNLIMITED_V1, 5)}, None),
        ({V1_INNER: (3000, 400)}, 2675),
        ({V1_INNER: (3000, 400), V1_OUTER: (1000, 400)}, 675),
        ({V1_INNER: (3000, 400), V1_OUTER: (1000, 400), "memory": (UNLIMITED_V1, 4000)}, 675),
        ({"memory": (2000, 400)}, 1675),  # a container does not see its own path
        ({V1_INNER: (3000, 400), "outer/inner": (1000, 400)}, 675),  # both versions
        ({V1_OUTER: (100, 400)}, 0),  # more used than allowed
    ],
)
def test_the_tightest_control_group_holds(
    tmp_path: Path, found: dict[str, tuple[int | str, int]], free: int | None
) -> None:
    """Of a process in both hierarchies, as on a machine that mounts both."""
    member = tmp_path / "cgroup"
    member.write_text("9:name=systemd:/\n4:memory,hugetlb:/outer/inner\n1:cpu:/\n0::/outer/inner\n")
    assert cgroup_free(groups(tmp_path / "fs", found), member) == free
    assert cgroup_free(tmp_path / "fs", tmp_path / "none") is None
