"""`eftlocal models`: the presets and their files. list, show, pull, rm, check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal import hub
from eftlocal.errors import DoesNotFitError, DownloadError, EftlocalError, UsageError
from eftlocal.file_ref import FileRef
from eftlocal.preset_schema import Preset, RoleFile
from eftlocal.presets import find, load_presets, user_path

if TYPE_CHECKING:
    from eftlocal.loading import Prepared, RoleSource
    from eftlocal.vocabulary import VocabularyReport

models_app = typer.Typer(no_args_is_help=True, help="Presets: list, download, remove, check.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A preset's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class FileState:
    """A preset's file: where it is on this machine (None: nowhere), its bytes if known."""

    label: str
    ref: FileRef
    path: Path | None
    size: int | None

    @classmethod
    def of(cls, label: str, ref: FileRef) -> FileState:
        path = hub.locate(ref)
        size = ref.size
        if path is not None:
            size = sum((path.parent / Path(s.file).name).stat().st_size for s in hub.shards(ref))
        elif size is None and isinstance(ref, RoleFile):
            size = ref.approx_size
        return cls(label, ref, path, size)

    def as_json(self) -> dict[str, Any]:
        where = {"repo": self.ref.repo, "file": self.ref.file, "revision": self.ref.revision}
        path = None if self.path is None else str(self.path)
        return {**where, "size": self.size, "downloaded": path is not None, "path": path}


@models_app.command("list")
def list_(json_: AsJson = False) -> None:
    """List the presets, what they are made of, and which are on this machine."""
    rows: list[dict[str, Any]] = []
    for preset in load_presets().values():
        states = _states(preset)
        rows.append(
            {
                "name": preset.name,
                "title": preset.title,
                "license": preset.license,
                "gated": preset.gated,
                "roles": {role: str(preset.weights(role)) for role in preset.roles},
                "size": _total(states),
                "downloaded": all(state.path for state in states),
                "here": f"{sum(state.path is not None for state in states)} of {len(states)}",
            }
        )
    if json_:
        _print_json(rows)
        return
    table = _table("name", "base", "tuned", "reference", "size", "here", "licence")
    for row in rows:
        files = [_short(row["roles"].get(role)) for role in ("base", "tuned", "reference")]
        here = "yes" if row["downloaded"] else "no" if row["here"][0] == "0" else row["here"]
        licence = row["license"] + (" (gated)" if row["gated"] else "")
        _add_row(table, row["name"], *files, _size(row["size"]), here, licence)
    _show(table)
    typer.echo(f"Your own presets go into {user_path()}")


@models_app.command()
def show(name: Name, json_: AsJson = False) -> None:
    """Show a preset: its files, settings, licence and the evidence for them."""
    preset = find(name)
    states = _states(preset)
    settings = preset.model_dump(mode="json", by_alias=True, exclude_none=True)
    if json_:
        _print_json({**settings, "files": {s.label: s.as_json() for s in states}})
        return
    head = _table("", "", show_header=False)
    _add_row(head, "preset", f"{preset.name}: {preset.title}")
    _add_row(head, "licence", preset.license + (" (gated)" if preset.gated else ""))
    for key in ("recipe", "sampling", "stop", "vocabulary_exceptions", "evidence", "notes"):
        if settings.get(key):
            _add_row(head, key.replace("_", " "), _plain(settings[key]))
    _show(head)
    roles = _table("role", "file", "settings", "size", "here", "evidence")
    for role, source in preset.roles.items():
        own = source.model_dump(mode="json", by_alias=True, exclude_none=True)
        for key in (
            "repo",
            "file",
            "revision",
            "sha256",
            "size",
            "approx_size",
            "evidence",
            "lora",
        ):
            own.pop(key, None)
        state = FileState.of(role, preset.weights(role))
        here = str(state.path or "no")
        file = str(state.ref) + (f" + {source.lora}" if source.lora else "")
        _add_row(roles, role, file, _plain(own), _size(state.size), here, source.evidence)
    _show(roles)


