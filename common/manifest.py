"""Everything a process must know to take part in a run; the head hands it out on joining."""

from dataclasses import dataclass
from typing import Any

from common.blocks import BlockLayout
from common.config import Config, config_from_mapping
from common.errors import ConfigError, MalformedMessage, Reason
from common.messages import MAX_INSERT_BYTES, MAX_MESSAGE_BYTES
from common.spec import EnvSpec


@dataclass(frozen=True, slots=True)
class Manifest:
    """One run."""

    run_id: str
    config: Config
    spec: EnvSpec

    @property
    def layout(self) -> BlockLayout:
        config = self.config
        return BlockLayout(config.block_length, config.n_step, context=config.frame_stack - 1)

    def blocks_per_insert(self) -> int:
        """The most blocks that an actor sends at once, however many environments it has: no more
        than a replay server holds, nor too many bytes. Raises ConfigError when not even one may
        be sent."""
        block = self.layout.rows * self.spec.obs_bytes
        if block > MAX_INSERT_BYTES:
            raise ConfigError(
                f"a block of {self.layout.rows} observations of {self.spec.obs_shape} "
                f"{self.spec.dtype} has {block >> 20} MiB, more than the {MAX_INSERT_BYTES >> 20} "
                "that are sent at once: lower block_length, or resize"
            )
        return min(MAX_INSERT_BYTES // block, self.config.replay_slots)

    def check_sizes(self) -> None:
        """Raises ConfigError when an insert or a batch of this run could never be sent."""
        self.blocks_per_insert()
        config = self.config
        # Compressed it may be smaller, but nobody knows before it is drawn.
        batch = config.batch_size * self.layout.frames_per_transition * self.spec.obs_bytes
        if config.replay_link != "shared_memory" and batch > MAX_MESSAGE_BYTES:
            raise ConfigError(
                f"a batch of {config.batch_size} transitions of {self.layout.frames_per_transition}"
                f" observations of {self.spec.obs_shape} {self.spec.dtype} has {batch >> 20} MiB, "
                f"more than the {MAX_MESSAGE_BYTES >> 20} that are sent at once: lower batch_size, "
                "or resize, or choose replay_link = shared_memory"
            )

    def to_plain(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "config": self.config.model_dump(mode="json"),
            "spec": self.spec.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Manifest":
        """Raises MalformedMessage or ConfigError when `plain` is not what `to_plain` gives."""
        run_id, config, spec = (plain.get(key) for key in ("run_id", "config", "spec"))
        if not (isinstance(run_id, str) and isinstance(config, dict) and isinstance(spec, dict)):
            raise MalformedMessage("the manifest needs run_id, config and spec", Reason.FIELD)
        return cls(run_id, config_from_mapping(config, "manifest"), EnvSpec.from_plain(spec))
