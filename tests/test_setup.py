"""The set-up's decisions, its wheel cache and its stamp, without building anything."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from _setup import accelerator, amx, child, machine, plan, report, vulkan, wheels  # noqa: E402
from _setup import main as setup_main  # noqa: E402
from _setup.child import Answer  # noqa: E402
from _setup.environment import Environment, Stamp, check_extras, declared_extras, prove  # noqa: E402
from _setup.machine import Compilers, Cpu, Gpu  # noqa: E402
from _setup.plan import Choices, Plan  # noqa: E402
from _setup.report import SetupError, how_to_install, without_hosts  # noqa: E402
from _setup.vulkan import Vulkan  # noqa: E402

from eftlocal.selftest import with_rpc  # noqa: E402

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX processes")
GCC12 = Compilers(("cc",), ("c++",), "c++ (Debian 12.2.0-14+deb12u1) 12.2.0")
AMX_CPU = Cpu("a CPU with AMX", frozenset({"avx2", "amx_tile", "amx_int8"}))
PLAIN_CPU = Cpu("a CPU", frozenset({"avx2"}))


def gpu(
    nvidia: tuple[str, ...] = (), compute: tuple[str, ...] = (), nvcc: str = "", metal: bool = False
) -> Gpu:
    return Gpu(nvidia, compute, nvcc, "release 13.0" if nvcc else "", metal)


CARD = ("GPU 0: a card",)


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The script itself


def test_old_python_gets_one_line() -> None:
    complaint = load_script("setup").python_too_old((3, 9, 18))
    assert complaint.startswith("setup: Python 3.10 or newer is needed and this is 3.9")
    assert "\n" not in complaint
    assert load_script("setup").python_too_old((3, 10, 0)) is None


def test_old_python_can_read_the_script() -> None:
    ast.parse((SCRIPTS / "setup.py").read_text(), feature_version=(3, 7))


@pytest.mark.parametrize(
    "path",
    [*sorted(SCRIPTS.glob("_setup/*.py")), SCRIPTS / "setup.py", SCRIPTS / "test.py"],
    ids=lambda path: path.name,
)
def test_standard_library_only(path: Path) -> None:
    known = {*sys.stdlib_module_names, "_setup"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= known
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            assert node.module.split(".")[0] in known


def test_selftest_top_level_is_standard_library_only() -> None:
    tree = ast.parse((SCRIPTS.parent / "eftlocal" / "selftest.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in sys.stdlib_module_names


# Accelerator


NVCC = "/usr/bin/nvcc"
RADEON = Vulkan(("AMD Radeon 780M",), (), (), "shaderc 1, headers 304")
NO_GLSLC = dataclasses.replace(RADEON, missing=("the shader compiler glslc",))
NO_DRIVER = Vulkan((), ("AMD", "Intel"), ("the shader compiler glslc",))
NOTHING = Vulkan()


@pytest.mark.parametrize(
    ("asked", "found", "by_vulkan", "name"),
    [
        (None, gpu(), NOTHING, "cpu"),
        (None, gpu(nvcc=NVCC), NOTHING, "cpu"),
        (None, gpu(nvidia=CARD, compute=("9.0",)), NOTHING, "cpu"),
        (None, gpu(nvidia=CARD, compute=("9.0",)), RADEON, "vulkan"),
        (None, gpu(nvidia=CARD, compute=("9.0",), nvcc=NVCC), RADEON, "cuda"),
        (None, gpu(metal=True), NOTHING, "metal"),
        (None, gpu(), RADEON, "vulkan"),
        (None, gpu(), NO_GLSLC, "cpu"),
        ("cpu", gpu(nvidia=CARD, compute=("9.0",), nvcc=NVCC), RADEON, "cpu"),
        ("cuda", gpu(nvcc=NVCC), NOTHING, "cuda"),
        ("metal", gpu(metal=True), NOTHING, "metal"),
        ("vulkan", gpu(nvidia=CARD, compute=("9.0",), nvcc=NVCC), Vulkan(), "vulkan"),
    ],
)
def test_accelerator_choice(asked: str | None, found: Gpu, by_vulkan: Vulkan, name: str) -> None:
    chosen = accelerator.choose(asked, found, by_vulkan, macos=found.metal)
    assert chosen.name == name == accelerator.accelerators_of(chosen.cmake_args)


def test_what_a_machine_with_gpus_is_built_for() -> None:
    why = accelerator.choose(None, gpu(nvidia=CARD), NOTHING, macos=False).why
    assert "no nvcc" in why and "CUDA toolkit" in why and "--cuda" in why
    found = gpu(nvidia=CARD * 2, compute=("8.9", "12.0"), nvcc=NVCC)
    args = accelerator.choose(None, found, NOTHING, macos=False).cmake_args
    assert "-DCMAKE_CUDA_ARCHITECTURES=89;120" in args
    refused = accelerator.choose(None, found, RADEON, refused=["cuda"], macos=False)
    assert refused.name == "vulkan"
    why = accelerator.choose(None, gpu(), NO_GLSLC, macos=False).why
    assert why.startswith("Vulkan lists AMD Radeon 780M, but a build for it needs the shader")
    assert how_to_install("vulkan") in why and "\n" not in why
    old = dataclasses.replace(NO_GLSLC, missing=(*NO_GLSLC.missing, vulkan.TOO_OLD))
    why = accelerator.choose(None, gpu(), old, macos=False).why
    assert "LunarG's Vulkan SDK" in why and how_to_install("vulkan") not in why
    why = accelerator.choose(None, gpu(), NO_DRIVER, macos=False).why
    assert why.startswith("no Vulkan driver lists the GPU of AMD and Intel: to use it, ")


@pytest.mark.parametrize(
    ("asked", "found", "words"),
    [
        ("cuda", gpu(nvidia=CARD), "--cuda needs the CUDA compiler nvcc: install"),
        ("metal", gpu(), "--metal needs a Mac"),
        ("cpu", gpu(metal=True), "--cpu cannot be built on macOS"),
        ("vulkan", gpu(metal=True), "--vulkan is not for macOS"),
        ("vulkan", gpu(), "--vulkan needs the shader compiler glslc: "),
    ],
)
def test_impossible_accelerator_is_refused_by_name(asked: str, found: Gpu, words: str) -> None:
    with pytest.raises(SetupError) as caught:
        accelerator.choose(asked, found, NO_GLSLC, macos=found.metal)
    assert words in caught.value.what and "\n" not in caught.value.what


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("", "cpu"),
        ("-DGGML_VULKAN=on", "vulkan"),
        ("-D GGML_VULKAN:BOOL=ON -DGGML_NATIVE=off", "vulkan"),
        ("-DGGML_CUDA=1 -DGGML_VULKAN=yes", "cuda+vulkan"),
        ("-DGGML_CUDA=on -DGGML_CUDA=OFF", "cpu"),
        ("-DGGML_CUDA_FORCE_MMQ=on -DGGML_RPC=on", "cpu"),
    ],
)
def test_what_options_of_cmake_build_for(given: str, name: str) -> None:
    assert accelerator.accelerators_of(given.split()) == name


# Vulkan

TOLD = [
    {"name": "AMD Radeon 780M", "kind": "integrated", "usable": True},
    {"name": "an old one", "kind": "discrete", "usable": False},
    {"name": "llvmpipe (LLVM 19)", "kind": "cpu", "usable": True},
    {"name": "of a virtual machine", "kind": "virtual", "usable": True},
]


def test_only_hardware_counts_as_a_gpu_of_vulkan() -> None:
    assert vulkan.list_gpus(f"a driver's warning\n{json.dumps(TOLD)}\n") == ("AMD Radeon 780M",)
    assert vulkan.list_gpus("") == vulkan.list_gpus("Segmentation fault") == ()


def test_the_program_that_lists_them_answers_on_this_machine() -> None:
    command = [sys.executable, str(SCRIPTS / "_setup" / "vulkan_devices.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert all(device.keys() == TOLD[0].keys() for device in json.loads(done.stdout))


def test_vulkan_is_looked_for_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilers = machine.find_compilers({})
    assert compilers is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    found = vulkan.read_vulkan({}, compilers)
    assert found.missing[0] == "the shader compiler glslc"
    assert accelerator.choose(None, gpu(), found, macos=False).name == "cpu"


def test_makers_of_gpus_that_the_kernel_knows(tmp_path: Path) -> None:
    for number, vendor in enumerate(("0x1002", "0x8086", "0x8086", "0x1af4")):
        folder = tmp_path / f"renderD{128 + number}" / "device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
    assert vulkan.undriven(tmp_path) == ("AMD", "Intel")
    assert vulkan.undriven(tmp_path / "none") == ()


HEADERS = {
    "vulkan/vulkan.hpp": "#define VK_HEADER_VERSION 304\n"
    '#define VK_EXT_LAYER_SETTINGS_EXTENSION_NAME "x"\n',
    "spirv/unified1/spirv.hpp": "",
}


@POSIX
@pytest.mark.parametrize(
    ("files", "found"),
    [
        (HEADERS, ("304", [])),
        ({**HEADERS, "vulkan/vulkan.hpp": "#define VK_HEADER_VERSION 239\n"}, ("239", "newer")),
        ({"vulkan/vulkan.hpp": HEADERS["vulkan/vulkan.hpp"]}, ("304", "SPIR-V")),
        ({"spirv/unified1/spirv.hpp": ""}, ("", "the Vulkan headers")),
    ],
    ids=["all", "old", "no SPIR-V", "none"],
)
def test_the_compiler_is_asked_for_the_headers(
    files: dict[str, str], found: tuple[str, str | list[str]], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / "include" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "include" / name).write_text(text)
    compilers = machine.find_compilers({})
    assert compilers is not None
    no_system = dataclasses.replace(compilers, cxx=(*compilers.cxx, "-nostdinc"))
    version, missing = vulkan.read_headers({"VULKAN_SDK": str(tmp_path)}, no_system)
    assert version == found[0]
    assert missing == found[1] or (len(missing) == 1 and found[1] in missing[0])


def test_the_shader_compiler_of_the_sdk_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "sdk" / "bin" / ("glslc.exe" if sys.platform == "win32" else "glslc")
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    assert vulkan.find_glslc({}) == ""
    assert vulkan.find_glslc({"VULKAN_SDK": str(tmp_path / "sdk")}) == str(program)


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ("ID=debian\n", "sudo apt install glslc libvulkan-dev spirv-headers"),
        ('ID=ubuntu\nID_LIKE="debian"\n', "sudo apt install glslc libvulkan-dev spirv-headers"),
        ("ID=fedora\n", "sudo dnf install glslc vulkan-headers "),
        ("ID=manjaro\nID_LIKE=arch\n", "sudo pacman -S shaderc vulkan-headers "),
        ('ID_LIKE="suse opensuse"\n', "sudo zypper install shaderc "),
        ("", "install glslc, Vulkan's headers"),
    ],
)
def test_what_a_vulkan_build_needs_is_named(release: str, command: str) -> None:
    assert how_to_install("vulkan", release).startswith(command)


# The machine


def test_cpuinfo_of_x86_and_arm() -> None:
    x86 = machine.parse_cpuinfo("processor : 0\nmodel name : Xeon\nflags : fpu avx2 amx_tile nx\n")
    assert (x86.model, x86.has_amx) == ("Xeon", True)
    assert "nx" not in x86.instruction_sets and "avx2" in x86.instruction_sets
    arm = machine.parse_cpuinfo("Features : fp asimd sve\nCPU implementer : 0x41\nCPU part : 1\n")
    assert (arm.model, arm.has_amx) == ("0x41 1", False)
    assert arm.instruction_sets == ("asimd", "fp", "sve")


@POSIX
def test_as_many_jobs_as_memory_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8_000_000_000 // 4096}
    monkeypatch.setattr(machine.os, "sysconf", sizes.get)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert machine.default_jobs() == 5
    assert machine.default_jobs("vulkan") == machine.default_jobs("cuda+vulkan") == 2


@pytest.mark.parametrize(
    ("version", "major"),
    [
        ("c++ (Debian 12.2.0-14+deb12u1) 12.2.0", 12),
        ("g++ (GCC) 11.4.1 20231218 (Red Hat 11.4.1-3)", 11),
        ("x86_64-linux-gnu-g++-13 (Ubuntu 13.2.0-4ubuntu3) 13.2.0", 13),
        ("Ubuntu clang version 15.0.7", None),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", None),
    ],
)
def test_gcc_major(version: str, major: int | None) -> None:
    assert Compilers(("cc",), ("c++",), version).gcc_major == major


# The AMX cure

KEPT = Answer(0, "probe:\n\tmovq\t%rdi, -8(%rsp)\n\tldtilecfg\t-64(%rsp)\n")
DROPPED = Answer(0, "probe:\n\tpxor\t%xmm0, %xmm0\n\tldtilecfg\t-64(%rsp)\n")
NO_TEST = Answer(1, "c++: error: unrecognized command-line option")


@pytest.mark.parametrize(
    ("cpu", "plain", "cured", "needed", "why"),
    [
        (PLAIN_CPU, DROPPED, DROPPED, False, "this CPU has no AMX"),
        (AMX_CPU, DROPPED, KEPT, True, "tested: the compiler drops stores to AMX's tile config"),
        (AMX_CPU, KEPT, KEPT, False, "tested: the compiler keeps the stores"),
        (AMX_CPU, DROPPED, DROPPED, True, "even with the known cure"),
    ],
    ids=["no AMX", "dropped", "kept", "not cured"],
)
def test_the_compiler_itself_says_whether_it_needs_the_cure(
    cpu: Cpu, plain: Answer, cured: Answer, needed: bool, why: str
) -> None:
    cure = amx.decide(cpu, GCC12, lambda flags: cured if flags else plain)
    assert cure.flags == (("-fno-tree-dse", "-fno-dse") if needed else ())
    assert why in cure.why and ("even" in cure.why) == (why == "even with the known cure")


@pytest.mark.parametrize(
    ("version", "needed"),
    [("c++ (GCC) 12.3.0", True), ("c++ (GCC) 13.1.0", False), ("clang version 17.0.1", False)],
)
def test_version_decides_where_the_test_fails(version: str, needed: bool) -> None:
    compilers = Compilers(("cc",), ("c++",), version)
    cure = amx.decide(AMX_CPU, compilers, lambda flags: NO_TEST)
    assert cure.needed == needed
    assert "tested" in cure.why


def test_the_probe_on_the_real_compiler() -> None:
    """Whatever this compiler does, with the cure decided for it the store must be there."""
    compilers = machine.find_compilers({})
    if compilers is None or compilers.gcc_major is None or compilers.gcc_major < 11:
        pytest.skip("no GCC that knows AMX")
    if not amx.is_probe_assembly(amx._assembly(compilers, ())):
        pytest.skip("not an x86-64 compiler")
    cure = amx.decide(AMX_CPU, compilers)
    assert cure.why.startswith("tested:")
    assert amx.keeps_the_store(amx._assembly(compilers, cure.flags).out)


# The plan and its key


def a_plan(**changes: object) -> Plan:
    given: dict[str, object] = {
        "version": "0.3.36",
        "accelerator": accelerator.Choice("cpu", (), "for a test"),
        "rpc": False,
        "cure": amx.Cure((), "for a test"),
        "compilers": GCC12,
        "cpu": PLAIN_CPU,
        "cmake_args": ("-DLLAVA_BUILD=OFF",),
        "cflags": (),
        "cxxflags": (),
    }
    return Plan(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.3.37"},
        {"cmake_args": ("-DLLAVA_BUILD=OFF", "-DGGML_RPC=on")},
        {"cflags": ("-O1",)},
        {"cxxflags": ("-fno-tree-dse", "-fno-dse")},
        {"compilers": dataclasses.replace(GCC12, version="c++ (Debian 12.3.0-1) 12.3.0")},
        {"compilers": dataclasses.replace(GCC12, cxx=("ccache", "c++"))},
        {"cpu": Cpu("another CPU", PLAIN_CPU.flags)},
        {"cpu": Cpu("a CPU", frozenset({"avx2", "avx512f"}))},
        {"cuda_compiler_version": "release 13.0"},
        {"vulkan_tools": "shaderc 2025.2, headers 309"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_key_changes_with_what_shapes_the_wheel(change: dict[str, object]) -> None:
    assert a_plan(**change).key != a_plan().key
    same_code = Cpu("a CPU", frozenset({"avx2", "a_new_kernel_mitigation"}))
    assert a_plan(cpu=same_code).key == a_plan().key


def test_make_plan_puts_the_cure_and_the_users_flags_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "find_compilers", lambda env: GCC12)
    monkeypatch.setattr(plan, "read_cpu", lambda: AMX_CPU)
    monkeypatch.setattr(plan, "read_gpu", lambda env: gpu())
    monkeypatch.setattr(plan, "decide", lambda cpu, compilers: amx.Cure(amx.CURE, "for a test"))
    user = {"CXXFLAGS": "-O2 '-DX=a b'", "CMAKE_ARGS": "-DGGML_NATIVE=off"}
    made = plan.make_plan(Choices("cpu", environment=user))
    assert made.cxxflags == ("-fno-tree-dse", "-fno-dse", "-O2", "-DX=a b")
    assert made.cmake_args == ("-DLLAVA_BUILD=OFF", "-DGGML_RPC=on", "-DGGML_NATIVE=off")
    env = made.build_environment(3)
    assert env["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    assert env["CXXFLAGS"].endswith("-O2 '-DX=a b'")
    assert made.facts()["amx_cure"] == {"applied": True, "why": "for a test"}
    assert "-DGGML_RPC=on" not in plan.make_plan(Choices("cpu", rpc=False)).cmake_args


@pytest.mark.parametrize(
    ("choices", "found", "name", "why"),
    [
        (Choices(environment={"CMAKE_ARGS": "-DGGML_VULKAN=on"}), gpu(), "vulkan", "by CMAKE_ARGS"),
        (
            Choices("cuda", environment={"CMAKE_ARGS": "-DGGML_VULKAN=on"}),
            gpu(nvidia=CARD, compute=("9.0",), nvcc=NVCC),
            "cuda+vulkan",
            "by CMAKE_ARGS",
        ),
        (Choices(environment={"CMAKE_ARGS": "-DGGML_WEBGPU=1"}), gpu(), "webgpu", "by CMAKE_ARGS"),
        (
            Choices(environment={"CMAKE_ARGS": "-DGGML_CUDA=off"}),
            gpu(nvidia=CARD, compute=("9.0",), nvcc=NVCC),
            "vulkan",
            "Vulkan lists AMD Radeon 780M",
        ),
        (Choices(), gpu(), "vulkan", "Vulkan lists AMD Radeon 780M"),
        (Choices("cpu"), gpu(), "cpu", "asked for"),
    ],
)
def test_the_users_options_win_and_are_told(
    choices: Choices, found: Gpu, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "find_compilers", lambda env: GCC12)
    monkeypatch.setattr(plan, "read_gpu", lambda env: found)
    monkeypatch.setattr(plan, "read_vulkan", lambda env, compilers: RADEON)
    monkeypatch.setattr(sys, "platform", "linux")
    made = plan.make_plan(choices)
    assert (made.accelerator.name, made.accelerator.why) == (name, why)
    assert f"-{name}-" in made.key and made.facts()["asked_for"] == name
    assert made.vulkan_tools == (RADEON.tools if "vulkan" in name else "")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (
            Choices("cuda", True, {"CMAKE_ARGS": "-DGGML_CUDA=off -DGGML_HIP=on"}),
            "--cuda and CMAKE",
        ),
        (Choices("vulkan", True, {"CMAKE_ARGS": "-DGGML_VULKAN=off"}), "contradict each other"),
        (
            Choices("cpu", True, {"CMAKE_ARGS": "-DGGML_HIP=on"}),
            "--cpu and CMAKE_ARGS=-DGGML_HIP=on",
        ),
        *(
            (Choices(environment={name: 'x "y'}), f'{name}=x "y: the closing quotation mark')
            for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "CC", "CXX")
        ),
    ],
)
def test_options_that_cannot_be_met_are_refused(choices: Choices, words: str) -> None:
    with pytest.raises(SetupError, match=re.escape(words)):
        plan.make_plan(choices)


@pytest.mark.parametrize(
    ("given", "compute", "architectures"),
    [
        ("-DGGML_CUDA=on", ("8.6", "9.0"), ["86;90"]),
        ("-DGGML_CUDA=on", (), ["all-major"]),  # llama.cpp's own "native" fails without a GPU
        ("-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=90", (), ["all-major", "90"]),
        ("-DGGML_HIP=on", (), []),
    ],
)
def test_cuda_by_cmake_args_has_architectures(
    given: str, compute: tuple[str, ...], architectures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "find_compilers", lambda env: GCC12)
    monkeypatch.setattr(plan, "read_gpu", lambda env: gpu(compute=compute, nvcc=NVCC))
    made = plan.make_plan(Choices(environment={"CMAKE_ARGS": given}))
    start = "-DCMAKE_CUDA_ARCHITECTURES="
    found = [arg.removeprefix(start) for arg in made.cmake_args if arg.startswith(start)]
    assert found == architectures


@pytest.mark.parametrize(
    ("rpc", "given", "built", "remedy"),
    [
        (True, "", True, ""),
        (False, "", False, "setup.py --rpc"),
        (True, "-DGGML_RPC=off", False, "setup.py --rpc --forget"),
    ],
)
def test_whether_rpc_is_built_in_is_told(
    rpc: bool, given: str, built: bool, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "find_compilers", lambda env: GCC12)
    facts = plan.make_plan(Choices(environment={"CMAKE_ARGS": given}, rpc=rpc)).facts()
    assert facts["rpc"] is built
    assert built or with_rpc(facts).endswith(remedy)


def test_missing_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "find_compilers", lambda env: None)
    with pytest.raises(SetupError) as caught:
        plan.make_plan(Choices())
    assert caught.value.what == "no C and C++ compiler found"
    assert "run this again" in caught.value.next_step


# The wheel cache


def make_wheel(folder: Path, *libraries: str) -> None:
    with zipfile.ZipFile(folder / "llama_cpp_python-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("content", "x" * 10_000)
        for name in libraries:
            wheel.writestr(f"llama_cpp/lib/{name}", "")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    wheels.prepare(folder)
    return folder


def test_built_wheel_is_found_again(cache: Path) -> None:
    built = wheels.build(cache, "key", make_wheel)
    assert wheels.find(cache, "key") == built
    assert built.built != "unknown"
    assert not list(cache.glob("building-*"))


@pytest.mark.parametrize(
    ("libraries", "name"),
    [
        (["libggml.so", "libggml-cpu.so.0.25.3", "libggml-rpc.so"], "cpu"),
        (["libggml-cpu.so", "libggml-vulkan.so", "libggml-vulkan.so.0"], "vulkan"),
        (["ggml-vulkan.dll", "ggml-cuda.dll"], "cuda+vulkan"),
        (["libggml-metal.dylib"], "metal"),
        (["../include/ggml-vulkan.h"], "cpu"),
    ],
)
def test_a_wheel_is_for_what_it_has_libraries_for(
    libraries: list[str], name: str, cache: Path
) -> None:
    made = wheels.build(cache, "key", lambda folder: make_wheel(folder, *libraries))
    assert made.accelerator == name


@pytest.mark.parametrize("error", [KeyboardInterrupt, SetupError("no")], ids=str)
def test_stopped_build_leaves_no_wheel(cache: Path, error: BaseException) -> None:
    def make(folder: Path) -> None:
        make_wheel(folder)
        raise error

    with pytest.raises((KeyboardInterrupt, SetupError)):
        wheels.build(cache, "key", make)
    assert wheels.find(cache, "key") is None
    assert not list(cache.rglob("*.whl"))


def test_killed_build_leaves_no_wheel_and_is_swept(cache: Path) -> None:
    code = (
        "import os, sys, pathlib\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from _setup import wheels\n"
        "def make(folder):\n"
        "    (folder / 'half.whl').write_bytes(b'PK')\n"
        "    os._exit(9)\n"
        f"wheels.build(pathlib.Path({str(cache)!r}), 'key', make)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert wheels.find(cache, "key") is None
    assert list(cache.glob("building-key-*"))
    wheels.sweep(cache, "key")
    assert not list(cache.glob("building-key-*"))


def test_failed_rebuild_keeps_the_wheel_there_was_and_a_torn_one_is_not_used(cache: Path) -> None:
    first = wheels.build(cache, "key", make_wheel)
    with pytest.raises(SetupError, match="without a wheel"):
        wheels.build(cache, "key", lambda folder: None)
    assert wheels.find(cache, "key") == first
    first.wheel.write_bytes(first.wheel.read_bytes()[:-30])
    assert wheels.find(cache, "key") is None


def test_second_set_up_waits_for_the_first(cache: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def say_waiting() -> None:
        order.append("second waits")
        waiting.set()

    def second() -> None:
        with wheels.locked(cache, "key", say_waiting):
            order.append("second in")

    with wheels.locked(cache, "key", lambda: order.append("never")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first out")
    thread.join(10)
    assert order == ["second waits", "first out", "second in"]


@pytest.mark.parametrize(
    ("system", "env", "end"),
    [
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache/eftlocal/wheels"),
        ("linux", {}, "/.cache/eftlocal/wheels"),
        ("darwin", {}, "/Library/Caches/eftlocal/wheels"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/eftlocal/wheels"),
        ("win32", {"EFTLOCAL_WHEELS": "/mine"}, "/mine"),
    ],
)
def test_cache_folder(system: str, env: dict[str, str], end: str, tmp_path: Path) -> None:
    assert wheels.cache_folder(env, system).as_posix().endswith(end)
    (tmp_path / "file").touch()
    with pytest.raises(SetupError) as caught:
        wheels.prepare(tmp_path / "file" / "wheels")
    assert "EFTLOCAL_WHEELS" in caught.value.next_step


# Long jobs


def test_log_and_progress_of_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "job.log"
    ready = tmp_path / "ready"
    code = (
        "import pathlib, sys, time\n"
        "print('  [3/140] cc a.c', flush=True)\n"
        f"while not pathlib.Path({str(ready)!r}).exists(): time.sleep(0.01)\n"
        "sys.exit(4)\n"
    )

    def release(line: str) -> None:
        if "step" in line:
            ready.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "say", lambda line: (print(line), release(line)))
        command = [sys.executable, "-c", code]
        assert child.work(command, log=log, label="building", beat=0.05) == 4
    assert "building: 0:00 elapsed, step 3 of 140" in capsys.readouterr().out
    assert "[3/140] cc a.c" in log.read_text()


def test_what_a_job_says_and_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert child.progress(b"x\n[ 7%] a\n[ 42%] Building b\n") == ", 42%"
    assert child.progress(b"nothing\n") == ""
    assert child.ask(["no-such-program-anywhere"]) == Answer(127, "")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    env = child.clean_environment({"CC": "gcc"})
    assert "PYTHONPATH" not in env and "PIP_USER" not in env and env["CC"] == "gcc"


@POSIX
def test_interrupted_job_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's own child, in a group of its own, like ninja's compilers, ends as well."""
    grandchild = "import os; os.setpgid(0, 0); print(os.getpid(), flush=True); input()"
    code = (
        "import os, subprocess, sys, signal\n"
        f"p = subprocess.Popen([sys.executable, '-c', {grandchild!r}], stdin=subprocess.PIPE)\n"
        "def end(*_):\n"
        "    p.kill(); os.waitpid(p.pid, 0); os._exit(2)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "p.wait()\n"
    )
    log = tmp_path / "job.log"

    def interrupt(line: str) -> None:
        if any(part.isdigit() for part in log.read_text().split()):
            raise KeyboardInterrupt

    monkeypatch.setattr(child, "say", interrupt)
    with pytest.raises(KeyboardInterrupt):
        child.work([sys.executable, "-c", code], log=log, label="job", beat=0.05)
    pid = next(int(part) for part in log.read_text().split() if part.isdigit())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@POSIX
