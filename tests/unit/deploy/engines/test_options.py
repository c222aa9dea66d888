"""Flags that contradict each other are refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from deploy.engines.options import Placing, check_placing

FILE = Path("hosts.toml")


def test_a_file_of_hosts_chooses_its_engine() -> None:
    options = Placing(hosts=FILE)
    check_placing(options, in_process=False)
    assert options.engine == "hosts"


@pytest.mark.parametrize(
    ("flags", "in_process", "fragment"),
    [
        ({"engine": "hosts"}, False, "--engine hosts and --hosts FILE belong together"),
        ({"engine": "ray", "hosts": FILE}, False, "--engine hosts and --hosts FILE belong"),
        ({"engine": "slurm", "actors_here": 2}, False, "places all actors: drop --actors-here"),
        ({"address": "auto"}, False, "--address is that of a Ray cluster: add --engine ray"),
        ({"engine": "ray"}, True, "--in-process is one process: drop --engine ray"),
        ({"hosts": FILE}, True, "--in-process is one process: drop --engine hosts"),
        ({"head_cores": 2}, False, "--head-cores: it is what Ray and Slurm reserve: drop it"),
        ({"hosts": FILE, "head_gpus": 1}, False, "--head-gpus: it is what Ray and Slurm reserve"),
        ({"engine": "ray", "sbatch": "-p x"}, False, "--sbatch: it is for Slurm: drop it"),
        ({"sbatch_head": "-p x"}, True, "--sbatch-head: it is for Slurm: drop it"),
        ({"actors_here": -1}, False, "--actors-here -1: must be at least 0"),
        ({"engine": "ray", "head_cores": 0}, False, "--head-cores 0: must be at least 1"),
        ({"engine": "ray", "head_gpus": -1}, False, "--head-gpus -1: must be at least 0"),
    ],
)
def test_what_makes_no_sense_together_is_refused(
    flags: dict[str, Any], in_process: bool, fragment: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        check_placing(Placing(**flags), in_process=in_process)
    assert fragment in str(raised.value)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"actors_here": 0},
        {"hosts": FILE, "actors_here": 2},
        {"engine": "ray", "address": "auto", "head_cores": 1},
        {"engine": "slurm", "head_gpus": 0},
    ],
)
def test_what_makes_sense_is_left_as_it_is(flags: dict[str, Any]) -> None:
    options = Placing(**flags)
    check_placing(options, in_process=False)
    assert {name: getattr(options, name) for name in flags} == flags
