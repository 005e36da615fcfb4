"""`eftlocal models optimize`: a preset's files in the types that are fastest on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from eftlocal import hub, llama
from eftlocal.cli.models import states_of
from eftlocal.cli.option_rules import by_role
from eftlocal.cli.progress import terminable
from eftlocal.cli.screen import Screen, add_row, download_bars, new_table
from eftlocal.cli.selection import loading_bars
from eftlocal.cli.streams import ask, print_json, say, tell
from eftlocal.defaults import preset_defaults
from eftlocal.disk import readable
from eftlocal.errors import DownloadError, InterruptedRunError, UsageError
from eftlocal.gguf_file.check import checked_model
from eftlocal.gguf_file.header import Header
from eftlocal.llama.quantize import FILE_TYPES
from eftlocal.loading.host import check_threads
from eftlocal.loading.loader import checked_files, prepare
from eftlocal.loading.requantize import Copy, check_space, seconds_of, write
from eftlocal.loading.roles import RoleSource, preset_sources
from eftlocal.loading.weight_types import (
    bits,
    is_in,
    precision,
    relatives,
    same_model,
    weights_by_type,
)
from eftlocal.output_file import check_place
from eftlocal.presets.reading import user_path
from eftlocal.presets.schema import Preset
from eftlocal.presets.writing import add_preset, check_name, made_by
from eftlocal.sources import Sources
from eftlocal.speculation.costs import Curve
from eftlocal.study.divergence import LETTERS, TEXT, Divergence, distributions, divergence
from eftlocal.study.miniature import Shape, curves
from eftlocal.study.quantization import (
    Choice,
    Part,
    as_it_is,
    best,
    choices,
    parts_of,
    role_curve,
)

_ROWS = (1, 4, 8)
_PRESENT = 0.1  # of a file's weights: a type with fewer is not timed for itself
_GAIN = 1.03  # times as many tokens a second as now: less is not worth the loss
_FEW_BITS = 5.0  # of a weight: made from fewer, a copy loses twice
_MISSING = (
    "repo",
    "revision",
    "sha256",
    "size",
    "approx_size",
    "python_package",
)  # of a file of one's own


@dataclass(frozen=True)
class Wishes:
    """What the command line says of the types.

    Attributes:
        to: of every role.
        roles: ROLE=TYPE.
        sources: ROLE=FILE.
        output: of the output matrices; None is 6 bits, as a rule.
        acceptance: of drafts, that the choice is for.
        again: the types are timed anew.
    """

    to: str | None
    roles: Sequence[str]
    sources: Sequence[str]
    output: str | None
    acceptance: float
    threads: int | None
    again: bool


def optimize(
    preset: Preset,
    name: str,
    wishes: Wishes,
    *,
    text: str | None,
    tokens: int,
    yes: bool,
    force: bool,
    json_: bool,
    trust: bool,
) -> None:
    """The verb, its options read.

    Args:
        text: to compare the trios on; None is the built-in one.
    """
    check_threads(wishes.threads, "--threads")
    if name == preset.name:
        raise UsageError(f"--name {name} is the preset itself; give another name")
    check_name(name, replace=force)
    if user_path().parent.is_dir():
        check_place(user_path())
    if wishes.output:
        wishes = replace(wishes, output=_known(wishes.output, "--output"))
    output = wishes.output
    types, files = _types(wishes, preset), by_role("--source", wishes.sources, preset.roles)
    states = states_of(preset)
    for state in states:
        if state.ref.repo is None:
            hub.resolve(state.ref)  # says that the path is wrong
    missing = sum(state.path is None for state in states)
    if missing:
        raise DownloadError(
            f"{preset.name}: {missing} of its files are not on this machine; "
            f"`eftlocal models pull {preset.name}` downloads them"
        )
    sources = preset_sources(preset, hub.resolve)
    headers, _ = checked_files(sources)
    origins = _origins(headers, files)
    parts = parts_of(preset, headers, origins, types, output)
    chosen = {part.name: part.types[-1] for part in parts}
    before = after = None
    if any(len(part.types) > 1 for part in parts):
        measured = _measure(parts, sources, wishes)
        recipe = preset_defaults(preset).recipe
        before = as_it_is(parts, measured, recipe, wishes.acceptance)
        after = best(choices(parts, measured, recipe, wishes.acceptance, output))
        if not types and after.rate.best < _GAIN * before.rate.best:
            after = before
        chosen = dict(after.types)
        if not json_:
            _show(parts, measured, before, after, wishes)
    copies, there = _copies(parts, chosen, origins, output)
    report = _report(preset, name, chosen, before, after, copies)
    if not copies and not there:
        report["preset"] = None
        if json_:
            print_json(report, indent=2)
        else:
            say(f"nothing to do: {preset.name} is in the best types already")
        return
    new = list({copy.path: copy for copy in copies.values() if not copy.is_there}.values())
    check_space(new)
    threads = wishes.threads or llama.default_threads()
    if not json_:
        _show_files(copies, there)
    if new and not yes:
        size, seconds = sum(c.size for c in new), sum(seconds_of(c, threads) for c in new)
        ask(f"Write {readable(size)}, in about {_duration(seconds)}")
    try:
        with terminable():
            with download_bars() as bars:
                for copy in new:
                    _write(copy, threads, bars)
            paths = there | {role: copy.path for role, copy in copies.items()}
            table, comment = _table(preset, name, chosen, paths)
            new_preset = Preset.model_validate(table)
            found = _compare(preset, new_preset, text or TEXT, tokens, wishes.threads, trust=trust)
            add_preset(table, comment)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "stopped; files that are done are kept, and the same command goes on from there"
        ) from None
    report["divergence"] = found and asdict(found)
    if json_:
        print_json(report, indent=2)
        return
    if found:
        say(
            f"against {preset.name}, on {found.tokens} tokens: the same first choice at "
            f"{found.agreement:.1%}, total variation {found.total_variation:.3f}, KL divergence "
            f"{found.kl:.4f} nats"
        )
    say(f"written into {user_path()}; run it with `eftlocal run --preset {name} ...`")


def _types(wishes: Wishes, preset: Preset) -> dict[str, str]:
    """The types asked for, by role."""
    of_all = dict.fromkeys(preset.roles, _known(wishes.to, "--to")) if wishes.to else {}
    named = by_role("--role", wishes.roles, preset.roles)
    return of_all | {role: _known(type_, "--role") for role, type_ in named.items()}


def _known(type_: str, option: str) -> str:
    if type_.upper() not in FILE_TYPES:
        raise UsageError(
            f"{option}: {type_} is no type that a file can be written in without an "
            f"importance matrix; there are {', '.join(FILE_TYPES)}"
        )
    return type_.upper()


def _origins(headers: Mapping[str, Header], files: Mapping[str, str]) -> dict[str, Header]:
    """What each role's copy is made from: the most precise file of it on this machine."""
    found: dict[str, Header] = {}
    for role, header in headers.items():
        found[role] = relatives(header)[0]
        if role in files:
            found[role] = checked_model(Path(files[role]))
            if not same_model(header, found[role]):
                raise UsageError(
                    f"--source {role}={files[role]}: is another model than {header.path.name}: its "
                    "vocabulary or its tensors differ"
                )
    return found


