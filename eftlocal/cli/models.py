"""`eftlocal models`: the presets, which of their files are on this machine, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from eftlocal import hub
from eftlocal.cli.completion import presets
from eftlocal.cli.models_adapter import convert_adapter
from eftlocal.cli.models_library import add_models, find_models, search_models
from eftlocal.cli.option_rules import adapter_roles, adapters, context, prompts, trio_files
from eftlocal.cli.options import AsJson, takes
from eftlocal.cli.screen import Screen, add_row, download_bars, new_table
from eftlocal.cli.streams import ask, print_json, say
from eftlocal.disk import read_text, readable
from eftlocal.errors import DownloadError, UsageError
from eftlocal.loading.roles import file_sources, preset_sources, with_adapted, with_settings
from eftlocal.logits.recipe import TRIO
from eftlocal.presets.reading import find, load_presets, user_path
from eftlocal.presets.schema import FileRef, Preset
from eftlocal.presets.writing import is_written
from eftlocal.presets.writing import remove_preset as take_out
from eftlocal.settings import CONTEXT
from eftlocal.user_settings import Given, use_models_folder

models_app = typer.Typer(
    no_args_is_help=True,
    help="Models on this machine and on the hub; presets: list, add, download, remove, check.",
)
models_app.command("adapter")(convert_adapter)
models_app.command("find")(find_models)
models_app.command("add")(add_models)
models_app.command("search")(search_models)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A preset's name.", autocompletion=presets)
]

_OF_THE_PRESET = ("recipe", "sampling", "stop", "vocabulary_exceptions", "evidence", "notes")
_NOT_A_SETTING = {*FileRef.model_fields, "lora", "approx_size", "evidence"}


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
        if path is None:
            return cls(label, ref, None, hub.size_of(ref))
        files = [path.parent / Path(shard.file).name for shard in hub.shards(ref)]
        size = sum(file.stat().st_size for file in files if file.is_file())
        if ref.repo is None:
            return cls(label, ref, path, size)
        record = hub.recall(path) if len(files) == 1 else None
        sha256 = record.sha256 if record else None
        return cls(label, ref, path, size, all(map(hub.vouched, files)), sha256)

    def as_json(self) -> dict[str, Any]:
        keys = ("repo", "file", "revision", "python_package")
        where = {key: getattr(self.ref, key) for key in keys}
        here = {"downloaded": self.path is not None, "checked": self.checked, "sha256": self.sha256}
        return {**where, "size": self.size, **here, "path": self.path and str(self.path)}

    @property
    def is_begun(self) -> bool:
        """Whether the file, or the beginning of its download, is on this machine."""
        return bool(self.path or (self.ref.repo and hub.stored_bytes(self.ref)))

    @property
    def check(self) -> str:
        """What there is to say of the checksum; nothing of a file that was not downloaded."""
        return {True: "checked", False: "not checked", None: ""}[self.checked]


def states_of(preset: Preset) -> list[FileState]:
    return [FileState.of(label, ref) for label, ref in preset.files().items()]


def size_text(size: int | None) -> str:
    return "?" if size is None else readable(size)


def _plain(value: Any) -> str:
    """A setting, or a table of settings, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_plain(inner)}" for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _licence(preset: Preset) -> str:
    return preset.license + (" (gated)" if preset.gated else "")


@models_app.command("list")
def list_presets(json_: AsJson = False) -> None:
    """List the presets, their sizes, and which are downloaded."""
    rows = []
    screen = Screen()
    table = new_table("name", "what it is", "size", "here", "licence")
    for column in (table.columns[0], table.columns[2], table.columns[3]):
        column.no_wrap = True
    table.columns[2].justify = "right"
    table.columns[4].max_width = screen.width // 4  # a long one must not take the titles' room
    for preset in load_presets().values():
        states = states_of(preset)
        sizes = [state.size for state in states if state.size is not None]
        size = sum(sizes) if len(sizes) == len(states) else None
        checked = all(state.checked is not False for state in states)
        here = sum(state.path is not None for state in states)
        begun = "part" if any(state.is_begun for state in states) else "no"
        found = ("yes" if here == len(states) else begun) + ("" if checked else "*")
        title = preset.title or " + ".join(
            Path(preset.weights(role).file).name.removesuffix(".gguf")
            for role in ("base", "tuned")
            if role in preset.roles
        )
        add_row(table, preset.name, title, size_text(size), found, _licence(preset))
        rows.append(
            {
                "name": preset.name,
                "title": preset.title,
                "license": preset.license,
                "gated": preset.gated,
                "roles": {role: str(preset.weights(role)) for role in preset.roles},
                "size": size,
                "downloaded": here == len(states),
                "checked": checked,
                "here": f"{here} of {len(states)}",
            }
        )
    if json_:
        print_json(rows, indent=2)
        return
    screen.print(table)
    if not all(row["checked"] for row in rows):
        say("\n* not checked against a checksum; `eftlocal models show NAME` tells which file")
    say(f"\nYour own presets go into {user_path()}")


