"""Where a task's data come from."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from eftlocal.disk import read_text
from eftlocal.errors import DownloadError, PromptError, UsageError
from eftlocal.hub import is_offline
from eftlocal.hub.local import huggingface_hub
from eftlocal.json_text import TextError, parse_json
from eftlocal.prompt.messages import validate_prompt
from eftlocal.terminal_text import one_line


def read_lines(path: Path, **keys: type) -> list[tuple[str, dict[str, Any]]]:
    """Where each object of a JSONL file stands ("FILE, line 3"), and the object.

    Args:
        keys: that each has to have, and the types of their values; others are its own affair.

    Raises:
        UsageError: the file cannot be read.
        PromptError: it is not UTF-8, holds nothing, or a line is no such object.
    """
    lines = enumerate(read_text(path, not_text=PromptError).split("\n"), 1)
    told = " and ".join(f'"{key}" ({type_.__name__})' for key, type_ in keys.items())
    found = []
    for where, line in ((f"{path}, line {n}", line) for n, line in lines if line.strip()):
        try:
            record = parse_json(line)
        except TextError as error:
            raise PromptError(f"{where}: {error}; one JSON object a line is needed") from None
        if not isinstance(record, dict) or not all(
            isinstance(record.get(key), type_) for key, type_ in keys.items()
        ):
            raise PromptError(f"{where}: an object with {told} is needed")
        found.append((where, record))
    if not found:
        raise PromptError(f"{path} holds nothing; objects with {told} are needed, one a line")
    return found


def prompt_at(where: str, text: str) -> str:
    """A prompt that came from there, as it is.

    Raises:
        PromptError: it is empty, or UTF-8 cannot hold it.
    """
    try:
        return validate_prompt(text)
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None


@dataclass(frozen=True)
class OnHub:
    """A file of a data set on the hub.

    Attributes:
        repo: owner/name.
        revision: the commit whose file it is.
    """

    repo: str
    file: str
    revision: str

    def path(self, *, offline: bool) -> Path:
        """Where it is on this machine: in the hub's own cache, fetched if need be.

        Raises:
            DownloadError: it is not here and cannot be had.
        """
        library, known = huggingface_hub(), {"repo_type": "dataset", "revision": self.revision}
        found = library.try_to_load_from_cache(self.repo, self.file, **known)
        if isinstance(found, str):
            return Path(found)
        name = f"{self.repo}, {self.file}"
        if offline or is_offline():
            raise DownloadError(
                f"{name}: it is not on this machine, and the program is offline; give --data FILE"
            )
        try:
            with _quietly():
                return Path(library.hf_hub_download(self.repo, self.file, **known))
        except Exception as error:  # of httpx, requests or its own, as its version is
            why: BaseException = error
            while why.__cause__:
                why = why.__cause__
            raise DownloadError(
                f"{name}: the hub did not give it: {one_line(str(why))}; give --data FILE"
            ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without bars for half a megabyte, and without a line for each try: the last one is told."""
    utils = importlib.import_module("huggingface_hub.utils")
    shown, level = not utils.are_progress_bars_disabled(), utils.logging.get_verbosity()
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if shown:
            utils.enable_progress_bars()


def read_parquet(path: Path, **keys: type) -> list[dict[str, Any]]:
    """The rows of a Parquet file.

    Args:
        keys: columns that are wanted, and the types of their values.

    Raises:
        UsageError: pyarrow is not installed, or the file is none with these columns.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            f"{path.name} is a Parquet file, which pyarrow reads: pip install 'eftlocal[eval]', or "
            "give --data FILE"
        ) from None
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path, columns=[*keys]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: {one_line(str(error), 200)}") from None
    if not rows or not all(isinstance(row.get(k), t) for row in rows for k, t in keys.items()):
        raise UsageError(f"{path} has not the columns {', '.join(keys)} with what they should hold")
    return rows


def of_harness(name: str) -> dict[str, Any] | None:
    """What the file of one of lm-evaluation-harness's tasks says (package lm-eval, of which
    nothing is imported); None where it is not installed.

    Args:
        name: of the file, in its folder of tasks.

    Raises:
        UsageError: it cannot be read.
    """
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "tasks" / name
    yaml = importlib.import_module("yaml")
    try:
        found = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {one_line(str(error))}") from None
    return found if isinstance(found, dict) else {}


def filled(template: str, **values: Any) -> str:
    """A template of such a file, filled in."""
    return SandboxedEnvironment(undefined=StrictUndefined).from_string(template).render(values)
