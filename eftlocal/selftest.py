"""Does this build of llama.cpp work? Decode 64 tokens of a quantized model in a single call.

A broken build does not raise, it kills its process: so `run_in_child` runs the test in a child
and puts a crash into plain words. Its top level needs the standard library only, because the
set-up loads this file before the project's packages can be trusted. `run` is the test itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from numpy.typing import NDArray

    from eftlocal.llama import Model

TOKENS = 64
# Kernels for one row and for many differ by 0.01 to 0.03 on average; broken ones by 0.5 and more.
LARGEST_MEAN_VARIATION = 0.1
_VOCABULARY = 512
_EMBEDDING = 256  # one block of the K-quants
_FEED_FORWARD = 512
_HEADS, _KV_HEADS = 4, 2
_CONTEXT = 128
LAYERS = ("Q4_0", "Q8_0", "Q4_K", "Q6_K")  # one for each quantization that people download
SETUP = "python3 scripts/setup.py"
# GCC 12 and older take stores to AMX's tile configuration for dead ones and drop them.
AMX_FLAGS = "-fno-tree-dse -fno-dse"
AMX_CURE = {"CFLAGS": AMX_FLAGS, "CXXFLAGS": AMX_FLAGS}

_DRIVERS = {
    "cuda": "update the NVIDIA driver",
    "vulkan": "install or update your GPU's Vulkan driver (GGML_VK_VISIBLE_DEVICES=0 takes one in "
    "software, for tests)",
}
_SIGNALS = {
    "SIGSEGV": "it read memory that is not its own, as miscompiled code does",
    "SIGBUS": "it read memory that is not its own, as miscompiled code does",
    "SIGILL": "it was built for another CPU than this one",
    "SIGFPE": "it divided by zero, as miscompiled code does",
    "SIGABRT": "llama.cpp stopped itself at an error that it cannot handle",
    "SIGKILL": "the system killed it, most often because memory ran out",
}
_WINDOWS_CODES = {
    0xC0000005: ("SIGSEGV", "an access violation"),
    0xC000001D: ("SIGILL", "an illegal instruction"),
    0xC0000094: ("SIGFPE", "a division by zero"),
    0xC0000409: ("SIGABRT", "a fatal exit"),
    0xC0000017: ("SIGKILL", "no memory"),
}


@dataclass(frozen=True)
class SelfTestResult:
    """message: one line; advice: the next thing to try, empty when ok; facts: what was measured."""

    ok: bool
    message: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def run_in_child(
    *,
    python: Path | str = sys.executable,
    build_file: Path | None = None,
    timeout: float = 300.0,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    command: Sequence[str] | None = None,
) -> SelfTestResult:
    """Run the self-test in a child process of `python`; never raises for what the child does.

    `build_file` tells how llama.cpp was built, for the advice (default: this environment's).
    `timeout` in seconds. `environment` and `cwd` are the child's. `command` replaces the child,
    for tests.
    """
    build = read_build_facts(build_file)
    if command is None:
        command = [str(python), "-m", "eftlocal.selftest", "--json"]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env=dict(environment) if environment is not None else None,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return SelfTestResult(False, f"still running after {timeout:.0f} s", advice("hang", build))
    except OSError as error:
        return SelfTestResult(False, f"it could not be started: {error}", rebuild(build))
    said = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    engine = said[0] if said else {}
    if crash := crash_name(child.returncode):
        words = crash_in_words(child.returncode, crash)
        return SelfTestResult(False, words, advice(crash, build), engine)
    if len(said) == 2:
        found = SelfTestResult(**said[1])
        next_step = "" if found.ok else advice("wrong", build)
        return SelfTestResult(found.ok, found.message, next_step, {**engine, **found.facts})
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {child.returncode} and no output"
    kind = "missing" if last.startswith("ModuleNotFoundError") else "error"
    return SelfTestResult(False, last[:300], advice(kind, build), engine)


def crash_name(code: int) -> str:
    """The signal that ended a process with this exit code, Windows' codes too; "" for a plain one.

    A signal of no name here is given as SIG and its number.
    """
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"SIG{-code}"
    return _WINDOWS_CODES.get(code, ("", ""))[0]


def crash_in_words(code: int, name: str) -> str:
    """One clause for the user: what happened and what it most often means."""
    happened = _WINDOWS_CODES[code][1] if code in _WINDOWS_CODES else name
    meaning = _SIGNALS.get(name)
    return f"llama.cpp crashed with {happened}" + (f": {meaning}" if meaning else "")


def advice(kind: str, build: Mapping[str, Any]) -> str:
    """The next thing to try after a failure of this kind, for a build with these facts."""
    if kind == "SIGKILL":
        return "close other programs to free memory, then try again"
    if kind == "missing":
        if build:
            return f"remove the folder .venv, then {SETUP}"
        return "install eftlocal again, with all that it depends on"
    if kind == "SIGILL":
        return rebuild(build)
    accelerators = str(build.get("asked_for") or build.get("accelerator")).split("+")
    forget = " --forget" if build.get("accelerator_why") == "by CMAKE_ARGS" else ""
    for name, remedy in _DRIVERS.items():
        if name in accelerators:
            return f"{remedy}, or build without it: {SETUP} --rebuild{forget} --cpu"
    cured = (build.get("amx_cure") or {}).get("applied")
    has_amx = build.get("cpu_has_amx") if build else cpu_has_amx()
    if kind in ("SIGSEGV", "SIGBUS") and has_amx and not cured:
        return rebuild(build, AMX_CURE)
    if kind in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "wrong", "hang"):
        return f"build with another compiler: {rebuild(build, {'CC': 'clang', 'CXX': 'clang++'})}"
    return rebuild(build)


def rebuild(build: Mapping[str, Any], variables: Mapping[str, str] | None = None) -> str:
    """The command that builds llama.cpp again, with the best settings for this machine.

    Args:
        build: what scripts/setup.py wrote about the build; empty where eftlocal was installed
            without a checkout.
        variables: of the environment, beside those that this machine needs.
    """
    wanted = dict(variables or {})
    if build:  # the set-up finds out the rest
        return f"{_setting(wanted)}{SETUP} --rebuild"
    cmake = ["-DLLAVA_BUILD=OFF", *_gpu_options(), "-DGGML_RPC=on"]
    wanted = {"CMAKE_ARGS": " ".join(cmake), **(AMX_CURE if cpu_has_amx() else {}), **wanted}
    package = "llama-cpp-python"
    pip = f'"{sys.executable}" -m pip install --force-reinstall --no-cache-dir'
    if find_spec("pip") is None:  # as in an environment that uv made
        pip = f'uv pip install --python "{sys.executable}" --reinstall --no-cache'
    return f"{_setting(wanted)}{pip} --no-deps --no-binary {package} {package}=={_version()}"


def with_rpc(build: Mapping[str, Any]) -> str:
    """The command that builds llama.cpp again, with RPC; `build` as in `rebuild`."""
    off = "GGML_RPC" in str(build.get("cmake_args"))  # by CMAKE_ARGS, which set-up remembers
    return f"{SETUP} --rpc{' --forget' if off else ''}" if build else rebuild(build)


def _setting(variables: Mapping[str, str]) -> str:
    """What sets these variables in front of a command, in the system's shell."""
    if sys.platform == "win32":  # PowerShell
        return "".join(f'$env:{name}="{value}"; ' for name, value in variables.items())
    words = {name: f'"{value}"' if " " in value else value for name, value in variables.items()}
    return "".join(f"{name}={value} " for name, value in words.items())


def _gpu_options() -> list[str]:
    """CMake's option for the GPU of this machine, if one can be seen."""
    if shutil.which("nvidia-smi"):
        return ["-DGGML_CUDA=on"]
    if sys.platform == "darwin":
        return ["-DGGML_METAL=on"] if platform.machine() == "arm64" else []
    vulkan = "VULKAN_SDK" in os.environ or any(Path("/dev/dri").glob("renderD*"))
    return ["-DGGML_VULKAN=on"] if vulkan else []


def cpu_has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has AMX tiles; only Linux lets llama.cpp use them."""
    try:
        return "amx_tile" in cpuinfo.read_text(errors="replace").split()
    except OSError:
        return False


def _version() -> str:
    """Of llama-cpp-python: this program depends on its structures."""
    from importlib import metadata

    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return "0.3.36"


def read_build_facts(path: Path | None = None) -> dict[str, Any]:
    """What scripts/setup.py wrote about the build; empty when it did not make this environment."""
    path = path or Path(sys.prefix) / "eftlocal-build.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def run(model: Path | None = None) -> SelfTestResult:
    """The test, in this process: a bad build may end it. `model` replaces the miniature one."""
    from eftlocal import llama

    started = time.perf_counter()
    facts: dict[str, Any] = {"tokens": TOKENS}
    found = [device for device in llama.devices() if device.is_gpu]
    gpus = [device.name for device in sorted(found, key=lambda device: device.kind)]
    build = read_build_facts()
    wanted = build.get("asked_for") or build.get("accelerator", "cpu")
    if wanted != "cpu" and not gpus:
        return SelfTestResult(False, f"built for {wanted}, but llama.cpp finds no such device")
    with tempfile.TemporaryDirectory() as folder:
        path = model or Path(folder) / "selftest.gguf"
        if model is None:
            write_random_model(path)
        for place, devices in (("cpu", []), *((name, [name]) for name in gpus[:1])):
            with llama.Model(path, gpu_layers=-1, devices=devices) as loaded:
                problem, facts[place] = _compare(loaded)
            if problem:
                return SelfTestResult(False, f"on {place}: {problem}", facts=facts)
    facts["seconds"] = round(time.perf_counter() - started, 3)
    places = " and ".join(["cpu", *gpus[:1]])
    message = f"{TOKENS} tokens decoded at once and one by one on {places} agree"
    return SelfTestResult(True, message, facts=facts)


def _compare(model: Model) -> tuple[str, dict[str, float]]:
    """Decode the same tokens in one call and in single calls; ("" or the problem, measurements)."""
    import numpy as np

    text = "".join(chr(ord("a") + n * 7 % 26) for n in range(4 * TOKENS))
    tokens = model.tokenize(text, add_bos=True)[:TOKENS]
    together = _rows(model, [tokens])
    apart = _rows(model, [[token] for token in tokens])
    if not (np.isfinite(together).all() and np.isfinite(apart).all()):
        return "some logits are not numbers (NaN or infinity)", {}
    variation = 0.5 * np.abs(_softmax(together) - _softmax(apart)).sum(axis=1)
    measured = {
        "mean_total_variation": round(float(variation.mean()), 5),
        "same_first_choice": float((together.argmax(1) == apart.argmax(1)).mean()),
    }
    if together.std() < 1e-3:
        return "all logits are the same", measured
    if measured["mean_total_variation"] > LARGEST_MEAN_VARIATION:
        return f"{TOKENS} tokens decoded at once and one by one disagree", measured
    return "", measured


def _rows(model: Model, calls: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits of every token, (tokens, vocab) float32, decoded call by call in a new context."""
    import numpy as np

    from eftlocal.llama import Context, Span

    with Context(model, n_ctx=2 * TOKENS, n_batch=TOKENS) as context:
        decoded = (context.decode([Span(0, call, len(call))]) for call in calls)
        # A row lives until the next decode, so it is copied.
        return np.concatenate([logits.copy() for logits in decoded])


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row, (rows, vocab) float32."""
    import numpy as np

    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


# The miniature model ---------------------------------------------------------------------------


def write_random_model(path: Path, seed: int = 1) -> None:
    """Write a llama-architecture GGUF of a few megabytes; the same bytes for the same seed."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("self-test, random weights")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_block_count(len(LAYERS))
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_EMBEDDING // _HEADS)
    add_vocabulary(writer)
    head = _EMBEDDING // _HEADS
    shapes = {
        "attn_q": (_EMBEDDING, _EMBEDDING),
        "attn_k": (_KV_HEADS * head, _EMBEDDING),
        "attn_v": (_KV_HEADS * head, _EMBEDDING),
        "attn_output": (_EMBEDDING, _EMBEDDING),
        "ffn_gate": (_FEED_FORWARD, _EMBEDDING),
        "ffn_up": (_FEED_FORWARD, _EMBEDDING),
        "ffn_down": (_EMBEDDING, _FEED_FORWARD),
    }
    _add_matrix(writer, "token_embd.weight", (_VOCABULARY, _EMBEDDING), "Q8_0", rng)
    for layer, quantization in enumerate(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(_EMBEDDING, np.float32))
        for name, shape in shapes.items():
            _add_matrix(writer, f"blk.{layer}.{name}.weight", shape, quantization, rng)
    writer.add_tensor("output_norm.weight", np.ones(_EMBEDDING, np.float32))
    _add_matrix(writer, "output.weight", (_VOCABULARY, _EMBEDDING), "Q6_K", rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: gguf.GGUFWriter) -> int:
    """A SentencePiece vocabulary: three special tokens, all bytes, and words to fill it up.

    Returns:
        how many tokens it has.
    """
    import gguf

    kind = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256
    tokens += [f"\u2581w{n}" for n in range(_VOCABULARY - len(tokens))]
    types += [kind.NORMAL] * (_VOCABULARY - len(types))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(n) for n in range(_VOCABULARY)])
    writer.add_token_types([int(value) for value in types])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return len(tokens)