@models_app.command()
def pull(name: Name, json_: AsJson = False) -> None:
    """Download what is missing of a preset. An interrupted download goes on where it stopped."""
    preset = find(name)
    _pull(preset)
    states = _states(preset)
    if json_:
        _print_json({"name": name, "files": {s.label: s.as_json() for s in states}})
        return
    table = _table("file", "size", "path")
    for state in states:
        _add_row(table, state.label, _size(state.size), str(state.path))
    _show(table)


@models_app.command()
def rm(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: AsJson = False,
) -> None:
    """Remove a preset's downloaded files, except those that another preset uses."""
    preset = find(name)
    doomed: list[FileRef] = []
    kept: dict[str, str] = {}
    for state in _states(preset):
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
            typer.echo(f"kept {file}: {reason}")
    total = sum(hub.stored_bytes(ref) for ref in doomed)
    if doomed and not yes:
        listed = "\n".join(f"  {ref}" for ref in doomed)
        question = f"{listed}\nRemove these files, {hub.readable(total)}?"
        typer.confirm(question, abort=True, err=True)
    freed = sum(hub.remove(ref) for ref in doomed)
    if json_:
        _print_json({"removed": [str(ref) for ref in doomed], "freed": freed, "kept": kept})
    else:
        typer.echo(f"removed {len(doomed)} files, {hub.readable(freed)} freed")


@models_app.command()
def check(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A preset.")] = None,
    base: Annotated[Path | None, typer.Option(help="A GGUF file instead of a preset.")] = None,
    tuned: Annotated[Path | None, typer.Option(help="A GGUF file.")] = None,
    reference: Annotated[Path | None, typer.Option(help="A GGUF file.")] = None,
    n_ctx: Annotated[int | None, typer.Option(min=1, help="Context, in tokens.")] = None,
    pull_: Annotated[bool, typer.Option("--pull", help="Download what is missing.")] = False,
    json_: AsJson = False,
) -> None:
    """Check that models share a vocabulary and fit in memory, without loading them.

    Files that are not here yet are looked up on the hub: do they exist, and are they what the
    preset says?
    """
    files = {"base": base, "tuned": tuned, "reference": reference}
    paths = {role: path for role, path in files.items() if path is not None}
    if (name is None) == (not paths):
        raise UsageError("models check: give a preset's name, or files with --base --tuned ...")
    exceptions: tuple[int, ...] = ()
    if name is None:
        sources = _sources_of_paths(paths)
    else:
        preset = find(name)
        if pull_:
            _pull(preset)
        if any(state.path is None for state in _states(preset)):
            _check_on_the_hub(preset, json_)
        sources, exceptions = _sources_of(preset), preset.vocabulary_exceptions
    _check_files(sources, exceptions, n_ctx, json_)


# Pulling and checking -------------------------------------------------------------------------


def _pull(preset: Preset) -> None:
    missing = [ref for ref in preset.files().values() if hub.locate(ref) is None]
    for ref in missing:
        if ref.repo is None:
            hub.resolve(ref)  # says that the path is wrong
    if missing:
        with download_bars() as progress:
            hub.download(missing, progress=progress)


def _check_on_the_hub(preset: Preset, json_: bool) -> None:
    """Report on the files that are not here, and end with an error: there is more to check."""
    report: dict[str, dict[str, Any]] = {}
    failures: list[EftlocalError] = []
    for state in _states(preset):
        report[state.label] = found = state.as_json()
        if state.path is not None:
            continue
        try:
            if state.ref.repo is None:
                hub.resolve(state.ref)
            remote = [hub.look_up(shard) for shard in hub.shards(state.ref)]
            found["size"] = sum(file.size for file in remote)
            found["hub"] = "is there"
        except EftlocalError as error:
            found["hub"] = str(error)
            failures.append(error)
    if json_:
        _print_json({"name": preset.name, "files": report, "complete": False})
    else:
        table = _table("file", "name", "size", "here", "on the hub")
        for label, found in report.items():
            here = "yes" if found["downloaded"] else "no"
            size, on_hub = _size(found["size"]), found.get("hub", "not asked")
            _add_row(table, label, str(found["file"]), size, here, on_hub)
        _show(table)
    if failures:
        raise failures[0]
    missing = sum(not found["downloaded"] for found in report.values())
    raise DownloadError(
        f"{preset.name}: {missing} of {len(report)} files are not on this machine, so their "
        f"vocabularies are unchecked: `eftlocal models check {preset.name} --pull` fetches them"
    )


