"""What a process may still take of the memory: its container's or its job's limits bind it, too."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from replay_server import placement
from replay_server.placement import available_memory

GB = 1_000_000_000


class Cgroups:
    """Files of a machine's control groups, of either version."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._own = directory / "cgroup", directory / "own"
        monkeypatch.setattr(placement, "_CGROUPS", self._root)
        monkeypatch.setattr(placement, "_OWN_CGROUPS", self._own)
        memory = namedtuple("memory", "available")(100 * GB)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    def belong_to(self, *lines: str) -> None:
        """What /proc/self/cgroup says."""
        self._own.write_text("".join(f"{line}\n" for line in lines))

    def limit(self, group: str, limit: int | str, used: int, cache: int = 0) -> None:
        """Of version 2."""
        self._write(group, {"memory.max": limit, "memory.current": used}, "", cache)

    def limit_v1(self, group: str, limit: int, used: int, cache: int = 0) -> None:
        names = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
        self._write(f"memory/{group}", names, "total_", cache)

    def _write(self, group: str, values: dict[str, Any], prefix: str, cache: int) -> None:
        directory = self._root / group
        directory.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            (directory / name).write_text(f"{value}\n")
        # Pages that were read twice lie on the second list.
        lists = {"inactive_file": cache - cache // 4, "active_file": cache // 4}
        lines = [f"{prefix}{name} {nbytes}\n" for name, nbytes in lists.items()]
        (directory / "memory.stat").write_text(f"anon 5\n{''.join(lines)}shmem 7\n")


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroups:
    return Cgroups(tmp_path, monkeypatch)


def test_without_control_groups_the_machines_memory_counts(cgroups: Cgroups) -> None:
    assert available_memory() == 100 * GB


def test_a_container_sees_its_own_group_as_the_root(cgroups: Cgroups) -> None:
    cgroups.belong_to("0::/")
    cgroups.limit(".", 16 * GB, used=4 * GB)
    assert available_memory() == 12 * GB


def test_no_limit_is_none(cgroups: Cgroups) -> None:
    cgroups.belong_to("0::/")
    cgroups.limit(".", "max", used=4 * GB)
    assert available_memory() == 100 * GB


def test_a_limit_beyond_the_machine_changes_nothing(cgroups: Cgroups) -> None:
    cgroups.belong_to("0::/")
    cgroups.limit(".", 1 << 62, used=4 * GB)
    assert available_memory() == 100 * GB


def test_files_that_are_only_cached_do_not_count_as_used(cgroups: Cgroups) -> None:
    """An earlier run's replay file is in the cache, which gives way at once."""
    cgroups.belong_to("0::/")
    cgroups.limit(".", 16 * GB, used=15 * GB, cache=11 * GB)
    assert available_memory() == 12 * GB


def test_a_job_is_bound_by_every_group_above_it(cgroups: Cgroups) -> None:
    cgroups.belong_to("0::/slurm/job_7/step_0")
    cgroups.limit("slurm/job_7/step_0", "max", used=1 * GB)
    cgroups.limit("slurm/job_7", 32 * GB, used=2 * GB)
    cgroups.limit("slurm", 64 * GB, used=40 * GB)
    assert available_memory() == 24 * GB


def test_control_groups_of_version_1_count_as_well(cgroups: Cgroups) -> None:
    cgroups.belong_to("3:cpu,cpuacct:/a", "2:memory:/docker/0123", "1:name=systemd:/b")
    # In a container of version 1 the path is that of the host, and the root is its own group.
    cgroups.limit_v1(".", 8 * GB, used=3 * GB, cache=1 * GB)
    assert available_memory() == 6 * GB
