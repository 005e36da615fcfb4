"""`eftlocal models`: the presets, which of their files are on this machine, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from eftlocal import hub
from eftlocal.cli.completion import presets
from eftlocal.cli.options import takes
from eftlocal.cli.screen import Screen, download_bars
from eftlocal.cli.streams import print_json, say
from eftlocal.errors import DownloadError, EftlocalError, UsageError
from eftlocal.loading.roles import file_sources, preset_sources
from eftlocal.presets.reading import find, load_presets, user_path
from eftlocal.presets.schema import FileRef, Preset, RoleFile
from eftlocal.terminal_text import printable
from eftlocal.user_settings import Given, use_models_folder

models_app = typer.Typer(no_args_is_help=True, help="Presets: list, download, remove, check.")


@dataclass(frozen=True)
class FileState:
    """A preset's file.

    Attributes:
        path: where it is on this machine; None if it is not.
        size: bytes, if known.
        checked: whether a checksum vouches for a downloaded file; None for others.
        sha256: what was recorded of a downloaded file that is one and not in parts.
    """

    label: str
    ref: FileRef
    path: Path | None
    size: int | None
    checked: bool | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, label: str, ref: FileRef) -> FileState:
        path = hub.locate(ref)
        size, checked, sha256 = ref.size, None, None
        if path is not None:
            files = [path.parent / Path(shard.file).name for shard in hub.shards(ref)]
            size = sum(file.stat().st_size for file in files if file.is_file())
            if ref.repo is not None:
                checked = all(map(hub.vouched, files))
                record = hub.recall(path) if len(files) == 1 else None
                sha256 = record.sha256 if record is not None else None
        elif size is None and isinstance(ref, RoleFile):
            size = ref.approx_size
        return cls(label, ref, path, size, checked, sha256)

    def as_json(self) -> dict[str, Any]:
        where = {"repo": self.ref.repo, "file": self.ref.file, "revision": self.ref.revision}
        here = {"downloaded": self.path is not None, "checked": self.checked, "sha256": self.sha256}
        return {**where, "size": self.size, **here, "path": self.path and str(self.path)}

    def checked_text(self) -> str:
        """What there is to say of the checksum; nothing of a file that was not downloaded."""
        return {True: "checked", False: "not checked", None: ""}[self.checked]


def states_of(preset: Preset) -> list[FileState]:
    return [FileState.of(label, ref) for label, ref in preset.files().items()]


def total_size(states: Sequence[FileState]) -> int | None:
    """Bytes of all files together; None where one is unknown."""
    sizes = [state.size for state in states]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


def here(states: Sequence[FileState]) -> Literal["yes", "no", "part"]:
    """Whether the files are on this machine; "part" if only some are, or are unfinished."""
    if all(state.path for state in states):
        return "yes"
    begun = any(state.path or (state.ref.repo and hub.stored_bytes(state.ref)) for state in states)
    return "part" if begun else "no"


def new_table(*columns: str) -> Table:
    """A table with a head. Cells fold where a word is too long, so that nothing is cut off."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def new_fact_sheet() -> Table:
    """Two columns without a head: what it is about, and what there is to say."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def add_row(table: Table, *cells: str | Sequence[str]) -> None:
    """A row; a cell is one line, or a line for each text of a list, whatever the texts hold."""
    lines = ([cell] if isinstance(cell, str) else cell for cell in cells)
    table.add_row(
        *(Text("\n".join(" ".join(line.splitlines()) for line in cell)) for cell in lines)
    )


def print_table(table: Table) -> None:
    Screen().print(table)


def screen_width() -> int:
    """Characters on a line; 80 where nothing tells."""
    return Screen().width


def size_text(size: int | None) -> str:
    return "?" if size is None else hub.readable(size)


def plain(value: Any) -> str:
    """A setting, or a table of settings, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {plain(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A preset's name.", autocompletion=presets)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@models_app.command("list")
def list_presets(json_: AsJson = False) -> None:
    """List the presets: what they are, their size, and which are on this machine."""
    presets = load_presets().values()
    if json_:
        print_json([_as_json(preset) for preset in presets], indent=2)
        return
    table = new_table("name", "what it is", "size", "here", "licence")
    name, _, size, here_, licence = table.columns
    for column in (name, size, here_):
        column.no_wrap = True
    size.justify = "right"
    licence.max_width = screen_width() // 4  # a long one must not take the titles' room
    unchecked = False
    for preset in presets:
        states = states_of(preset)
        doubtful = any(state.checked is False for state in states)
        unchecked = unchecked or doubtful
        add_row(
            table,
            preset.name,
            _summary(preset),
            size_text(total_size(states)),
            here(states) + ("*" if doubtful else ""),
            preset.license + (" (gated)" if preset.gated else ""),
        )
    print_table(table)
    if unchecked:
        say("\n* not checked against a checksum; `eftlocal models show NAME` tells which file")
    say(f"\nYour own presets go into {user_path()}")


def _summary(preset: Preset) -> str:
    files = (preset.weights(role).file for role in ("base", "tuned") if role in preset.roles)
    return preset.title or " + ".join(Path(file).name.removesuffix(".gguf") for file in files)


def _as_json(preset: Preset) -> dict[str, Any]:
    states = states_of(preset)
    return {
        "name": preset.name,
        "title": preset.title,
        "license": preset.license,
        "gated": preset.gated,
        "roles": {role: str(preset.weights(role)) for role in preset.roles},
        "size": total_size(states),
        "downloaded": here(states) == "yes",
        "checked": not any(state.checked is False for state in states),
        "here": f"{sum(state.path is not None for state in states)} of {len(states)}",
    }


_OF_THE_PRESET = ("recipe", "sampling", "stop", "vocabulary_exceptions", "evidence", "notes")
_NOT_A_SETTING = {*FileRef.model_fields, "lora", "approx_size", "evidence"}


@models_app.command("show")
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


@models_app.command("pull")
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


@models_app.command("rm")
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


@models_app.callback()
def _models() -> None:
    use_models_folder()


@models_app.command("check")
@takes(also=["n_ctx", "trust"])
def check_models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A preset.", autocompletion=presets)
    ] = None,
    base: Annotated[Path | None, typer.Option(help="A GGUF file instead of a preset.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="A GGUF file.")] = None,
    reference: Annotated[Path | None, typer.Option(help="A GGUF file.")] = None,
    pull_: Annotated[bool, typer.Option("--pull", help="Download what is missing.")] = False,
    json_: AsJson = False,
    *,
    given: Given,
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
    from eftlocal.cli.models_check import check_files

    check_files(sources, exceptions, given["n_ctx"], json_, trust=given["trust"])


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
