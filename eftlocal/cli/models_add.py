"""`eftlocal models add`: three files become a preset; it asks for what was not said."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer

from eftlocal import hub
from eftlocal.cli.models import pull
from eftlocal.cli.models_check import check_files
from eftlocal.cli.models_find import look, show_trio
from eftlocal.cli.streams import ask, command, say
from eftlocal.disk import readable
from eftlocal.errors import EftlocalError, UsageError
from eftlocal.loading.roles import preset_sources
from eftlocal.logits.recipe import REFERENCE, TRIO, TUNED
from eftlocal.output_file import check_place
from eftlocal.presets.reading import user_path
from eftlocal.presets.schema import FileRef, Preset
from eftlocal.presets.writing import add_preset, check_name
from eftlocal.prompt.template import is_template

_COMMENT = "by `eftlocal models add`"
_ASKED = 3  # trios to choose from


def add(
    name: str | None,
    files: Mapping[str, Path],
    adapters: Mapping[str, tuple[Path, float]],
    prompts: Mapping[str, str],
    *,
    replace: bool,
    yes: bool,
    trust: bool,
) -> None:
    """The verb, its options read.

    Args:
        files: role to path or name on the hub, as the command line gave them.
        adapters: role to its adapter and the scale of it; without a file it takes the reference's.
        prompts: role to its prompt, as `RoleSource.prompt`.
    """
    adapted = {role for role in adapters if role == TUNED}  # the others need a file
    missing = [role for role in TRIO if role not in files and role not in adapted]
    if (missing or name is None) and not _can_ask():
        wanted = "a name" if name is None else " and ".join(f"--{role}" for role in missing)
        raise UsageError(
            f"models add: give {wanted}, as in `eftlocal models add mine --base FILE --tuned FILE "
            "--reference FILE`; on a terminal it asks"
        )
    if name is not None:
        _check(name, replace=replace)
    if missing:
        files = {**(_chosen() if not (files or adapters) else {}), **files}
        files |= {role: Path(_asked(role)) for role in missing if role not in files}
    if name is None:
        name = _asked_name(replace=replace)
    if user_path().parent.is_dir():
        check_place(user_path())
    table = preset_table(
        name,
        {role: FileRef.at(file) for role, file in files.items()},
        {role: (FileRef.at(file), scale) for role, (file, scale) in adapters.items()},
        prompts,
    )
    preset = fetched(table, yes=yes)
    check_files(preset_sources(preset, hub.resolve), (), json_=False, trust=trust)
    add_preset(table, f"{name}: {_COMMENT}")
    say(
        f"written into {user_path()}; run it with\n"
        f"  {command(['run', '--preset', name, 'In which country is Toulouse?'])}\n"
        f"  {command(['chat', '--preset', name])}"
    )


def _check(name: str, *, replace: bool) -> None:
    check_name(name, replace=replace, force="--replace", other="give another name")


def preset_table(
    name: str,
    files: Mapping[str, FileRef],
    adapters: Mapping[str, tuple[FileRef, float]],
    prompts: Mapping[str, str],
) -> dict[str, Any]:
    """The preset as TOML has it; paths are absolute."""
    roles: dict[str, dict[str, Any]] = {}
    for role in TRIO:
        entry: dict[str, Any] = _entry(files[role]) if role in files else {"of": REFERENCE}
        if role in adapters:
            adapter, scale = adapters[role]
            entry["lora"] = _entry(adapter) | ({"scale": scale} if scale != 1.0 else {})
        if prompt := prompts.get(role):
            entry["prompt"] = {"template": prompt} if is_template(prompt) else prompt
        roles[role] = entry
    return {"name": name, "roles": roles}


def _entry(ref: FileRef) -> dict[str, Any]:
    entry = ref.model_dump(include={"repo", "file", "revision"}, exclude_none=True)
    if ref.repo is None:
        entry["file"] = str(Path(ref.file).expanduser().absolute())
    return entry


def fetched(table: dict[str, Any], *, yes: bool) -> Preset:
    """The preset with its files on this machine. What is downloaded is pinned to the revision that
    the hub has now, in the table too.

    Raises:
        EftlocalError: a file is not there, or cannot be had.
    """
    sizes: dict[str, int] = {}
    for role in table["roles"].values():
        for entry in filter(lambda part: "file" in part, (role, role.get("lora", {}))):
            ref = FileRef(**{k: v for k, v in entry.items() if k in ("repo", "file", "revision")})
            if ref.repo is None:
                hub.resolve(ref)  # says that the path is wrong
            elif hub.locate(ref) is None:
                parts = hub.look_up(hub.shards(ref))
                sizes[str(ref)] = sum(part.size for part in parts)
                if ref.revision is None and parts[0].commit:
                    entry["revision"] = parts[0].commit
    if sizes:
        total = sum(sizes.values())
        hub.check_room(total)
        if not yes:
            of = [f"{name}: {readable(size)}" for name, size in sizes.items()]
            ask(f"Download {readable(total)}", of=of)
    preset = Preset.model_validate(table)
    pull(preset.files().values())
    return preset


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _chosen() -> dict[str, Path]:
    """The files of a trio that was found on this machine; none where a person has others."""
    _, _, proposed, _ = look((), _ASKED)
    if not proposed:
        return {}
    for number, trio in enumerate(proposed, 1):
        show_trio(trio, number)
    numbers = range(len(proposed) + 1)
    question = "Which one? 0: other files"
    number = typer.prompt(question, default=1, value_proc=_number_of(numbers), err=True)
    return proposed[number - 1].files if number else {}


def _number_of(numbers: Collection[int]) -> Any:
    def read(text: str) -> int:
        if not str(text).isdecimal() or int(text) not in numbers:
            raise typer.BadParameter(f"give a number up to {max(numbers)}")
        return int(text)

    return read


def _asked(role: str) -> str:
    """A file that is there, or that the hub has."""

    def read(text: str) -> str:
        try:
            ref = FileRef.at(Path(text.strip()).expanduser())
            if ref.repo is None:
                hub.resolve(ref)
        except (EftlocalError, RuntimeError) as error:
            raise typer.BadParameter(str(error)) from None
        return text.strip()

    text: str = typer.prompt(
        f"{role} (a GGUF file, or hf:owner/name/file.gguf)", value_proc=read, err=True
    )
    return str(Path(text).expanduser())


def _asked_name(*, replace: bool) -> str:
    def read(text: str) -> str:
        try:
            _check(text.strip(), replace=replace)
        except UsageError as error:
            raise typer.BadParameter(str(error)) from None
        return text.strip()

    name: str = typer.prompt("A name for it", value_proc=read, err=True)
    return name
