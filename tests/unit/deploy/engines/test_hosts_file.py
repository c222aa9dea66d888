"""A file of hosts: what it says, what is refused, and the commands that come of it."""

import shlex
import shutil
from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.engines.fleet import Ended
from deploy.engines.hosts import SSH, Hosts, HostTable, SshCommand, read_hosts
from deploy.topology import actor_words, replay_words
from tests.waiting import wait_until

ROOT = Path(__file__).parents[4]


def written(directory: Path, text: str) -> Path:
    path = directory / "hosts.toml"
    path.write_text(text)
    return path


def test_the_example_is_one() -> None:
    file = read_hosts(ROOT / "deploy" / "hosts.toml")
    assert [(host.name, host.dir, host.actors, host.relay) for host in file.hosts] == [
        ("cpu-1", "/opt/zapex", "auto", False),
        ("learner@cpu-2", "/opt/zapex", 16, True),
    ]
    assert (file.head.bind, file.head.address) == ("tcp://0.0.0.0:5550", "gpu-box")
    assert (file.known_actors_elsewhere, file.replay_elsewhere) == (16, False)


def test_a_command_whose_logs_were_deleted_tells_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SshCommand, "command", lambda *_: ["sh", "-c", "read it; exit 3"])
    logs = tmp_path / "logs"
    command = SshCommand("actors", HostTable(name="a"), lambda _: [], logs / "a.log")
    command.start("tcp://head:1")
    shutil.rmtree(logs)
    command.ask_to_stop()
    assert wait_until(command.ended, "its end") == Ended(3, "ended with exit code 3")


def test_a_host_says_what_the_defaults_do_not(tmp_path: Path) -> None:
    text = (
        '[defaults]\ndir = "/opt"\nactors = 4\n[head]\nactors = 2\n'
        '[[hosts]]\nname = "a"\n[[hosts]]\nname = "b"\nactors = 0\nreplay = "tcp://b:5560"\n'
    )
    file = read_hosts(written(tmp_path, text))
    assert [(host.dir, host.actors) for host in file.hosts] == [("/opt", 4), ("/opt", 0)]
    assert (file.known_actors_elsewhere, file.replay_elsewhere) == (4, True)


REFUSED = [
    ("hosts = 3", "hosts: Input should be a valid list"),
    ("[[hosts]]", "hosts.0.name: Field required"),
    ('[[hosts]]\nname = "a"\nactors = -1', "hosts.0.actors"),
    ('[[hosts]]\nname = "a"\nactor = 1', "hosts.0.actor: Extra inputs are not permitted"),
    ('[defaults]\nactor = 1\n[[hosts]]\nname = "a"', "hosts.0.actor: Extra inputs"),
    ('[head]\nport = 1\n[[hosts]]\nname = "a"', "head.port: Extra inputs"),
    # It would be an option of ssh, one of which runs a command here.
    ('[[hosts]]\nname = "-oProxyCommand=reboot"', "hosts.0.name: String should match pattern"),
    ('[[hosts]]\nname = "a"\n[[hosts]]\nname = "a"', "a host is named twice: a, a"),
    (
        '[[hosts]]\nname = "a"\nreplay = "tcp://a:1"\n[[hosts]]\nname = "b"\nreplay = "tcp://b:1"',
        "say replay for one host alone",
    ),
    ('[[hosts]]\nname = "a"\nrelay = true\nactors = 0', "a: a relay is for the actors of its host"),
    ("hosts = ", "is not TOML"),
]


@pytest.mark.parametrize(("text", "fragment"), REFUSED, ids=[case[1] for case in REFUSED])
def test_what_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, text: str, fragment: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_hosts(written(tmp_path, text))
    assert fragment in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--hosts: cannot read .*nowhere.toml"):
        read_hosts(tmp_path / "nowhere.toml")


def test_the_other_hosts_shell_gets_one_line(tmp_path: Path) -> None:
    host = HostTable(
        name="cpu-1",
        dir="/opt/our zapex",
        keys="cpu-1.key",
        options=["--envs", "32"],
        env={"HOME_OF": "a $b"},
        ssh=["-p", "2222"],
    )
    command = SshCommand("actors", host, lambda head: actor_words(head, "auto"), tmp_path / "log")
    words = command.command("tcp://head:5550")
    assert words[: len(SSH)] == list(SSH)
    assert words[len(SSH) : -1] == ["-p", "2222", "--", "cpu-1"]
    assert words[-1].startswith("cd '/opt/our zapex' && exec env ")
    assert shlex.join(shlex.split(words[-1])[4:]) == (
        "env 'HOME_OF=a $b' .venv/bin/python -m actor --connect tcp://head:5550 --processes auto "
        "--stop-at-eof --keys cpu-1.key --envs 32"
    )


def test_a_host_that_says_relay_starts_one_with_its_actors(tmp_path: Path) -> None:
    written(tmp_path, '[[hosts]]\nname = "a"\nactors = 4\nrelay = true\n')
    hosts = Hosts(tmp_path / "hosts.toml", tmp_path, lambda _: None, insecure=False, actors_here=0)
    (command,) = hosts.commands(hosts.file.hosts[0])
    assert command.name == "a actors"
    line = command.command("tcp://head:5550")[-1]
    assert "actor --connect tcp://head:5550 --processes 4 --relay --stop-at-eof" in line


def test_of_a_hosts_commands_the_actors_alone_act(tmp_path: Path) -> None:
    written(tmp_path, '[[hosts]]\nname = "a"\nreplay = "tcp://a:5560"\ninference = true\n')
    hosts = Hosts(tmp_path / "hosts.toml", tmp_path, lambda _: None, insecure=False, actors_here=0)
    commands = hosts.commands(hosts.file.hosts[0])
    assert [(command.name, command.acts, command.vital) for command in commands] == [
        ("a replay_server", False, True),
        ("a inference", False, False),
        ("a actors", True, False),
    ]


def test_a_replay_server_elsewhere_takes_over_from_its_predecessor() -> None:
    words = replay_words("tcp://h:5550", "tcp://b:5560", Path("storage"))
    assert " ".join(words) == (
        "replay_server --connect tcp://h:5550 --bind tcp://b:5560 --number 0 --storage storage"
    )
