"""`eftlocal models show`: all that a preset says, and where its files are."""

from __future__ import annotations

from collections.abc import Iterator

from eftlocal.cli.models.files import FileState, states_of
from eftlocal.cli.models.options import AsJson, Name
from eftlocal.cli.models.output import (
    add_row,
    new_fact_sheet,
    plain,
    print_table,
    size_text,
)
from eftlocal.cli.screen import print_json
from eftlocal.presets.reading import find
from eftlocal.presets.schema import FileRef, Preset

_OF_THE_PRESET = ("recipe", "sampling", "stop", "vocabulary_exceptions", "evidence", "notes")
_NOT_A_SETTING = {*FileRef.model_fields, "lora", "approx_size", "evidence"}


def show_preset(name: Name, json_: AsJson = False) -> None:
    """Show a preset: its files, settings, licence and the evidence for them."""
    preset = find(name)
    said = preset.model_dump(mode="json", by_alias=True, exclude_none=True)
    if json_:
        print_json({**said, "files": {s.label: s.as_json() for s in states_of(preset)}}, indent=2)
        return
    sheet = new_fact_sheet()
    add_row(sheet, "preset", f"{preset.name}: {preset.title}" if preset.title else preset.name)
    add_row(sheet, "licence", preset.license + (" (gated)" if preset.gated else ""))
    for key in _OF_THE_PRESET:
        if said.get(key):
            add_row(sheet, key.replace("_", " "), plain(said[key]))
    for role in preset.roles:
        sheet.add_row()
        add_row(sheet, role, list(_lines(preset, role)))
    print_table(sheet)


def _lines(preset: Preset, role: str) -> Iterator[str]:
    """What there is to say of a role, the file's name first and by itself, to be copied."""
    source = preset.roles[role]
    yield from _file(FileState.of(role, preset.weights(role)))
    if source.lora is not None:
        yield "with the LoRA adapter"
        yield from _file(FileState.of(role, source.lora))
    settings = source.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude=_NOT_A_SETTING
    )
    if settings:
        yield plain(settings)
    if source.evidence:
        yield f"evidence: {source.evidence}"


def _file(state: FileState) -> Iterator[str]:
    ref = state.ref
    yield ref.file
    if ref.repo is not None:
        yield f"of {ref.repo}"
    if ref.revision is not None:
        yield f"revision {ref.revision}"
    where = "not here" if state.path is None else "here"
    if state.path is not None and ref.repo is not None:
        where = f"at {state.path}"
    yield f"{size_text(state.size)}, {where}"
    if state.checked is not None:
        yield f"SHA-256 {state.sha256 + ', ' if state.sha256 else ''}{state.checked_text()}"
