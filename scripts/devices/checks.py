"""The checks: each loads models in some placement, and says what became of it in rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from devices import trios
from devices.comparison import compare, devices_as, texts
from devices.trios import Trio, random
from eftlocal import Emulator, llama, selftest
from eftlocal.defaults import Defaults
from eftlocal.errors import DoesNotFitError
from eftlocal.llama import Context, Span
from eftlocal.llama.engine import llama_cpp
from eftlocal.loading.loader import Prepared, load_roles, prepare
from eftlocal.loading.placement import DEVICE_MARGIN, Placement, accelerators

FEW_LAYERS = 3
FAR_ROWS = 0.05
"""Total variation by which rows decoded again may differ, after a rewind."""


@dataclass(frozen=True)
class Row:
    """One line of the table. fine is None where it could not be run here."""

    check: str
    models: str
    where: str
    fine: bool | None
    told: str


@dataclass(frozen=True)
class Setting:
    """What all checks need."""

    trios: Sequence[Trio]
    devices: Sequence[str]
    folder: Path
    tokens: int


Check = Callable[[Setting], Iterator[Row]]


def where(prepared: Prepared) -> str:
    """base Vulkan0:7, or host where nothing is on a device."""
    each = []
    for role in prepared.sources:
        used = [f"{name}:{layers}" for name, layers in prepared.plan.used_by(role) if layers]
        each.append(f"{role} {'+'.join(used) or 'host'}")
    return ", ".join(each)


def loaded(prepared: Prepared) -> Emulator:
    return Emulator(load_roles(prepared), Defaults())


def answered(
    check: str,
    trio: Trio,
    prepared: Prepared,
    *,
    draft: int | None = 0,
    wide: int = 1,
    needs: Callable[[Emulator], str] = lambda _: "",
) -> Row:
    """Loads, answers, compares. needs: what is wrong with the loaded models, or ""."""
    with loaded(prepared) as emulator:
        wrong = needs(emulator)
        found = texts(emulator, trio.questions, trio.tokens, draft=draft, wide=wide)
    verdict = compare(trio.expected, found)
    told = f"{wrong}; {verdict}" if wrong else str(verdict)
    return Row(check, trio.name, where(prepared), verdict.fine and not wrong, told)


def self_test(setting: Setting) -> Iterator[Row]:
    """Tokens decoded at once and one by one, on the CPU and on the first device."""
    result = selftest.run()
    yield Row("self-test", "", ", ".join(setting.devices), result.ok, result.message)


def layers(setting: Setting) -> Iterator[Row]:
    """Left to the program, none, half and all of the layers on devices."""
    for trio in setting.trios:
        half = {role: trio.layers(role) // 2 for role in trio.sources}
        for name, count in (("auto", None), ("none", 0), ("some", half), ("all", -1)):
            yield answered(name, trio, prepare(trio.placed(count), trust=True))


def own(setting: Setting) -> Iterator[Row]:
    """Each role on a device of its own."""
    for trio in setting.trios:
        files = {source.path for source in trio.sources.values()}
        if len(setting.devices) < 2 or len(files) < len(trio.sources):
            why = "needs two devices" if len(setting.devices) < 2 else "its roles share a file"
            yield Row("own device", trio.name, "", None, why)
            continue
        prepared = prepare(trio.placed(-1), trust=True)
        places = {}
        for i, role in enumerate(trio.sources):
            split = [0] * len(prepared.plan.devices)
            split[i % len(split)] = trio.layers(role)
            placed = prepared.plan.roles[role]
            places[role] = replace(placed, split=tuple(split), n_gpu_layers=sum(split))
        plan = replace(prepared.plan, roles=places)
        yield answered("own device", trio, replace(prepared, plan=plan))


def mixed(setting: Setting) -> Iterator[Row]:
    """Devices with too little memory for the base, so that it is split."""
    for trio in setting.trios:
        if len({source.path for source in trio.sources.values()}) < len(trio.sources):
            continue
        with devices_as({}):
            all_on = prepare(trio.placed(None), trust=True)
        whole = all_on.plan.roles
        small = sum(sum(whole[r].device_bytes) for r in ("tuned", "reference"))
        base = sum(whole["base"].device_bytes)
        for tenths in range(9, 0, -1):
            free = DEVICE_MARGIN + (small + base * tenths // 10) // len(setting.devices)
            prepared = all_on
            with devices_as(dict.fromkeys(setting.devices, free)), suppress(DoesNotFitError):
                prepared = prepare(trio.placed(None), trust=True)  # a worker must take a layer
            if _is_split(prepared.plan.roles["base"], trio.layers("base")):
                yield answered("limited memory", trio, prepared)
                break
        else:
            told = "no limit splits the base: its layers are small beside its compute buffer"
            fine = None if trio.layers("base") <= FEW_LAYERS else False
            yield Row("limited memory", trio.name, where(prepared), fine, told)


def _is_split(placement: Placement, everything: int) -> bool:
    parts = sum(1 for part in placement.split if part)
    return placement.n_gpu_layers > 0 and (parts > 1 or placement.n_gpu_layers < everything)


def side_by_side(setting: Setting) -> Iterator[Row]:
    """The pair on a device, the base on the host, both at work at once; drafts of 4, and chosen."""
    for trio in setting.trios:
        if len({source.path for source in trio.sources.values()}) < len(trio.sources):
            continue
        places = {role: 0 if role == "base" else -1 for role in trio.sources}
        for draft in (0, 4, None):
            prepared = prepare(trio.placed(places), trust=True)
            name = f"side by side, drafts {'chosen' if draft is None else draft}"
            yield answered(name, trio, prepared, draft=draft, needs=_not_side_by_side)


def _not_side_by_side(emulator: Emulator) -> str:
    return "" if emulator.ensemble.side_by_side else "the roles did not decode side by side"


def drafts(setting: Setting) -> Iterator[Row]:
    """Drafts with everything on a device."""
    for trio in setting.trios:
        for draft in (4, None):
            name = f"drafts {'chosen' if draft is None else draft}"
            yield answered(name, trio, prepare(trio.placed(-1), trust=True), draft=draft)


def adapter(setting: Setting) -> Iterator[Row]:
    """A LoRA adapter on the tuned role, whole on a device and half."""
    plain = random(setting.folder, setting.tokens)
    trio = random(setting.folder, setting.tokens, adapter=True)
    if compare(plain.expected, trio.expected).same == len(plain.questions):
        raise AssertionError("the adapter changes nothing")
    for count in (-1, trio.layers("tuned") // 2):
        yield answered("adapter", trio, prepare(trio.placed(count), trust=True))


def batch(setting: Setting) -> Iterator[Row]:
    """Four answers side by side, without drafts and with them."""
    for trio in setting.trios:
        for draft in (0, 4):
            prepared = prepare(trio.placed(-1), trust=True, n_seq_max=4)
            yield answered(f"batch of 4, drafts {draft}", trio, prepared, draft=draft, wide=4)


def state(setting: Setting) -> Iterator[Row]:
    """A sequence copied, cut back, and saved and restored: what is decoded next is the same."""
    for trio in setting.trios:
        prepared = prepare(trio.placed(-1), trust=True, n_seq_max=2)
        with loaded(prepared) as emulator:
            context = emulator.ensemble.contexts["base"]
            tokens = emulator.tokenize(trio.questions[-1])["base"]
            told = _told_of_state(context, tokens[:-1], tokens[-1])
        fine = max(told.values()) <= FAR_ROWS and told["copied"] == told["restored"] == 0.0
        words = ", ".join(f"{name} {value:.2g}" for name, value in told.items())
        yield Row("state", trio.name, where(prepared), fine, f"total variation {words}")


def _told_of_state(context: Context, tokens: Sequence[int], last: int) -> dict[str, float]:
    def next_row(sequence: int) -> NDArray[np.float64]:
        context.rewind(sequence, len(tokens))
        logits = context.decode([Span(sequence, [last])])[0].astype(np.float64)
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())

    context.clear(0)
    context.decode([Span(0, tokens, 0)])
    before = next_row(0)
    context.rewind(0, len(tokens))
    context.copy(0, 1)
    copied = next_row(1)
    size = llama_cpp.llama_state_seq_get_size(context.handle, 0)
    memory = (llama_cpp.ctypes.c_uint8 * size)()
    llama_cpp.llama_state_seq_get_data(context.handle, memory, size, 0)
    # The program itself saves no state, so its record of the sequence is made by hand.
    context.clear(0)
    if not llama_cpp.llama_state_seq_set_data(context.handle, memory, size, 0):
        raise AssertionError("llama.cpp does not take back its own state")
    context._tokens[0].extend(tokens)
    restored = next_row(0)
    context.rewind(0, len(tokens) // 2)
    context.decode([Span(0, tokens[len(tokens) // 2 :], 0)])
    again = next_row(0)
    rows = {"copied": copied, "restored": restored, "cut back": again}
    return {name: 0.5 * float(np.abs(row - before).sum()) for name, row in rows.items()}


def refusals(setting: Setting) -> Iterator[Row]:
    """A load that does not fit, and memory that the driver refuses: one line and an exit code."""
    yield _refused("does not fit", {6}, ["--n-ctx", "90000000"], {})
    if any(name.startswith("Vulkan") for name in setting.devices):
        small = {"GGML_VK_FORCE_MAX_BUFFER_SIZE": "100000"}
        yield _refused("no memory there", {3, 6, 8}, [], small)


def _refused(name: str, codes: set[int], more: list[str], env: dict[str, str]) -> Row:
    command = [sys.executable, "-m", "eftlocal", "run", "x", "--gpu-layers", "-1", *more]
    command += [f"--rpc={endpoint}" for endpoint in trios.WORKERS]
    child = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
        timeout=600,
        check=False,
    )
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    # ggml's Vulkan writes to stderr by itself, whatever becomes of its log.
    ours = [line for line in lines if not line.startswith("ggml_")]
    fine = child.returncode in codes and len(ours) == 1 and ours[0].startswith("eftlocal: ")
    return Row(name, "demo", "", fine, f"exit code {child.returncode}: {' / '.join(lines)[:300]}")


CHECKS: dict[str, Check] = {
    "self-test": self_test,
    "layers": layers,
    "own": own,
    "mixed": mixed,
    "side-by-side": side_by_side,
    "drafts": drafts,
    "adapter": adapter,
    "batch": batch,
    "state": state,
    "refusals": refusals,
}


def usable() -> list[str]:
    """The devices that models would go to."""
    return [device.name for device in accelerators(llama.devices(), None)]