@models_app.command("show")
def show_preset(name: Name, json_: AsJson = False) -> None:
    """Show a preset's files, settings, licence and evidence."""
    preset = find(name)
    said = preset.model_dump(mode="json", by_alias=True, exclude_none=True)
    drafts = {key: setting.default for key, setting in preset.speculation.TABLE.items()}
    said["speculation"] = drafts | said["speculation"]
    if json_:
        print_json({**said, "files": {s.label: s.as_json() for s in states_of(preset)}}, indent=2)
        return
    sheet = new_table()
    add_row(sheet, "preset", f"{preset.name}: {preset.title}" if preset.title else preset.name)
    add_row(sheet, "licence", _licence(preset))
    for key in _OF_THE_PRESET:
        if said.get(key):
            add_row(sheet, key.replace("_", " "), _plain(said[key]))
    for role, source in preset.roles.items():
        lines = [*_file(FileState.of(role, preset.weights(role)))]
        if source.lora is not None:
            times = "" if source.lora.scale == 1.0 else f", times {source.lora.scale:g}"
            lines += [f"with the LoRA adapter{times}", *_file(FileState.of(role, source.lora))]
        settings = source.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude=_NOT_A_SETTING
        )
        lines += [_plain(settings)] if settings else []
        lines += [f"evidence: {source.evidence}"] if source.evidence else []
        sheet.add_row()
        add_row(sheet, role, lines)
    Screen().print(sheet)


def _file(state: FileState) -> Iterator[str]:
    """What there is to say of a file, its name first and by itself, to be copied."""
    ref = state.ref
    yield ref.file
    if ref.repo is not None:
        yield f"of {ref.repo}"
    if ref.revision is not None:
        yield f"revision {ref.revision}"
    if ref.python_package is not None:
        yield f"or of the Python package {ref.python_package}"
    where = "not here" if state.path is None else "here"
    if state.path is not None and ref.repo is not None:
        where = f"at {state.path}"
    yield f"{size_text(state.size)}, {where}"
    if state.checked is not None:
        yield f"SHA-256 {state.sha256 + ', ' if state.sha256 else ''}{state.check}"


@models_app.command("pull")
def pull_preset(name: Name, json_: AsJson = False) -> None:
    """Download a preset's missing files. An interrupted download resumes where it stopped."""
    preset = find(name)
    pull(preset.files().values())
    states = states_of(preset)
    if json_:
        print_json({"name": name, "files": {s.label: s.as_json() for s in states}}, indent=2)
        return
    table = new_table("file", "size", "SHA-256", "path")
    for state in states:
        add_row(table, state.label, size_text(state.size), state.check, str(state.path))
    Screen().show(table)


def pull(files: Iterable[FileRef]) -> None:
    """Download what is missing, with bars on stderr."""
    missing = [ref for ref in files if hub.locate(ref) is None]
    for ref in missing:
        if ref.repo is None:
            hub.resolve(ref)  # says that the path is wrong
    if missing:
        with download_bars() as progress:
            hub.download(missing, progress=progress)


@models_app.command("rm")
def remove_preset(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    json_: AsJson = False,
) -> None:
    """Remove a preset's downloads that no other preset uses.

    Of a preset that `models optimize` wrote, its copies too, and the preset itself.
    """
    from eftlocal.loading import requantize

    preset, is_ours = find(name), is_written(name)
    begun = [state.ref for state in states_of(preset) if state.is_begun]
    reasons = [_why_keep(preset, ref) for ref in begun]
    kept = {str(ref): why for ref, why in zip(begun, reasons, strict=True) if why is not None}
    gone = [ref for ref, why in zip(begun, reasons, strict=True) if why is None]
    doomed = list({str(ref): ref for ref in gone}.values())  # roles may share a file
    if not json_:
        for file, reason in kept.items():
            say(f"kept {file}: {reason}")
    total = sum(_bytes(ref) for ref in doomed)
    what = ["these files"] if doomed else []
    what += [f"the preset {name}"] if is_ours else []
    if what and not yes:
        ask(f"Remove {' and '.join(what)}, {readable(total)}", of=list(map(str, doomed)))
    if is_ours:
        take_out(name)
    freed = sum(
        hub.remove(ref) if ref.repo else requantize.remove(Path(ref.file)) for ref in doomed
    )
    if json_:
        removed = [str(ref) for ref in doomed]
        report = {"removed": removed, "freed": freed, "kept": kept, "preset_removed": is_ours}
        print_json(report, indent=2)
    else:
        files = f"{len(doomed)} file{'s' * (len(doomed) != 1)}"
        say(f"removed {f'the preset {name} and ' * is_ours}{files}, {readable(freed)} freed")


def _bytes(ref: FileRef) -> int:
    return hub.stored_bytes(ref) if ref.repo else Path(ref.file).stat().st_size


