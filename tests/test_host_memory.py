"""Free memory of the host, and what the cgroups of either version leave of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eftlocal.loading import placement
from eftlocal.loading.placement import cgroup_free, host_memory_free

UNLIMITED_V1 = 9223372036854771712  # what the kernel writes


def v1_group(folder: Path, limit: int, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    stat = "active_file 7\ntotal_active_file 50\ntotal_inactive_file 25\n"
    (folder / "memory.stat").write_text(stat)


def v2_group(folder: Path, limit: int | str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("anon 1\nactive_file 50\ninactive_file 25\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "fs"


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    """A process in both hierarchies, as on a machine that mounts both."""
    path = tmp_path / "cgroup"
    path.write_text("9:name=systemd:/\n4:memory,hugetlb:/outer/inner\n1:cpu:/\n0::/outer/inner\n")
    return path


def test_this_machine() -> None:
    free = host_memory_free()
    assert free is not None and 0 < free < 1 << 50


def test_the_limit_is_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "cgroup_free", lambda _root, _membership: 5)
    assert host_memory_free() == 5


def test_no_cgroups(root: Path, membership: Path, tmp_path: Path) -> None:
    assert cgroup_free(root, membership) is None
    assert cgroup_free(root, tmp_path / "none") is None


def test_v2_limit_of_an_outer_group(root: Path, membership: Path) -> None:
    v2_group(root / "outer" / "inner", "max", 5)
    assert cgroup_free(root, membership) is None
    v2_group(root / "outer", 1000, 400)
    assert cgroup_free(root, membership) == 1000 - 400 + 75


def test_v1_without_a_limit(root: Path, membership: Path) -> None:
    v1_group(root / "memory" / "outer" / "inner", UNLIMITED_V1, 5)
    assert cgroup_free(root, membership) is None


def test_v1_the_tightest_limit_holds(root: Path, membership: Path) -> None:
    v1_group(root / "memory" / "outer" / "inner", 3000, 400)
    assert cgroup_free(root, membership) == 3000 - 400 + 75
    v1_group(root / "memory" / "outer", 1000, 400)
    assert cgroup_free(root, membership) == 1000 - 400 + 75
    v1_group(root / "memory", UNLIMITED_V1, 4000)
    assert cgroup_free(root, membership) == 1000 - 400 + 75


def test_v1_in_a_container_that_does_not_see_its_own_path(root: Path, membership: Path) -> None:
    v1_group(root / "memory", 2000, 400)
    assert cgroup_free(root, membership) == 2000 - 400 + 75


def test_both_versions(root: Path, membership: Path) -> None:
    v1_group(root / "memory" / "outer" / "inner", 3000, 400)
    v2_group(root / "outer" / "inner", 1000, 400)
    assert cgroup_free(root, membership) == 1000 - 400 + 75


def test_more_used_than_allowed(root: Path, membership: Path) -> None:
    v1_group(root / "memory" / "outer", 100, 400)
    assert cgroup_free(root, membership) == 0
