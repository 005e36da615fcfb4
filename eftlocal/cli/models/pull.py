"""`eftlocal models pull`: what is missing of a preset is downloaded."""

from __future__ import annotations

from eftlocal import hub
from eftlocal.cli.bars import download_bars
from eftlocal.cli.models.files import states_of
from eftlocal.cli.models.options import AsJson, Name
from eftlocal.cli.models.output import add_row, new_table, print_table, size_text
from eftlocal.cli.screen import print_json
from eftlocal.presets.reading import find
from eftlocal.presets.schema import Preset


def pull_preset(name: Name, json_: AsJson = False) -> None:
    """Download what is missing of a preset. An interrupted download goes on where it stopped."""
    preset = find(name)
    pull(preset)
    states = states_of(preset)
    if json_:
        print_json({"name": name, "files": {s.label: s.as_json() for s in states}}, indent=2)
        return
    table = new_table("file", "size", "SHA-256", "path")
    for state in states:
        size = size_text(state.size)
        add_row(table, state.label, size, state.checked_text(), str(state.path))
    print_table(table)


def pull(preset: Preset) -> None:
    """Download what is missing, with bars on stderr."""
    missing = [ref for ref in preset.files().values() if hub.locate(ref) is None]
    for ref in missing:
        if ref.repo is None:
            hub.resolve(ref)  # says that the path is wrong
    if missing:
        with download_bars() as progress:
            hub.download(missing, progress=progress)
