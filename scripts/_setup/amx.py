"""Does this compiler break llama.cpp's AMX kernels, and the flags that cure it.

GCC 12 and older tell the optimiser that `_tile_loadconfig` reads 8 bytes of its 64-byte argument.
The stores to the other 56 are removed as dead, and the first quantized product of several rows
faults. The compiler is put to the test; its version decides only where the test cannot be made.
AMX itself is never switched off: it makes prefill twice as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .child import Answer, ask
from .machine import Compilers, Cpu
from .selftest import selftest

CURE = tuple(str(selftest.AMX_FLAGS).split())
LAST_BROKEN_GCC = 12

# A right compiler must store `marker`, which arrives in rdi, before the configuration is loaded.
PROBE = """
#include <immintrin.h>
extern "C" void probe(unsigned long long marker) {
    unsigned long long config[8] = {0};
    config[7] = marker;
    _tile_loadconfig(config);
}
"""

Compile = Callable[[tuple[str, ...]], Answer]


@dataclass(frozen=True)
class Cure:
    flags: tuple[str, ...]
    why: str

    @property
    def needed(self) -> bool:
        return bool(self.flags)


def decide(cpu: Cpu, compilers: Compilers, compile_probe: Compile | None = None) -> Cure:
    """The flags to add for this CPU and compiler, with the reason; `compile_probe` is for tests."""
    if not cpu.has_amx:
        return Cure((), "this CPU has no AMX")
    if not compilers.cxx:
        return Cure((), "this compiler builds llama.cpp without AMX")
    compile_probe = compile_probe or (lambda flags: _assembly(compilers, flags))
    plain = compile_probe(())
    if not is_probe_assembly(plain):
        return _by_version(compilers)
    if keeps_the_store(plain.out):
        return Cure((), "tested: the compiler keeps the stores to AMX's tile configuration")
    cured = compile_probe(CURE)
    if is_probe_assembly(cured) and keeps_the_store(cured.out):
        return Cure(CURE, "tested: the compiler drops stores to AMX's tile configuration")
    return Cure(
        CURE,
        "tested: the compiler drops stores to AMX's tile configuration, even with the known cure: "
        "if the self-test fails, use a newer compiler (CC=... CXX=...)",
    )


def _by_version(compilers: Compilers) -> Cure:
    major = compilers.gcc_major
    if major is None:
        return Cure((), "the compiler could not be tested for the AMX fault; only GCC has it")
    broken = major <= LAST_BROKEN_GCC
    side = f"GCC {major} is {'not ' if broken else ''}newer than {LAST_BROKEN_GCC}"
    return Cure(CURE if broken else (), f"not tested, by version: {side}")


def is_probe_assembly(answer: Answer) -> bool:
    return answer.code == 0 and "ldtilecfg" in answer.out


def keeps_the_store(assembly: str) -> bool:
    """Whether the marker's register is read before the configuration is loaded."""
    return "rdi" in assembly.partition("ldtilecfg")[0]


def _assembly(compilers: Compilers, flags: tuple[str, ...]) -> Answer:
    options = ("-O3", "-mamx-tile", *flags, "-S", "-o", "-", "-x", "c++", "-")
    return ask([*compilers.cxx, *options], stdin=PROBE)