def _measure(
    parts: Sequence[Part], sources: Mapping[str, RoleSource], wishes: Wishes
) -> dict[Shape, dict[str, Curve]]:
    """Each type's curve at each shape."""
    plan = prepare(sources, force=True, trust=True).plan
    wanted: dict[Shape, dict[str, None]] = {}
    settings: dict[Shape, tuple[str, int, tuple[str, ...]]] = {}
    for part in parts:
        for role, header in part.headers.items():
            shape, weights = Shape.of(header), weights_by_type(header)
            all_ = sum(weights.values())
            present = [t for t, count in weights.items() if count >= _PRESENT * all_]
            types = dict.fromkeys([*present, *filter(None, part.types), wishes.output or "Q6_K"])
            allowed = {type_: None for type_ in types if shape.allows(type_)}
            wanted[shape] = wanted.get(shape, {}) | allowed
            threads = wishes.threads or sources[role].threads or llama.default_threads()
            used = zip(plan.devices, plan.roles[role].split, strict=True)
            whole = plan.roles[role].n_gpu_layers > header.n_layers  # on devices: nothing else is
            devices = tuple(device.name for device, count in used if count and whole)
            settings[shape] = part.name, threads, devices
    found = {}
    with loading_bars() as bars, terminable():
        for shape, types in wanted.items():
            name, threads, devices = settings[shape]

            def progress(share: float, name: str = name) -> None:
                if bars.measuring is not None:
                    bars.measuring(f"types for {name}", share)

            found[shape] = curves(
                shape,
                types,
                threads=threads,
                devices=devices,
                again=wishes.again,
                progress=progress,
            )
    return found


def _show(
    parts: Sequence[Part],
    measured: Mapping[Shape, Mapping[str, Curve]],
    before: Choice,
    after: Choice,
    wishes: Wishes,
) -> None:
    rows = ", ".join(map(str, _ROWS))
    table = new_table("type", *(f"{part.name}: ms of {rows} rows" for part in parts))
    shown = [(part, next(iter(part.headers.values()))) for part in parts]
    for type_ in dict.fromkeys(chain.from_iterable(part.types for part in parts)):
        cells = []
        for part, header in shown:
            if type_ not in part.types:
                cells.append("")
                continue
            weights = weights_by_type(header, type_, wishes.output)
            curve = role_curve(weights, measured[Shape.of(header)])
            mark = " <" if after.types[part.name] == type_ else ""
            cells.append("  ".join(f"{1000 * curve(n):.3g}" for n in _ROWS) + mark)
        add_row(table, type_ or "as it is", *cells)
    Screen().show(table)
    shown_choices = {"now": before} | ({} if after is before else {"chosen": after})
    for what, choice in shown_choices.items():
        kinds = ", ".join(f"{part}: {t or 'as it is'}" for part, t in choice.types.items())
        rate = choice.rate
        times = rate.best / before.rate.best
        gain = "" if choice is before else f", {times:.2f} times as many"
        say(
            f"{what} ({kinds}): {_number(rate.plain)} tokens/s plain, {_number(rate.drafted)} with "
            f"drafts at an acceptance of {wishes.acceptance:g}{gain}"
        )


