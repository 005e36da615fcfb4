"""The script that checks devices: what it calls the same, and its checks on the CPU."""

from __future__ import annotations

from pathlib import Path

import check_devices
import debian_root
import pytest
from conftest import THREADS
from devices import trios
from devices.checks import CHECKS, Setting
from devices.comparison import FAR, NEAR_TIE, Text, compare, devices_as
from devices.trios import random

from eftlocal import llama

ONE = Text((5, 6, 7), (-0.1, -0.2, -0.3), (2.0, 0.5 * NEAR_TIE, 3.0))


def changed(at: int, logprob: float = -0.1) -> Text:
    """ONE with another token at a place, and another log-probability at the first."""
    tokens = tuple(9 if i == at else token for i, token in enumerate(ONE.tokens))
    return Text(tokens, (logprob, *ONE.logprobs[1:]), ONE.margins)


@pytest.mark.parametrize(
    ("found", "fine", "told"),
    [
        (ONE, True, "1 of 1 texts the same; log-probabilities within 0.0000"),
        (changed(1), True, f"0 of 1 texts the same, parted at margins of {NEAR_TIE / 2:.3f}"),
        (changed(2), False, "parted at margins of 3.000"),
        (changed(9, -0.1 - 2 * FAR), False, "1 of 1 texts the same; log-probabilities within 1.0"),
        (changed(1, -0.1 - 2 * FAR), False, "within 1.0"),
        (Text(ONE.tokens[:2], ONE.logprobs[:2], ONE.margins[:2]), False, "margins of 3.000"),
    ],
)
def test_what_is_a_near_tie_and_what_a_fault(found: Text, fine: bool, told: str) -> None:
    verdict = compare([ONE], [found])
    assert verdict.fine is fine and told in str(verdict)


def test_devices_are_hidden_and_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu,) = (device for device in llama.devices() if device.kind == "cpu")
    gpu = llama.Device("Vulkan0", "a GPU", "gpu", 100, 200, "Vulkan")
    monkeypatch.setattr(llama, "devices", lambda: [gpu, cpu])
    with devices_as(None):
        assert llama.devices() == [cpu]
    with devices_as({"Vulkan0": 7}):
        assert [device.memory_free for device in llama.devices()] == [7, cpu.memory_free]
    assert llama.devices() == [gpu, cpu]


@pytest.mark.parametrize("name", ["layers", "adapter", "batch", "state"])
def test_a_check_on_the_cpu_agrees_with_the_cpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trios, "THREADS", THREADS)
    setting = Setting([random(tmp_path, tokens=4)], [], tmp_path, tokens=4)
    rows = list(CHECKS[name](setting))
    assert rows and all(row.fine for row in rows), rows


def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with devices_as(None), pytest.raises(SystemExit, match="finds no device here but the CPU"):
        check_devices.main([])
    with pytest.raises(SystemExit):
        check_devices.main(["--only", "layers,nothing"])
    assert "--only nothing: there are self-test, layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sources.list.d/debian.sources", "Types: deb\nURIs: http://m.example/debian\nSuites: x\n"),
        ("sources.list", "# a comment\ndeb [arch=amd64] http://m.example/debian/ bookworm main\n"),
        ("sources.list", "deb http://m.example/debian-security x\ndeb http://m.example/debian x\n"),
    ],
)
def test_the_mirror_is_the_one_of_apt(file: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert debian_root.mirror(tmp_path).rstrip("/") == "http://m.example/debian"


def test_a_root_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(debian_root.RootError, match="no Debian mirror: give one with --mirror"):
        debian_root.mirror(tmp_path)
    monkeypatch.setattr(debian_root.shutil, "which", lambda _: None)
    monkeypatch.setattr(debian_root.os, "geteuid", lambda: 0, raising=False)
    with pytest.raises(debian_root.RootError, match="debootstrap is missing: sudo apt install"):
        debian_root.make(tmp_path / "root", "http://m.example/debian")
    monkeypatch.setattr(debian_root.os, "geteuid", lambda: 1000, raising=False)
    with pytest.raises(debian_root.RootError, match="run this with sudo"):
        debian_root.make(tmp_path / "root", "http://m.example/debian")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / debian_root.MADE).touch()
    debian_root.make(tmp_path / "root", "")  # it is there


def test_what_pip_is_told_here_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("index/simple", "wheels", "home/.config/pip"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ca.pem").touch()
    settings = tmp_path / "home" / ".config" / "pip" / "pip.conf"
    settings.write_text(
        f"[global]\nfind-links = {tmp_path}/wheels\nextra-index-url = file://{tmp_path}/index/simple\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PIP_CERT", f"{tmp_path}/ca.pem")
    files, folders = debian_root.pip_files()
    assert {settings, tmp_path / "ca.pem"} <= set(files)
    assert {tmp_path / "wheels", tmp_path / "index"} <= set(folders)
