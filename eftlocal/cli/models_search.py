"""What `eftlocal models search` shows: files of the hub for each role, and newer revisions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from eftlocal import hub
from eftlocal.cli.screen import Screen, add_row, new_table
from eftlocal.cli.streams import print_json, say, tell
from eftlocal.disk import readable
from eftlocal.errors import DownloadError, UsageError
from eftlocal.hub.search import Repository
from eftlocal.hub.search import search as ask
from eftlocal.library.guess import kinds_of_names, stem, without_size, words
from eftlocal.presets.reading import load_presets
from eftlocal.presets.schema import FileRef
from eftlocal.terminal_text import one_line

_WANTED = ("q4_k_m", "q8_0")  # of a base as a rule, and of small models
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


def search(asked: Sequence[str], most: int, json_: bool) -> None:
    """The verb, its options read."""
    text = " ".join(asked).strip()
    if not text:
        raise UsageError('models search: give words, as in `eftlocal models search "qwen2.5 gguf"`')
    found = [repository for repository in ask(text, most) if repository.files]
    kinds = kinds_of_names([repository.name for repository in found])
    rows: list[dict[str, Any]] = [
        {
            "kind": kind,
            "family": " ".join(sorted(without_size(stem(words(repository.name))))),
            "file": f"hf:{repository.name}/{file}",
            "size": size or None,
            "gated": repository.gated,
        }
        for repository, kind in zip(found, kinds, strict=True)
        for file, size in _shown(repository)
    ]
    rows.sort(key=lambda row: (row["family"], -(row["size"] or 0)))
    newer = list(_newer(text))
    if json_:
        print_json({"files": rows, "newer": newer}, indent=2)
        return
    if rows:
        table = new_table("is", "file", "size")
        for row in rows:
            kind = f"{row['kind'] or '?'}{' (gated)' * row['gated']}"
            add_row(table, kind, row["file"], readable(row["size"]) if row["size"] else "?")
        Screen().show(table, by=1)
        say(
            "\nbase or tuned is guessed from names; `eftlocal models add NAME --base hf:... "
            "--tuned hf:... --reference hf:...` downloads three of them and makes a preset of them"
        )
    else:
        say(f'the hub has no GGUF for "{one_line(text)}"; try fewer words')
    for change in newer:
        say(
            f"newer: {change['file']} of the preset {change['preset']} is pinned to "
            f"{change['pinned'][:10]}, and the hub has {change['now'][:10]}"
        )


def _shown(repository: Repository) -> list[tuple[str, int]]:
    """The files worth showing: those of the wanted types, or else the largest."""
    named = [f for f in repository.files.items() if any(t in f[0].lower() for t in _WANTED)]
    return named or sorted(repository.files.items(), key=lambda file: -file[1])[:1]


def _newer(text: str) -> Iterator[dict[str, Any]]:
    """Files of presets that are pinned to a commit, where the hub has another file by now."""
    asked = words(text)
    seen: set[str] = set()
    for preset in load_presets().values():
        for ref in preset.files().values():
            if str(ref) in seen or not _COMMIT.match(ref.revision or "") or not ref.repo:
                continue
            if not all(word in ref.repo.lower() for word in asked):
                continue
            seen.add(str(ref))
            try:
                now = hub.look_up([FileRef(repo=ref.repo, file=ref.file)])[0]
            except DownloadError as error:
                tell(f"note: preset {preset.name}: {error}")
                continue
            same = ref.sha256 is not None and ref.sha256 == now.sha256
            if now.commit not in (None, ref.revision) and not same:
                yield {
                    "preset": preset.name,
                    "file": f"{ref.repo}/{ref.file}",
                    "pinned": ref.revision,
                    "now": now.commit,
                }
