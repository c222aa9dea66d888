"""The manifest reaches another process as it was; what is none is refused."""

from typing import Any, Literal

import pytest

from common import codec
from common.blocks import BlockLayout
from common.config import Config
from common.errors import ConfigError, MalformedMessage
from common.manifest import Manifest
from common.messages import Status
from common.spec import EnvSpec

MANIFEST = Manifest(
    "2026-run",
    Config(
        env="mine:Env-v0",
        env_kwargs={"size": None, "walls": [[1, 2], [3, 4]], "name": "höhle"},
        hidden_sizes=(8, 4),
        block_length=16,
        n_step=5,
        reward_clip=1.0,
        target_return=None,
        samples_per_insert=None,
    ),
    EnvSpec((3, 2), "|u1", 4),
)


def over_the_wire(plain: dict[str, Any]) -> dict[str, Any]:
    message = codec.decode([bytes(frame) for frame in codec.encode(Status(plain))])
    assert isinstance(message, Status)
    return message.status


def test_it_is_the_same_at_the_other_end() -> None:
    manifest = Manifest.from_plain(over_the_wire(MANIFEST.to_plain()))
    assert manifest == MANIFEST
    assert manifest.layout == BlockLayout(length=16, n_step=5)


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": None},
        {"run_id": 7},
        {"config": None},
        {"config": []},
        {"spec": None},
        {"spec": "(3, 2)"},
        {"spec": {}},
        {"spec": {**MANIFEST.spec.to_plain(), "num_actions": 0}},
    ],
    ids=str,
)
def test_what_is_no_manifest_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        Manifest.from_plain({**MANIFEST.to_plain(), **changes})


@pytest.mark.parametrize("missing", ["run_id", "config", "spec"])
def test_an_incomplete_one_is_refused(missing: str) -> None:
    plain = MANIFEST.to_plain()
    del plain[missing]
    with pytest.raises(MalformedMessage, match="needs run_id, config and spec"):
        Manifest.from_plain(plain)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_step": 0}, "manifest: n_step = 0"),
        ({"n_stepp": 3}, r"manifest: unknown key 'n_stepp'; did you mean n_step\?"),
        ({"batch_size": 10**9}, "manifest: batch_size = 1000000000 must not exceed"),
    ],
)
def test_an_impossible_configuration_is_refused(changes: dict[str, Any], reason: str) -> None:
    plain = MANIFEST.to_plain()
    with pytest.raises(ConfigError, match=reason):
        Manifest.from_plain({**plain, "config": {**plain["config"], **changes}})


def test_what_is_sent_at_once_is_bounded() -> None:
    colour = EnvSpec((210, 160, 3), "|u1", 4)
    block = (64 + 3 + 3) * 210 * 160 * 3
    config = {"network": "nature", "frame_stack": 4, "n_step": 3}
    manifest = Manifest("run", Config(**config, block_length=64), colour)
    assert manifest.blocks_per_insert() == (256 << 20) // block == 38
    longest = Manifest("run", Config(**config, block_length=2_000), colour)
    assert longest.blocks_per_insert() == 1
    with pytest.raises(ConfigError, match=r"a block of 3006 .* has 288 MiB, .* block_length"):
        Manifest("run", Config(**config, block_length=3_000), colour).blocks_per_insert()
    with pytest.raises(ConfigError, match=r"a block of 3006"):
        Manifest("run", Config(**config, block_length=3_000), colour).check_sizes()


def test_a_batch_that_could_never_come_is_refused() -> None:
    large = EnvSpec((512, 512), "<f4", 2)

    def check(batch_size: int, replay_link: Literal["auto", "shared_memory", "wire"]) -> None:
        config = Config(batch_size=batch_size, n_step=1, block_length=4, replay_link=replay_link)
        Manifest("run", config, large).check_sizes()

    # Two frames of 1 MiB for each transition.
    check(512, "wire")
    check(513, "shared_memory")
    reason = r"a batch of 513 .* has 1026 MiB, more than the 1024 .* lower batch_size"
    for link in ("auto", "wire"):
        with pytest.raises(ConfigError, match=reason):
            check(513, link)


def test_no_more_is_sent_at_once_than_a_replay_server_holds() -> None:
    """Whatever an actor's --envs: 1,000 transitions in two servers are 32 blocks of 16 in each."""
    config = Config(block_length=16, replay_capacity=1_000, replay_servers=2, batch_size=32)
    manifest = Manifest("run", config, EnvSpec((4,), "<f4", 2))
    assert manifest.blocks_per_insert() == config.replay_slots == 32
