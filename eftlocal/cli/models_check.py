"""What `eftlocal models check` reports: whether vocabularies go together, memory, loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from eftlocal import hub
from eftlocal.cli.models import size_text, states_of
from eftlocal.cli.screen import Screen, add_row, new_table
from eftlocal.cli.selection import loading_bars
from eftlocal.cli.streams import print_json, say
from eftlocal.errors import DoesNotFitError, DownloadError, EftlocalError, VocabularyError
from eftlocal.loading.loader import Prepared, checked_files, prepare
from eftlocal.loading.placement import gib
from eftlocal.loading.roles import RoleSource
from eftlocal.loading.tokenizers import tokenizers
from eftlocal.loading.translating import end_tokens, require_rewinding, translations
from eftlocal.loading.vocabulary import VocabularyReport, compare
from eftlocal.logits.recipe import BASE
from eftlocal.presets.schema import Preset
from eftlocal.prompt.render import template_problem
from eftlocal.terminal_text import one_line

_SHOWN = 5  # tokens of which nothing is known


def check_files(
    sources: Mapping[str, RoleSource],
    exceptions: tuple[int, ...],
    json_: bool,
    *,
    trust: bool,
) -> None:
    """Report on files that are here; what is wrong is raised when the report is out."""
    too_large: DoesNotFitError | None = None
    try:
        with loading_bars() as bars:
            prepared = prepare(
                sources, vocabulary_exceptions=exceptions, trust=trust, checking=bars.checking
            )
    except VocabularyError:
        headers, _ = checked_files(sources)
        _print(compare(headers, exceptions), None, json_)
        raise
    except DoesNotFitError as error:  # then nothing is loaded, in another process neither
        too_large = error
        prepared = prepare(sources, vocabulary_exceptions=exceptions, force=True, trust=True)
    bare = (
        f"{role}: {problem}; give one with --chat-template {role}=..."
        for role, source in sources.items()
        if source.prompt == "chat"
        and (problem := template_problem(prepared.headers[role].chat_template))
    )
    kinds = dict.fromkeys((prepared.vocabulary, *prepared.others.values()))
    notes = [note for kind in kinds for note in kind.notes]
    report = VocabularyReport((), (*notes, *bare), prepared.vocabulary)
    translated = _translated(prepared)
    _print(report, _memory(prepared, fits=too_large is None), json_, translated)
    if too_large is not None:
        raise too_large


def _translated(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Of each role that has another vocabulary, what its rows have of the base's tokens.

    Raises:
        UsageError: its model cannot take tokens back.
        VocabularyError: it cannot spell every text.
    """
    if not prepared.others:
        return {}
    found = {}
    with tokenizers(prepared.sources) as models:
        require_rewinding(models, prepared.others)
        ends = end_tokens(models, prepared.vocabulary, prepared.others)
        made = translations(models, prepared.vocabulary, prepared.others, ends, prepared.sources)
        for role, translation in made.items():
            own, rows = prepared.others[role], translation.rows
            shown = [models[BASE].piece(t, special=True) for t in rows.missing[:_SHOWN].tolist()]
            found[role] = {
                "method": prepared.sources[role].translation,
                "size": own.size,
                "type": own.type,
                "width": own.widths[role],
                "end_tokens": own.end_tokens_declared[role],
                "twins": rows.twins,
                "begun": rows.begun,
                "missing": len(rows.missing),
                "missing_first": list(map(_text, shown)),
            }
    return found


def _memory(prepared: Prepared, *, fits: bool) -> dict[str, Any]:
    """The plan as plain data, bytes."""
    plan, sources = prepared.plan, prepared.sources
    names = [device.name for device in plan.devices]
    roles = {
        role: {
            "file": str(sources[role].path),
            "n_ctx": sources[role].n_ctx,
            "host": placement.host_bytes,
            "devices": dict(zip(names, placement.device_bytes, strict=True)),
            "gpu_layers": placement.n_gpu_layers,
        }
        for role, placement in plan.roles.items()
    }
    return {
        "roles": roles,
        "host_needed": plan.host_bytes,
        "host_free": plan.host_free,
        "devices_free": {device.name: device.free for device in plan.devices},
        "fits": fits,
    }