def test_failed_build_shows_cause_log_and_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'echo "flags: $CMAKE_ARGS / $CXXFLAGS"\n'
        "echo 'a.cpp:3:1: error: no such'\n"
        "exit 1\n"
    )
    python.chmod(0o755)
    made = a_plan(cxxflags=("-fno-dse",))
    log = tmp_path / "build.log"
    with pytest.raises(SetupError) as caught:
        wheels.builder(made, python, 2, log)(tmp_path)
    assert "a.cpp:3:1: error: no such" in caught.value.what
    assert caught.value.log == log and caught.value.next_step
    shown = capsys.readouterr().out
    assert "| flags: -DLLAVA_BUILD=OFF / -fno-dse" in shown
    assert "with 2 job(s): usually" in shown


# Reading failures


@pytest.mark.parametrize(
    ("log", "what", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full", "free some space"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "memory", "--jobs 1"),
        ("No CMAKE_CXX_COMPILER could be found.", "no working C and C++ compiler", ""),
        ("Could NOT find Vulkan (missing: glslc)", "a Vulkan build needs is missing", ""),
        ("a.cpp:1:2: error: 'LayerSettingEXT' is not", "missing or too old", ""),
        (
            "nvcc fatal : Unsupported gpu architecture 'compute_50'",
            "CUDA toolkit",
            "--forget --cpu",
        ),
        ("Target links to:\n\n      CUDA::cublas\n\n    but CUDAToolkit", "no cuBLAS", "headers"),
        ("Temporary failure in name resolution", "index cannot be reached", "network"),
        ("Max retries exceeded\nmmq.cpp:1:2: error: bad", "mmq.cpp:1:2: error: bad", "compiler"),
        ("ERROR: No matching distribution found for gguf>=9", "gguf>=9", "index"),
        ("ERROR: something else", "ERROR: something else", "log"),
        ("all is well", "", ""),
    ],
)
def test_diagnosis(log: str, what: str, advice: str) -> None:
    found, next_step = report.diagnose(f"before\n{log}\nafter")
    assert what in found and advice in next_step and "\n" not in found
    assert bool(found) == bool(what)


