"""An actor's connection to the replay server that writes down what it sends and what it is told."""

from pathlib import Path
from typing import Any

import actor.loop
from actor.blocks import Blocks
from actor.replay_client import ReplayClient
from tests.soak.ledger import Writer, digest_of

LEDGER = "ledger"
"""Directory of the ledgers, below where the run was launched."""


class TappedClient(ReplayClient):
    """A `ReplayClient` with a ledger."""

    def __init__(self, context: Any, endpoint: str, session: int, *rest: Any) -> None:
        super().__init__(context, endpoint, session, *rest)
        self._ledger = Writer(Path(LEDGER), session)

    def insert(self, blocks: Blocks, weights_version: int) -> None:
        columns = (blocks.obs, blocks.action, blocks.reward, blocks.row_kind)
        # Before it leaves: what is stored has been written down.
        self._ledger.sent(self._sequence, len(blocks.action), digest_of(columns))
        super().insert(blocks, weights_version)

    def _acknowledge(self, link: Any, sequence: int) -> None:
        self._ledger.acknowledged(sequence)
        super()._acknowledge(link, sequence)

    def close(self) -> None:
        super().close()
        self._ledger.close()


def install() -> None:
    """From now on this process's actors, and those forked from it, keep ledgers."""
    actor.loop.ReplayClient = TappedClient  # type: ignore[misc]
