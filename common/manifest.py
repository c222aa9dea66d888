"""Everything a process must know to take part in a run; the head hands it out on joining."""

from dataclasses import dataclass
from typing import Any

from common.blocks import BlockLayout
from common.config import Config, config_from_mapping
from common.errors import MalformedMessage, Reason
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