def test_hosts_never_reach_the_screen() -> None:
    log = "Looking in indexes: https://user:pw@mirror.example/simple, http://b.example/x\n\nend"
    assert without_hosts("host='h.example', port=443) refused") == "host=(index)) refused"
    assert report.last_lines(log) == ["Looking in indexes: (index), (index)", "end"]


# The environment and its stamp

PYPROJECT = """
[project.optional-dependencies]
test = [
    "pytest>=8",
    "other = [",
]
train = ["torch"]

[tool.x]
no = ["x"]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    return root


def test_unknown_extra_is_refused_by_name(checkout: Path) -> None:
    assert declared_extras(checkout) == ["test", "train"]
    assert "test" in declared_extras(SCRIPTS.parent)
    check_extras(checkout, ["test", "train"])
    with pytest.raises(SetupError, match="--extra no: no such extra; there are: test, train"):
        check_extras(checkout, ["no"])


@pytest.mark.parametrize(
    ("asked", "covered"),
    [
        (("p", "k", (), True), True),
        (("p", "k", ("test",), True), True),
        (("p", "k", ("train",), True), False),
        (("other", "k", (), True), False),
        (("p", "other", (), True), False),
    ],
)
def test_what_a_stamp_covers(asked: tuple[str, str, tuple[str, ...], bool], covered: bool) -> None:
    stamp = Stamp("p", "k", ("test",), True, Choices())
    assert stamp.covers(*asked[:3], proof=asked[3]) is covered
    unproven = dataclasses.replace(stamp, proven=False)
    assert not unproven.covers(*asked[:3], proof=True)
    assert unproven.covers(*asked[:3], proof=False) is covered


def test_stamp_is_read_back_and_a_torn_one_is_none(checkout: Path) -> None:
    environment = Environment(checkout)
    environment.folder.mkdir()
    stamp = Stamp("p", "k", ("test",), True, Choices("cuda", False, {"CC": "gcc"}))
    environment.write_stamp(stamp)
    assert environment.read_stamp() == stamp
    text = environment.stamp_file.read_text()
    environment.stamp_file.write_text(text.replace('"no_rpc": true', '"rpc": false'))
    assert environment.read_stamp() == dataclasses.replace(
        stamp, choices=dataclasses.replace(stamp.choices, rpc=True)
    )
    for torn in (text[: len(text) // 2], "[]", '{"key": 1}', ""):
        environment.stamp_file.write_text(torn)
        assert environment.read_stamp() is None


def test_choices_are_kept_until_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in plan.BUILD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    earlier = Choices("cpu", False, {"CXXFLAGS": "-O1"})
    kept = setup_main.merge_choices(setup_main.parse([]), earlier)
    assert kept == earlier
    assert kept.in_words() == "--cpu --no-rpc CXXFLAGS=-O1"
    assert setup_main.merge_choices(setup_main.parse(["--rpc"]), earlier).rpc is True
    for name in ("cuda", "vulkan", "metal", "cpu"):
        asked = setup_main.parse([f"--{name}"])
        assert setup_main.merge_choices(asked, earlier).accelerator == name
    assert setup_main.merge_choices(setup_main.parse(["--forget"]), earlier) == Choices()
    monkeypatch.setenv("CXXFLAGS", "-O2")
    now = setup_main.merge_choices(setup_main.parse([]), earlier)
    assert now.environment == {"CXXFLAGS": "-O2"}
    monkeypatch.setenv("CXXFLAGS", "")
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    now = setup_main.merge_choices(setup_main.parse([]), earlier)
    assert now.environment == {"CMAKE_ARGS": "-DGGML_CUDA=on"}
    monkeypatch.delenv("CXXFLAGS")
    assert setup_main.merge_choices(setup_main.parse([]), earlier).environment == {
        "CMAKE_ARGS": "-DGGML_CUDA=on",
        "CXXFLAGS": "-O1",
    }


@pytest.mark.parametrize("arguments", [["--cuda", "--cpu"], ["--jobs", "0"], ["--cud"], ["x"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        setup_main.parse(arguments)
    assert caught.value.code == 2


class FakeSetUp:
    """Stands for pip, the compiler and the self-test, and notes what was done."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.plan = a_plan()
        self.libraries: tuple[str, ...] = ()
        self.root = root
        self.fail_at: dict[str, BaseException] = {}
        monkeypatch.setenv("EFTLOCAL_WHEELS", str(root.parent / "wheels"))
        monkeypatch.setattr(setup_main, "make_plan", lambda choices: self.plan)
        monkeypatch.setattr(setup_main, "prove", lambda environment: self.note("prove"))
        monkeypatch.setattr(setup_main, "builder", lambda *rest: self.build)
        monkeypatch.setattr(Environment, "make", lambda environment, log: self.make(environment))
        monkeypatch.setattr(Environment, "pip", self.pip)
        for name in plan.BUILD_VARIABLES:
            monkeypatch.delenv(name, raising=False)

    def note(self, what: str) -> None:
        self.done.append(what)
        if what in self.fail_at:
            raise self.fail_at[what]

    def build(self, folder: Path) -> None:
        make_wheel(folder, *self.libraries)
        self.note("build")

    def make(self, environment: Environment) -> None:
        self.note("make")
        environment.binaries.mkdir(parents=True, exist_ok=True)
        environment.python.touch()

    def pip(self, arguments: list[str], *, log: Path, label: str) -> None:
        self.note(label)
        package = "llama_cpp_python" if "llama" in label else "eftlocal"
        libraries = "Lib" if sys.platform == "win32" else "lib/python3.11"
        metadata = self.root / ".venv" / libraries / "site-packages" / f"{package}-0.dist-info"
        metadata.mkdir(parents=True, exist_ok=True)
        (metadata / "METADATA").touch()

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        self.done = []
        return setup_main.main(arguments, self.root), self.done