def _print(
    report: VocabularyReport,
    memory: dict[str, Any] | None,
    json_: bool,
    translated: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    found = report.vocabulary
    if json_:
        vocabulary = {
            "ok": report.ok,
            "problems": report.problems,
            "notes": report.notes,
            "size": found and found.size,
            "type": found and found.type,
            "widths": found and dict(found.widths),
            "unusable": found and len(found.unusable),
            "end_tokens": found and dict(found.end_tokens_declared),
            "translated": dict(translated),
        }
        print_json({"vocabulary": vocabulary, "memory": memory, "complete": True}, indent=2)
        return
    screen, sheet = Screen(), new_table()
    if found is not None:
        which = "base's" if translated else "shared"
        add_row(sheet, "vocabulary", f"{which}, {found.size} tokens ({found.type})")
        for role, ends in found.end_tokens_declared.items():
            add_row(sheet, role, _tokens(found.widths[role], ends))
        for own in {str(each): each for each in translated.values()}.values():
            roles = [role for role, each in translated.items() if each == own]
            add_row(sheet, roles, _translation(own, found.size))
    for title, lines in (("problem", report.problems), ("note", report.notes)):
        for line in lines:
            add_row(sheet, title, one_line(line, 500))
    screen.print(sheet)
    if memory is None:
        return
    table = new_table("role", "context", "host memory", *memory["devices_free"], "GPU layers")
    for role, need in memory["roles"].items():
        used = [gib(size) for size in (need["host"], *need["devices"].values())]
        add_row(table, role, str(need["n_ctx"]), *used, str(need["gpu_layers"]))
    say("")
    screen.show(table)
    free = "unknown" if memory["host_free"] is None else gib(memory["host_free"])
    verdict = "fits" if memory["fits"] else "does not fit"
    say(f"{gib(memory['host_needed'])} needed, {free} free: {verdict}")


def _tokens(width: int, ends: Sequence[int], type: str = "") -> str:
    ids = ", ".join(map(str, ends)) or "none"
    return f"{width} tokens{type and f' ({type})'}, end token ids: {ids}"


def _text(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in piece)  # as SentencePiece writes bytes


def _translation(own: Mapping[str, Any], size: int) -> list[str]:
    """What there is to say of a role of another vocabulary, a line each."""
    missing, first = own["missing"], own["missing_first"]
    shown = ", ".join(one_line(repr(text), 30) for text in first)
    begun = f", {own['begun'] / size:.1%} are part of some or begin with one" * (own["begun"] > 0)
    lines = [
        _tokens(own["width"], own["end_tokens"], own["type"]),
        f"translated by {own['method']}: {own['twins'] / size:.1%} of base's tokens are tokens "
        f"here, too{begun}",
    ]
    if missing:
        more = ", ..." * (missing > len(first))
        lines.append(f"{missing:,} are left to base: {shown}{more}")
    return lines


def check_on_the_hub(preset: Preset, json_: bool) -> None:
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
            found["size"] = sum(file.size for file in hub.look_up(hub.shards(state.ref)))
            found["hub"] = "found"
        except EftlocalError as error:
            found["hub"] = str(error)
            failures.append(error)
    if json_:
        print_json({"name": preset.name, "files": report, "complete": False}, indent=2)
    else:
        table = new_table("file", "name", "size", "here", "on the hub")
        for label, found in report.items():
            here = "yes" if found["downloaded"] else "no"
            size, on_hub = size_text(found["size"]), found.get("hub", "not looked up")
            add_row(table, label, str(found["file"]), size, here, on_hub)
        Screen().show(table)
    if failures:
        raise failures[0]
    missing = sum(not found["downloaded"] for found in report.values())
    raise DownloadError(
        f"{preset.name}: {missing} of {len(report)} files are not on this machine, so the "
        f"vocabularies cannot be compared: `eftlocal models check {preset.name} --pull` "
        "downloads them"
    )
