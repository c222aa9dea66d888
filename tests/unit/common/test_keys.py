"""Key files: what is made, what is refused, and in which words."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from common.errors import ConfigError
from common.keys import (
    add_client,
    clients,
    make_directory,
    metrics_token,
    open_keys,
    revoke_client,
)
from deploy.keys import keys as command


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_directory(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def client(directory: Path, tmp_path: Path) -> Path:
    add_client(directory, "rack-3", tmp_path / "rack-3.key")
    return tmp_path / "rack-3.key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path | None, **environment: str) -> str:
    with pytest.raises(ConfigError) as error:
        open_keys(path, environment)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------- making and reading


def test_a_directory_holds_the_runs_key_and_a_client_carries_its_public_half(
    directory: Path, client: Path
) -> None:
    server, rack = open_keys(directory, {}), open_keys(client, {})
    assert server is not None
    assert rack is not None
    assert server.serves
    assert not rack.serves
    assert rack.server == server.public == zmq.curve_public(server.secret)
    assert rack.public == zmq.curve_public(rack.secret) != server.public
    assert clients(directory) == {"rack-3": rack.public}
    assert server.secret not in client.read_bytes()
    # Who connects is told its own secret alone, and the server is not told the client's.
    assert all(rack.secret not in file.read_bytes() for file in directory.rglob("*.*"))


def test_the_servers_file_stands_for_its_directory(directory: Path) -> None:
    by_file, by_directory = open_keys(directory / "server.key", {}), open_keys(directory, {})
    assert by_file == by_directory
    assert by_file is not None
    assert by_file.directory == directory


def test_every_secret_is_made_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    made: list[tuple[str, int]] = []
    really_open = os.open

    def noting(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        descriptor = really_open(path, flags, mode, **more)
        made.append((Path(path).name, stat.S_IMODE(os.fstat(descriptor).st_mode)))
        return descriptor

    before = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", noting)
            make_directory(tmp_path / "keys")
            add_client(tmp_path / "keys", "a", tmp_path / "a.key")
    finally:
        os.umask(before)
    # At the moment each is made, not some time after.
    assert dict(made) == {
        "server.key": 0o600, "metrics.token": 0o600, "a.key": 0o600, "a.pub": 0o644,
    }  # fmt: skip
    assert mode(tmp_path / "keys") == 0o700


def test_nothing_that_is_there_is_overwritten(directory: Path, client: Path) -> None:
    before = {path: path.read_bytes() for path in [*directory.rglob("*.*"), client]}
    with pytest.raises(ConfigError, match=r"server\.key is there already"):
        make_directory(directory)
    with pytest.raises(ConfigError, match=r"rack-3 is on the list of .* already"):
        add_client(directory, "rack-3", client.with_name("other.key"))
    with pytest.raises(ConfigError, match=r"rack-3\.key is there already"):
        add_client(directory, "rack-4", client)
    assert {path: path.read_bytes() for path in [*directory.rglob("*.*"), client]} == before
    assert not client.with_name("other.key").exists()


def test_a_key_that_cannot_be_put_on_the_list_is_not_left_behind(
    directory: Path, tmp_path: Path
) -> None:
    (directory / "clients").rmdir()
    (directory / "clients").write_text("no directory")
    with pytest.raises(ConfigError, match="cannot be written"):
        add_client(directory, "a", tmp_path / "a.key")
    assert not (tmp_path / "a.key").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/x", "-x", ".x", "a b", "a\n", "ä", "a" * 65, "a\0"]
)
def test_a_name_leads_nowhere_else(directory: Path, tmp_path: Path, name: str) -> None:
    for what in (
        lambda: add_client(directory, name, tmp_path / "x.key"),
        lambda: revoke_client(directory, name),
    ):
        with pytest.raises(ConfigError, match="is no name for a client"):
            what()
    assert not (tmp_path / "x.key").exists()


def test_a_revoked_name_is_free_again_for_another_key(
    directory: Path, client: Path, tmp_path: Path
) -> None:
    first = clients(directory)["rack-3"]
    revoke_client(directory, "rack-3")
    assert clients(directory) == {}
    add_client(directory, "rack-3", tmp_path / "second.key")
    assert clients(directory)["rack-3"] != first
    with pytest.raises(ConfigError, match=r"nobody is not on the list of .*, which allows rack-3"):
        revoke_client(directory, "nobody")


# -------------------------------------------------------------------------------------- permissions


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644, 0o777, 0o610])
def test_what_others_could_read_is_refused_with_what_to_do(client: Path, bits: int) -> None:
    os.chown(client, 12345, 12345) if os.getuid() == 0 else None
    client.chmod(bits)
    assert f"(mode {bits:04o}): chmod 600 it" in refusal(client)


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a file of root's")
@pytest.mark.parametrize(
    ("bits", "accepted"),
    [(0o600, True), (0o400, True), (0o440, True), (0o640, True), (0o644, False)],
)
def test_a_secret_that_an_orchestrator_mounts_may_be_its_groups(
    client: Path, bits: int, accepted: bool
) -> None:
    client.chmod(bits)
    assert (
        (open_keys(client, {}) is not None)
        if accepted
        else "can be read by others" in refusal(client)
    )


# ---------------------------------------------------------------------------------------- bad input

SECRET = "x" * 5 * 8
BAD_CONTENTS = {
    "empty": "",
    "binary": b"\xff\x00\xfe",
    "other text": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
    "another table": 'public = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"\n',
    "too short": 'secret = "JTKVSB%%)wK0E.X)V"\n',
    "39 characters": f'secret = "{SECRET[1:]}"\n',
    "not Z85": f'secret = "{"~" * 40}"\n',
    "beyond 32 bits": f'secret = "{"#" * 40}"\n',
    "a number": "secret = 7\n",
    "not text": 'secret = "ä"\n',
}


@pytest.mark.parametrize("content", BAD_CONTENTS.values(), ids=BAD_CONTENTS.keys())
def test_a_file_that_holds_no_whole_key_is_refused_without_showing_it(
    tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / "bad.key"
    path.touch(mode=0o600)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refusal(path)
    assert said.startswith(f"{path} is no key file, or not a whole one")
    assert SECRET[:5] not in said
    if isinstance(content, str) and content:
        assert refusal(None, ZAPEX_KEY=content).startswith("$ZAPEX_KEY is no key file")


def test_wherever_a_key_file_was_cut_off_it_is_refused(client: Path) -> None:
    whole = client.read_text()
    for length in range(len(whole) - len('"\n') + 1):
        client.write_text(whole[:length])
        assert "no key file" in refusal(client), length


def test_what_is_not_there_is_named_with_how_to_make_it(tmp_path: Path) -> None:
    for path, named in (
        (tmp_path / "none", tmp_path / "none"),
        (tmp_path, tmp_path / "server.key"),
    ):
        said = refusal(path)
        assert said.startswith(f"there is no {named}: make a key directory with python -m deploy")


# -------------------------------------------------------------------------------------- environment


def test_a_flag_wins_over_the_environment_and_a_path_or_the_content_does_as_well(
    directory: Path, client: Path
) -> None:
    assert open_keys(None, {}) is None
    assert open_keys(None, {"ZAPEX_KEYS": "", "ZAPEX_KEY": ""}) is None
    by_path = open_keys(None, {"ZAPEX_KEYS": str(client)})
    by_content = open_keys(None, {"ZAPEX_KEY": client.read_text()})
    by_flag = open_keys(directory, {"ZAPEX_KEYS": str(client)})
    assert by_path is not None
    assert by_content is not None
    assert by_flag is not None
    assert by_path.secret == by_content.secret
    assert by_flag.serves
    assert "are both set" in refusal(None, ZAPEX_KEYS="x", ZAPEX_KEY="y")


def test_the_servers_key_by_content_comes_without_a_list(directory: Path) -> None:
    keys = open_keys(None, {"ZAPEX_KEY": (directory / "server.key").read_text()})
    assert keys is not None
    assert keys.serves
    assert keys.directory is None


def test_the_token_for_metrics_is_the_environments_or_the_directorys(
    directory: Path, client: Path
) -> None:
    written = (directory / "metrics.token").read_text().strip()
    assert len(written) == 32
    assert metrics_token(open_keys(directory, {}), {}) == written
    assert metrics_token(open_keys(directory, {}), {"ZAPEX_METRICS_TOKEN": "t"}) == "t"
    assert metrics_token(open_keys(client, {}), {}) is None
    assert metrics_token(None, {}) is None
    (directory / "metrics.token").chmod(0o604)
    with pytest.raises(ConfigError, match="can be read by others"):
        metrics_token(open_keys(directory, {}), {})


def test_keys_show_nothing_of_themselves_in_a_log(client: Path) -> None:
    keys = open_keys(client, {})
    assert keys is not None
    for shown in (repr(keys), str(keys), f"{keys}"):
        assert shown == f"Keys({client})"


# -------------------------------------------------------------------------------------- the command


def test_new_add_list_and_revoke_say_what_to_do_next_and_print_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said: Callable[[], str] = lambda: capsys.readouterr().out  # noqa: E731
    assert command(["new", "kd"]) == 0
    printed = said()
    assert "python -m deploy keys add kd NAME" in printed
    assert command(["list", "kd"]) == 0
    assert "nobody but kd's own processes" in said()
    assert command(["add", "kd", "rack-3"]) == 0
    assert command(["add", "kd", "me", "--file", "my.key"]) == 0
    printed += said()
    assert "--keys rack-3.key" in printed
    assert (tmp_path / "my.key").exists()
    assert command(["list", "kd"]) == 0
    listed = said()
    assert [line.split()[0] for line in listed.splitlines()] == ["me", "rack-3"]
    assert command(["revoke", "kd", "rack-3"]) == 0
    printed += listed + said()
    assert "rack-3 is cut off" in printed
    assert list(clients(tmp_path / "kd")) == ["me"]
    for file in ("kd/server.key", "rack-3.key", "my.key"):
        keys = open_keys(tmp_path / file, {})
        assert keys is not None
        assert keys.secret.decode() not in printed
    with pytest.raises(ConfigError, match="is no key directory"):
        command(["list", str(tmp_path)])
