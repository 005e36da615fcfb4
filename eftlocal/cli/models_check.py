"""What `eftlocal models check` reports: one vocabulary, does it fit in memory, does it load."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eftlocal import hub
from eftlocal.cli.models import (
    add_row,
    new_fact_sheet,
    new_table,
    print_table,
)
from eftlocal.cli.streams import print_json, say
from eftlocal.errors import DoesNotFitError
from eftlocal.loading.roles import RoleSource
from eftlocal.terminal_text import one_line

if TYPE_CHECKING:
    from eftlocal.loading.loader import Prepared
    from eftlocal.loading.vocabulary import VocabularyReport


def check_files(
    sources: dict[str, RoleSource],
    exceptions: tuple[int, ...],
    n_ctx: int | None,
    json_: bool,
    *,
    trust: bool,
) -> None:
    from eftlocal.cli.selection import loading_bars
    from eftlocal.loading.loader import checked_files, prepare
    from eftlocal.loading.vocabulary import compare, require

    headers, _ = checked_files(sources)
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
