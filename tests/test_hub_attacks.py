"""Every case of a hostile hub: one line, few requests, the token at home, nothing outside."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
import pytest
from hostile_hub import POSIX, WHOLE, Case, attacked_by, preset
from hub_attacks import CASES
from hub_server import isolate

from eftlocal import hub
from eftlocal.errors import EftlocalError
from eftlocal.presets.reading import find, user_path


def inside(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_hub(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.before is not None and not POSIX:
        pytest.skip("links and pipes as POSIX has them")
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("EFTLOCAL_CACHE", str(tmp_path / "cache"))
    if case.slow:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    if case.before is not None:
        case.before(tmp_path / "store", outside)
    user_path().parent.mkdir()
    user_path().write_text(preset(case), encoding="utf-8")
    waits: list[float] = []
    monkeypatch.setattr("eftlocal.hub.http.sleep", waits.append)
    with attacked_by(case) as attacked:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", attacked.endpoint())
        message = ""
        try:
            files = find("attacked").files().values()
            paths = hub.download(list(files))
            assert all(path.read_bytes() in WHOLE for path in paths)
        except EftlocalError as error:
            message = str(error)
            assert error.exit_code == case.code
    assert bool(message) == bool(case.says), message
    assert re.search(case.says, message), message
    if message and case.code == 5:
        assert case.file.split("-0")[0] in message or "store" in message
    assert message.isprintable()
    assert len(message) < 1000
    assert len(attacked.requests) <= case.requests, [r.path[:80] for r in attacked.requests]
    assert all(0 <= wait <= 60 for wait in waits)
    tokens = {seen.host for seen in attacked.requests if seen.token}
    assert "other" not in tokens
    assert ("hub" in tokens) == (case.token and bool(attacked.requests))
    assert inside(outside) == {"precious": b"kept"}
