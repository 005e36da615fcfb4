"""`eftlocal models rm`: a preset's downloads are deleted, except what something else needs."""

from __future__ import annotations

from typing import Annotated

import typer

from eftlocal import hub
from eftlocal.cli.models.files import states_of
from eftlocal.cli.models.options import AsJson, Name
from eftlocal.cli.screen import print_json, say
from eftlocal.presets.reading import find, load_presets
from eftlocal.presets.schema import FileRef, Preset
from eftlocal.terminal_text import printable


def remove_preset(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: AsJson = False,
) -> None:
    """Remove a preset's downloaded files, except those that another preset uses."""
    preset = find(name)
    doomed: list[FileRef] = []
    kept: dict[str, str] = {}
    for state in states_of(preset):
        ref = state.ref
        if state.path is None and not (ref.repo and hub.stored_bytes(ref)):
            continue  # not here at all
        reason = _why_keep(preset, ref)
        if reason is None:
            doomed.append(ref)
        else:
            kept[str(ref)] = reason
    if not json_:
        for file, reason in kept.items():
            say(f"kept {file}: {reason}")
    total = sum(hub.stored_bytes(ref) for ref in doomed)
    if doomed and not yes:
        listed = "\n".join(f"  {ref}" for ref in doomed)
        question = f"{listed}\nRemove these files, {hub.readable(total)}?"
        typer.confirm(printable(question), abort=True, err=True)
    freed = sum(hub.remove(ref) for ref in doomed)
    if json_:
        removed = [str(ref) for ref in doomed]
        print_json({"removed": removed, "freed": freed, "kept": kept}, indent=2)
    else:
        say(f"removed {len(doomed)} files, {hub.readable(freed)} freed")


def _why_keep(preset: Preset, ref: FileRef) -> str | None:
    """Why `rm` leaves a file alone; None if it goes."""
    if ref.repo is None:
        return "it was not downloaded, it is a path"
    place = hub.stored_path(ref)
    users = [
        other.name
        for other in load_presets().values()
        if other.name != preset.name
        and any(f.repo and hub.stored_path(f) == place for f in other.files().values())
    ]
    if users:
        return f"{' and '.join(users)} uses it too"
    if not hub.stored_bytes(ref):
        return f"it is huggingface_hub's: {hub.locate(ref)}"
    return None