def _add_matrix(
    writer: gguf.GGUFWriter,
    name: str,
    shape: tuple[int, int],
    quantization: str,
    rng: np.random.Generator,
) -> None:
    """Random weights with mean 0 and a standard deviation of about 1 / sqrt(columns)."""
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[quantization]
    root = np.sqrt(shape[1])
    if quantization in ("Q4_K", "Q6_K"):
        # The gguf package reads K-quants but does not write them. Random bits under fixed scales
        # are as good as random weights; the layouts are ggml's block_q4_K and block_q6_K.
        _, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (shape[0], shape[1] // 256, size), dtype=np.uint8)
        if quantization == "Q4_K":  # weight = d * scale * q - dmin * min; d, dmin, 12 scales, q
            d = 1.0 / (270.0 * root)  # scale and min in 0..63, q in 0..15
            blocks[..., 0:4] = np.array([d, 7.5 * d], np.float16).view(np.uint8)
        else:  # weight = d * scale * (q - 32), q in 0..63: 192 bytes of q, 16 int8 scales, d
            scales = rng.integers(-32, 32, (*blocks.shape[:2], 16), dtype=np.int8)
            blocks[..., 192:208] = scales.view(np.uint8)
            blocks[..., 208:210] = np.array([1.0 / (340.0 * root)], np.float16).view(np.uint8)
        blocks = blocks.reshape(shape[0], -1)
    else:
        weights = rng.standard_normal(shape, np.float32) / np.float32(root)
        blocks = gguf.quants.quantize(weights, kind)
    writer.add_tensor(name, blocks, raw_dtype=kind)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m eftlocal.selftest`: run the test in this very process."""
    parser = argparse.ArgumentParser(prog="python -m eftlocal.selftest", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help="a GGUF file to use")
    parser.add_argument("--json", action="store_true", help="the result as one line of JSON")
    args = parser.parse_args(arguments)
    if args.json:
        from eftlocal import llama

        # Said before the risky part, so that the parent knows the devices even after a crash.
        sys.stdout.write(json.dumps(llama.facts()) + "\n")
        sys.stdout.flush()
    result = run(args.model)
    sys.stdout.write((json.dumps(asdict(result)) if args.json else result.message) + "\n")
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