def _why_keep(preset: Preset, ref: FileRef) -> str | None:
    """Why `rm` leaves a file alone; None if it goes."""
    from eftlocal.loading import requantize

    if ref.repo is None and not (is_written(preset.name) and requantize.is_copy(Path(ref.file))):
        return "a local file, not a download"
    place = _place(ref)
    users = [
        other.name
        for other in load_presets().values()
        if other.name != preset.name and any(_place(f) == place for f in other.files().values())
    ]
    if users:
        return f"also used by {' and '.join(users)}"
    if (path := hub.in_python_package(ref)) and not hub.stored_bytes(ref):
        return f"of the Python package {ref.python_package}: {path}"
    if ref.repo and not hub.stored_bytes(ref):
        return f"in huggingface_hub's own cache: {hub.locate(ref)}"
    return None


def _place(ref: FileRef) -> Path:
    return hub.stored_path(ref) if ref.repo else Path(ref.file).resolve()


@models_app.callback()
def _models() -> None:
    use_models_folder()


@models_app.command("check")
@takes(also=[*TRIO, "adapter", "chat_template", "chat_template_kwargs", *CONTEXT, "trust"])
def check_models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A preset.", autocompletion=presets)
    ] = None,
    download: Annotated[bool, typer.Option("--pull", help="Download missing files first.")] = False,
    json_: AsJson = False,
    *,
    given: Given,
) -> None:
    """Check that models share one vocabulary, or what is translated, fit in memory and load.

    New files are first loaded in a child process, where one that crashes llama.cpp does no harm.
    Files that are not downloaded yet are looked up on the hub: whether they exist, and whether
    their size and SHA-256 are what the preset says.
    """
    from eftlocal.cli.models_check import check_files, check_on_the_hub

    files = trio_files(given)
    if (name is None) == (not files):
        raise UsageError(
            "models check: give a preset's name, or GGUF files with --base, --tuned, --reference"
        )
    exceptions: tuple[int, ...] = ()
    if download:
        put_on = (file for file, _ in adapters(given, adapter_roles(given)).values())
        refs = find(name).files().values() if name else map(FileRef.at, files.values())
        pull([*refs, *map(FileRef.at, put_on)])
    if name is None:
        files = with_adapted(files, adapter_roles(given))
        sources = file_sources({role: _here(file) for role, file in files.items()})
    else:
        preset = find(name)
        if any(state.path is None for state in states_of(preset)):
            check_on_the_hub(preset, json_)
        sources, exceptions = preset_sources(preset, hub.resolve), preset.vocabulary_exceptions
    sources = with_settings(
        sources,
        prompts=prompts(given["chat_template"] or (), sources),
        adapters={r: (_here(file), x) for r, (file, x) in adapters(given, sources).items()},
        chat_template_kwargs=given["chat_template_kwargs"],
        **context(given, sources),
    )
    check_files(sources, exceptions, json_, trust=given["trust"])


def _here(file: Path) -> Path:
    """A path, or the file of a name on the hub where it is on this machine."""
    ref = FileRef.at(file)
    if ref.repo and hub.locate(ref) is None:
        raise DownloadError(f"{ref}: is not on this machine; --pull downloads it")
    return hub.fetched(file)


@models_app.command("optimize")
@takes(also=["threads", "trust"])
def optimize_preset(
    name: Name,
    to: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="The type of every role, instead of the fastest here."),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=TYPE", help="The type of one role, as in base=Q4_0. Repeatable."
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=FILE", help="A more precise GGUF of a role to start from. Repeatable."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="The type of the output matrices, instead of 6 bits."),
    ] = None,
    new_name: Annotated[
        str | None,
        typer.Option("--name", help="Of the new preset (default: NAME-optimized)."),
    ] = None,
    acceptance: Annotated[
        float,
        typer.Option(min=0.0, max=0.99, help="Share of accepted drafts that the choice is for."),
    ] = 0.8,
    text: Annotated[
        Path | None, typer.Option(help="File to compare the two trios on (default: built in).")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=0, help="How many tokens of it; 0 leaves the comparison out.")
    ] = 256,
    again: Annotated[
        bool, typer.Option("--again", help="Time the types anew; the figures are kept otherwise.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a preset that this command wrote.")
    ] = False,
    json_: AsJson = False,
    *,
    given: Given,
) -> None:
    """Write copies of a preset's files in faster quantizations.

    Each type is timed on a few random layers of the models' shapes; the fastest is taken. The
    copies get a preset of their own, and the old one stays as it is. At the end both are compared.
    """
    from eftlocal.cli.models_optimize import Wishes, optimize

    wishes = Wishes(
        to, tuple(role or ()), tuple(source or ()), output, acceptance, given["threads"], again
    )
    text_of = None if text is None else read_text(text, f"--text {text}")
    optimize(
        find(name),
        new_name or f"{name}-optimized",
        wishes,
        text=text_of,
        tokens=tokens,
        yes=yes,
        force=force,
        json_=json_,
        trust=given["trust"],
    )