def _check_files(
    sources: dict[str, RoleSource], exceptions: tuple[int, ...], n_ctx: int | None, json_: bool
) -> None:
    from dataclasses import replace

    from eftlocal.gguf_header import read_header
    from eftlocal.loading import prepare
    from eftlocal.vocabulary import compare, require

    headers = {role: read_header(source.path) for role, source in sources.items()}
    report = compare(headers, exceptions)
    if not report.ok:
        _report_vocabulary(report, None, json_)
        require(headers, exceptions)
    if n_ctx is not None:
        sources = {role: replace(source, n_ctx=n_ctx) for role, source in sources.items()}
    too_large: DoesNotFitError | None = None
    try:
        prepared = prepare(sources, vocabulary_exceptions=exceptions)
    except DoesNotFitError as error:
        too_large = error
        prepared = prepare(sources, vocabulary_exceptions=exceptions, force=True)
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
        _print_json({"vocabulary": vocabulary, "memory": memory, "complete": True})
        return
    table = _table("", "", show_header=False)
    if found is not None:
        _add_row(table, "vocabulary", f"one, of {found.size} tokens ({found.type})")
        for role, ends in found.end_tokens_declared.items():
            what = f"{found.widths[role]} tokens, ends with {', '.join(map(str, ends)) or 'none'}"
            _add_row(table, role, what)
    for title, lines in (("problem", report.problems), ("note", report.notes)):
        for line in lines:
            _add_row(table, title, line)
    _show(table)
    if memory is None:
        return
    devices = list(memory["devices_free"])
    needs = _table("role", "context", "host memory", *devices, "layers on a device")
    for role, need in memory["roles"].items():
        on_devices = [hub.readable(need["devices"][name]) for name in devices]
        layers = str(need["gpu_layers"])
        _add_row(needs, role, str(need["n_ctx"]), hub.readable(need["host"]), *on_devices, layers)
    _show(needs)
    free = "unknown" if memory["host_free"] is None else hub.readable(memory["host_free"])
    verdict = "fits" if memory["fits"] else "does not fit"
    typer.echo(f"{hub.readable(memory['host_needed'])} needed, {free} free: {verdict}")


def _sources_of_paths(paths: dict[str, Path]) -> dict[str, RoleSource]:
    from eftlocal.loading import RoleSource

    return {role: RoleSource(path) for role, path in paths.items()}


def _sources_of(preset: Preset) -> dict[str, RoleSource]:
    from eftlocal.loading import RoleSource

    counted = {"n_ctx", "n_batch", "threads", "cache_type_k", "cache_type_v", "swa_full"}
    sources = {}
    for role, file in preset.roles.items():
        settings = file.model_dump(include=counted, exclude_none=True)
        if isinstance(file.gpu_layers, int):
            settings["gpu_layers"] = file.gpu_layers
        lora = hub.resolve(file.lora) if file.lora else None
        sources[role] = RoleSource(hub.resolve(preset.weights(role)), lora=lora, **settings)
    return sources


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


def _states(preset: Preset) -> list[FileState]:
    return [FileState.of(label, ref) for label, ref in preset.files().items()]


def _total(states: list[FileState]) -> int | None:
    sizes = [state.size for state in states]
    return sum(size for size in sizes if size is not None) if None not in sizes else None


# The screen -----------------------------------------------------------------------------------


@contextmanager
def download_bars() -> Iterator[hub.Progress]:
    """Progress bars on stderr, one a file."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def progress(file: str, done: int, total: int, /) -> None:
            if file not in tasks:  # what is resumed does not count towards the speed
                tasks[file] = bars.add_task(Path(file).name, total=total, completed=done)
            bars.update(tasks[file], total=total, completed=done)

        yield progress


def _table(*columns: str, show_header: bool = True) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if show_header else None, show_header=show_header)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add_row(table: Any, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells))  # never markup: names come from files


def _show(table: Any) -> None:
    from rich.console import Console

    Console().print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _short(ref: str | None) -> str:
    return "" if ref is None else Path(ref.partition("@")[0]).name.removesuffix(".gguf")


def _size(size: int | None) -> str:
    return "?" if size is None else hub.readable(size)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_plain(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
