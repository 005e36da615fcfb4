"""`eftlocal models check`: do the files exist, share a vocabulary and fit in memory?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal import hub
from eftlocal.cli import options as opt
from eftlocal.cli.completion import presets
from eftlocal.cli.models.files import states_of
from eftlocal.cli.models.options import AsJson
from eftlocal.cli.models.output import (
    add_row,
    new_fact_sheet,
    new_table,
    print_table,
    size_text,
)
from eftlocal.cli.models.pull import pull
from eftlocal.cli.screen import print_json, say
from eftlocal.errors import DoesNotFitError, DownloadError, EftlocalError, UsageError
from eftlocal.loading.roles import RoleSource, file_sources, preset_sources
from eftlocal.presets.reading import find
from eftlocal.presets.schema import Preset
from eftlocal.terminal_text import one_line

if TYPE_CHECKING:
    from eftlocal.loading.prepare import Prepared
    from eftlocal.loading.vocabulary import VocabularyReport


def check_models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A preset.", autocompletion=presets)
    ] = None,
    base: Annotated[Path | None, typer.Option(help="A GGUF file instead of a preset.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="A GGUF file.")] = None,
    reference: Annotated[Path | None, typer.Option(help="A GGUF file.")] = None,
    n_ctx: Annotated[int | None, typer.Option(min=1, help="Context, in tokens.")] = None,
    trust: opt.Trust = False,
    pull_: Annotated[bool, typer.Option("--pull", help="Download what is missing.")] = False,
    json_: AsJson = False,
) -> None:
    """Check that models share a vocabulary, fit in memory, and load.

    New files are loaded in a process of their own, where one that crashes llama.cpp does no harm.
    Files that are not here yet are looked up on the hub: do they exist, and are they what the
    preset says?
    """
    files = {"base": base, "tuned": tuned, "reference": reference}
    paths = {role: path for role, path in files.items() if path is not None}
    if (name is None) == (not paths):
        raise UsageError("models check: give a preset's name, or files with --base --tuned ...")
    exceptions: tuple[int, ...] = ()
    if name is None:
        sources = file_sources(paths)
    else:
        preset = find(name)
        if pull_:
            pull(preset)
        if any(state.path is None for state in states_of(preset)):
            _check_on_the_hub(preset, json_)
        sources, exceptions = preset_sources(preset, hub.resolve), preset.vocabulary_exceptions
    _check_files(sources, exceptions, n_ctx, json_, trust=trust)


def _check_on_the_hub(preset: Preset, json_: bool) -> None:
    """Report on the files that are not here, and end with an error: there is more to check."""
    report: dict[str, dict[str, Any]] = {}
    failures: list[EftlocalError] = []
    for state in states_of(preset):
        report[state.label] = found = state.as_json()
        if state.path is not None:
            continue
        try:
            if state.ref.repo is None:
                hub.resolve(state.ref)
            remote = hub.look_up(hub.shards(state.ref))
            found["size"] = sum(file.size for file in remote)
            found["hub"] = "is there"
        except EftlocalError as error:
            found["hub"] = str(error)
            failures.append(error)
    if json_:
        print_json({"name": preset.name, "files": report, "complete": False}, indent=2)
    else:
        table = new_table("file", "name", "size", "here", "on the hub")
        for label, found in report.items():
            here = "yes" if found["downloaded"] else "no"
            size, on_hub = size_text(found["size"]), found.get("hub", "not asked")
            add_row(table, label, str(found["file"]), size, here, on_hub)
        print_table(table)
    if failures:
        raise failures[0]
    missing = sum(not found["downloaded"] for found in report.values())
    raise DownloadError(
        f"{preset.name}: {missing} of {len(report)} files are not on this machine, so their "
        f"vocabularies are unchecked: `eftlocal models check {preset.name} --pull` fetches them"
    )


def _check_files(
    sources: dict[str, RoleSource],
    exceptions: tuple[int, ...],
    n_ctx: int | None,
    json_: bool,
    *,
    trust: bool,
) -> None:
    from eftlocal.cli.bars import loading_bars
    from eftlocal.gguf_file.check import checked_model
    from eftlocal.loading.prepare import prepare
    from eftlocal.loading.vocabulary import compare, require

    headers = {role: checked_model(source.path) for role, source in sources.items()}
    report = compare(headers, exceptions)
    if not report.ok:
        _report_vocabulary(report, None, json_)
        require(headers, exceptions)
    bare = (
        f"{role} has no chat template; give one with --chat-template {role}=..."
        for role, source in sources.items()
        if source.prompt == "chat" and not headers[role].chat_template
    )
    report = replace(report, notes=(*report.notes, *bare))
    if n_ctx is not None:
        sources = {role: replace(source, n_ctx=n_ctx) for role, source in sources.items()}
    too_large: DoesNotFitError | None = None
    try:
        with loading_bars() as bars:
            prepared = prepare(
                sources, vocabulary_exceptions=exceptions, trust=trust, checking=bars.checking
            )
    except DoesNotFitError as error:  # then nothing is loaded, in another process neither
        too_large = error
        prepared = prepare(sources, vocabulary_exceptions=exceptions, force=True, trust=True)
    memory = _memory(prepared, fits=too_large is None)
    _report_vocabulary(report, memory, json_)
    if too_large is not None:
        raise too_large


def _memory(prepared: Prepared, *, fits: bool) -> dict[str, Any]:
    """The plan as plain data, bytes."""
    plan = prepared.plan
    roles = {
        role: {
            "file": str(prepared.sources[role].path),
            "n_ctx": prepared.sources[role].n_ctx,
            "host": placement.host_bytes,
            "devices": dict(
                zip((d.name for d in plan.devices), placement.device_bytes, strict=True)
            ),
            "gpu_layers": placement.n_gpu_layers,
        }
        for role, placement in plan.roles.items()
    }
    free = {device.name: device.free for device in plan.devices}
    return {
        "roles": roles,
        "host_needed": plan.host_bytes,
        "host_free": plan.host_free,
        "devices_free": free,
        "fits": fits,
    }


def _report_vocabulary(
    report: VocabularyReport, memory: dict[str, Any] | None, json_: bool
) -> None:
    found = report.vocabulary
    if json_:
        vocabulary = {
            "ok": report.ok,
            "problems": report.problems,
            "notes": report.notes,
            "size": found.size if found else None,
            "type": found.type if found else None,
            "widths": dict(found.widths) if found else None,
            "unusable": len(found.unusable) if found else None,
            "end_tokens": dict(found.end_tokens_declared) if found else None,
        }
        print_json({"vocabulary": vocabulary, "memory": memory, "complete": True}, indent=2)
        return
    table = new_fact_sheet()
    if found is not None:
        add_row(table, "vocabulary", f"one, of {found.size} tokens ({found.type})")
        for role, ends in found.end_tokens_declared.items():
            what = f"{found.widths[role]} tokens, ends with {', '.join(map(str, ends)) or 'none'}"
            add_row(table, role, what)
    for title, lines in (("problem", report.problems), ("note", report.notes)):
        for line in lines:
            add_row(table, title, one_line(line, 500))
    print_table(table)
    if memory is None:
        return
    devices = list(memory["devices_free"])
    needs = new_table("role", "context", "host memory", *devices, "layers on a device")
    for role, need in memory["roles"].items():
        on_devices = [hub.readable(need["devices"][name]) for name in devices]
        layers = str(need["gpu_layers"])
        add_row(needs, role, str(need["n_ctx"]), hub.readable(need["host"]), *on_devices, layers)
    say("")
    print_table(needs)
    free = "unknown" if memory["host_free"] is None else hub.readable(memory["host_free"])
    verdict = "fits" if memory["fits"] else "does not fit"
    say(f"{hub.readable(memory['host_needed'])} needed, {free} free: {verdict}")