def _copies(
    parts: Sequence[Part],
    chosen: Mapping[str, str | None],
    origins: Mapping[str, Header],
    output: str | None,
) -> tuple[dict[str, Copy], dict[str, Path]]:
    """What is to be written, and the files that are there in the chosen type, by role."""
    copies: dict[str, Copy] = {}
    there: dict[str, Path] = {}
    for part in parts:
        if (type_ := chosen[part.name]) is None:
            continue
        for role, header in part.headers.items():
            if is_in(header, type_, output):
                continue
            if right := [h for h in relatives(header) if is_in(h, type_, output)]:
                there[role] = right[0].path.absolute()
            else:
                copies[role] = Copy.of(origins[role], type_, output)
    return copies, there


def _show_files(copies: Mapping[str, Copy], there: Mapping[str, Path]) -> None:
    table = new_table("role", "file", "size", "made from")
    for role, path in there.items():
        add_row(table, role, path.name, readable(path.stat().st_size), "is there")
    for role, copy in copies.items():
        made = "is there" if copy.is_there else copy.source.path.name
        add_row(table, role, copy.path.name, readable(copy.size), made)
    Screen().show(table, by=1)
    larger = [role for role, copy in copies.items() if bits(copy.type) > precision(copy.source)]
    if larger:
        tell(
            f"note: {' and '.join(larger)}: made from fewer bits than the copy has, so it is "
            "larger and no better"
        )
    few = [role for role, copy in copies.items() if precision(copy.source) < _FEW_BITS]
    if made_twice := [role for role in few if role not in larger]:
        tell(
            f"note: {' and '.join(made_twice)}: quantized from few bits a second time, which loses "
            "again; a file in Q8_0 or F16 (beside it, or with --source) gives a better copy"
        )
    if any(bits(copy.type) < _FEW_BITS for copy in copies.values()):
        tell("note: without an importance matrix, which loses more than some files on the hub")


def _report(
    preset: Preset,
    name: str,
    chosen: Mapping[str, str | None],
    before: Choice | None,
    after: Choice | None,
    copies: Mapping[str, Copy],
) -> dict[str, Any]:
    return {
        "preset": name,
        "made_from": preset.name,
        "types": dict(chosen),
        "tokens_per_second": {
            what: None if choice is None else asdict(choice.rate)
            for what, choice in (("now", before), ("chosen", after))
        },
        "files": {
            role: {"path": str(copy.path), "size": copy.size, "made_from": str(copy.source.path)}
            for role, copy in copies.items()
        },
        "divergence": None,
    }


def _write(copy: Copy, threads: int, bars: hub.Progress) -> None:
    name, size = copy.path.name, copy.size
    write(copy, threads, lambda done: bars(name, min(done, size), size))
    bars(name, size, size)


def _table(
    preset: Preset, name: str, chosen: Mapping[str, str | None], paths: Mapping[str, Path]
) -> tuple[dict[str, Any], str]:
    """The new preset as a table, and a comment."""
    kinds = ", ".join(f"{part} in {type_}" for part, type_ in chosen.items() if type_)
    by = made_by(preset.name)
    table = preset.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    table["name"] = name
    table["title"] = f"{preset.title or preset.name} ({kinds})"
    for role, path in paths.items():
        entry = table["roles"][role]
        if preset.roles[role].of is None:
            for key in _MISSING:
                entry.pop(key, None)
            entry |= {"file": str(path.absolute()), "evidence": by}
    return table, f"{name}: {by}, {kinds}"


def _compare(
    old: Preset, new: Preset, text: str, tokens: int, threads: int | None, *, trust: bool
) -> Divergence | None:
    """How far the new trio is from the old one, which are loaded one after the other."""
    if not tokens:
        return None

    settings: Any = {"threads": threads, "n_ctx": LETTERS * tokens + 64}

    def sources(preset: Preset) -> Sources:
        return Sources.of_preset(preset, offline=True, trust=trust, **settings)

    with loading_bars() as bars:
        progress: Any = {"progress": bars.weights, "checking": bars.checking}
        with sources(old).load(**progress) as emulator:
            first = list(distributions(emulator, text, tokens))
        with sources(new).load(**progress) as emulator:
            return divergence(first, distributions(emulator, text, tokens))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / 60:.0f} min"