@pytest.fixture
def fake(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSetUp:
    monkeypatch.setattr(setup_main.signal, "signal", lambda *rest: None)
    return FakeSetUp(checkout, monkeypatch)


ALL = ["make", "build", "installing llama-cpp-python", "installing eftlocal", "prove"]
FROM_CACHE = [step for step in ALL if step != "build"]
NOT_THE_WHEEL = ["make", "installing eftlocal", "prove"]


def test_second_set_up_does_nothing(fake: FakeSetUp, capsys: pytest.CaptureFixture[str]) -> None:
    assert fake.run() == (0, ALL)
    assert fake.run() == (0, [])
    assert "eftlocal is set up for cpu. Next: " in capsys.readouterr().out.splitlines()[-1]


def test_what_was_built_is_told_whatever_was_asked(
    fake: FakeSetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.plan = a_plan(accelerator=accelerator.Choice("opencl", (), "by CMAKE_ARGS"))
    fake.libraries = ("libggml-vulkan.so",)
    assert fake.run()[0] == 0
    said = capsys.readouterr().out
    assert "accelerator: opencl (by CMAKE_ARGS)" in said
    assert "note: this build of llama.cpp has no opencl in it" in said
    assert "eftlocal is set up for vulkan." in said
    facts = json.loads((fake.root / ".venv" / "eftlocal-build.json").read_text())
    assert (facts["asked_for"], facts["accelerator"]) == ("opencl", "vulkan")


def test_each_cause_redoes_just_what_it_must(fake: FakeSetUp) -> None:
    fake.run()
    (fake.root / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    assert fake.run() == (0, NOT_THE_WHEEL)
    test_extra = ["make", "installing eftlocal", "installing the model for the tests", "prove"]
    assert fake.run("--extra", "test") == (0, test_extra)
    assert fake.run() == (0, [])
    fake.root = fake.root.rename(fake.root.with_name("moved"))  # with all that is in it
    assert fake.run() == (0, test_extra)
    assert fake.run() == (0, [])
    assert fake.run("--rebuild")[1].count("build") == 1
    fake.plan = a_plan(cxxflags=("-fno-dse",))
    assert "build" in fake.run()[1]
    fake.plan = a_plan()
    assert "build" not in fake.run()[1]
    shutil.rmtree(fake.root / ".venv")
    assert fake.run() == (0, FROM_CACHE)


@pytest.mark.parametrize("step", ALL)
def test_interrupt_never_looks_finished(
    fake: FakeSetUp, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fail_at = {step: KeyboardInterrupt()}
    assert fake.run("--no-rpc", "--extra", "train")[0] == 130
    assert "run it again" in capsys.readouterr().err
    fake.fail_at = {}
    code, done = fake.run()
    assert code == 0 and "prove" in done
    stamp = Environment(fake.root).read_stamp()
    assert stamp is not None and stamp.key == fake.plan.key
    if step != "make":  # before that there is no folder to keep them in
        assert not stamp.choices.rpc and stamp.extras == ("train",)


def test_failure_is_told_in_lines_of_its_own(
    fake: FakeSetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.fail_at = {"prove": SetupError("it crashed", next_step="do this", log=Path("x.log"))}
    assert fake.run()[0] == 1
    assert capsys.readouterr().err.splitlines() == [
        "setup: it crashed",
        "  next: do this",
        "  log:  x.log",
    ]
    fake.fail_at = {}
    assert fake.run() == (0, NOT_THE_WHEEL)


def test_no_selftest_leaves_the_proof_for_later(fake: FakeSetUp) -> None:
    assert "prove" not in fake.run("--no-selftest")[1]
    facts = json.loads((fake.root / ".venv" / "eftlocal-build.json").read_text())
    assert facts["key"] == fake.plan.key and facts["compiler"] == GCC12.version
    assert facts["built"] and facts["amx_cure"]["applied"] is False  # for the doctor
    assert fake.run("--no-selftest") == (0, [])
    assert "prove" in fake.run()[1]
    assert fake.run("--no-selftest") == (0, [])


@pytest.mark.parametrize(
    ("built", "versions", "asked"),
    [
        ("cpu", "2.15.0, 2.14.1+cpu, 2.14.1, 2.13.0+cpu", ["torch==2.14.1+cpu"]),
        ("cpu", "2.15.0, 2.14.1+cu130", []),
        ("cuda+vulkan", "2.15.0, 2.14.1+cpu", []),
    ],
)
def test_torch_is_for_the_cpu_where_there_is_one_and_no_cuda(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, built: str, versions: str, asked: list[str]
) -> None:
    answer = Answer(0, f"torch (2.15.0)\nAvailable versions: {versions}\n")
    monkeypatch.setattr("_setup.environment.ask", lambda *_, **__: answer)
    monkeypatch.setattr(Environment, "built_for", lambda _: built)
    installed: list[list[str]] = []
    monkeypatch.setattr(Environment, "pip", lambda _, words, **__: installed.append(words))
    Environment(checkout).install_project(("tune",), checkout / "log")
    assert installed == [["install", "--editable", ".[tune]", *asked]]


@POSIX
def test_crash_of_the_build_is_told_in_plain_words(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    build_file = tmp_path / "build.json"
    build_file.write_text(json.dumps({"cpu_has_amx": True, "amx_cure": {"applied": False}}))
    environment = SimpleNamespace(root=SCRIPTS.parent, python=python, build_file=build_file)
    with pytest.raises(SetupError) as caught:
        prove(environment)
    assert "llama.cpp crashed with SIGSEGV: it read memory that is not its own" in caught.value.what
    assert "-fno-tree-dse -fno-dse" in caught.value.next_step
    assert caught.value.next_step.endswith("scripts/setup.py --rebuild")


# scripts/test.py


def test_all_checks_run_and_the_first_failure_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("test")
    ran: list[list[str]] = []
    codes = {"ruff": 0, "mypy": 3, "pytest": 5}

    def run(command: list[str], **_: object) -> SimpleNamespace:
        ran.append(command)
        return SimpleNamespace(returncode=codes.get(command[2], 0) if command[1] == "-m" else 0)

    def begin(command: list[str], stdout: IO[bytes], **_: object) -> Any:
        stdout.write(b"what it said")
        return nullcontext(run(command))

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(script.subprocess, "Popen", begin)
    assert script.main(["-k", "x"]) == 3
    assert ran[0][-2:] == ["--extra", "test"]
    assert [command[2] for command in ran[1:]] == ["ruff", "ruff", "mypy", "pytest"]
    assert ran[-1][3] == "-n" and ran[-1][-2:] == ["-k", "x"]  # what is given comes last, and wins
    told = capsys.readouterr().out
    assert "== mypy\nwhat it said\n" in told and "FAILED: mypy (exit code 3)" in told
    ran.clear()
    assert script.main(["--extra", "tune", "-x"]) == 3
    assert ran[0][-4:] == ["--extra", "test", "--extra", "tune"] and ran[-1][-1] == "-x"


def test_failed_set_up_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("test")
    monkeypatch.setattr(script.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1))
    monkeypatch.setattr(script, "steps", lambda arguments: pytest.fail("nothing may run"))
    assert script.main([]) == 1
