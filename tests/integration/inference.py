"""An inference process in a thread, and those who ask it, against a real head."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actor.inference_client import InferenceClient
from actor.inference_server import run_inference_server
from actor.options import MemberOptions
from common.messages import ACTING, NamedTensors, QValues
from common.networks import build_network
from common.rejections import Rejections
from common.spec import EnvSpec
from tests.integration.runs import until
from tests.integration.test_roles import Role, Stage, stage

Array = npt.NDArray[Any]

REJECTIONS = Rejections("actor_rejected_messages_total")

FRAMES = EnvSpec((84, 84), "|u1", 6)
NATURE: dict[str, Any] = {"spec": FRAMES, "network": "nature", "frame_stack": 4}
VECTORS: dict[str, Any] = {"spec": EnvSpec((3,), "<f4", 4), "network": "mlp"}


@dataclass
class Served:
    """A stage with an inference process at a known address."""

    stage: Stage
    endpoint: str
    process: Role

    @contextlib.contextmanager
    def client(self) -> Iterator[InferenceClient]:
        actions = self.stage.manifest.spec.num_actions
        with contextlib.closing(
            InferenceClient(self.stage.context, self.endpoint, actions, REJECTIONS)
        ) as client:
            yield client

    def counters(self) -> dict[str, float]:
        members = self.stage.members("inference")
        return members[0]["values"] if members else {}

    def publish(self, version: int, seed: int, epoch: int = 0) -> NamedTensors:
        """Weights of that seed go out as that version."""
        tensors = random_weights(self.stage, seed)
        self.stage.control.publish(ACTING, epoch, version, tensors)
        return tensors


def serve(s: Stage, bind: str = "inproc://stage-inference") -> Role:
    """Start an inference process, as a thread; it is ended with the stage."""
    options = MemberOptions(s.head, bind)
    running = Role(lambda stop: run_inference_server(options, s.context, stop, lambda _: None))
    s.roles.callback(running.end)
    return running


@contextlib.contextmanager
def serving(spec: EnvSpec | None = None, **changes: Any) -> Iterator[Served]:
    with stage(spec, **{"inference": "host", "inference_device": "cpu", **changes}) as s:
        yield Served(s, "inproc://stage-inference", serve(s))


def random_weights(s: Stage, seed: int) -> NamedTensors:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(s.manifest.config, s.manifest.spec)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def one_by_one(s: Stage, weights: NamedTensors, obs: Array) -> npt.NDArray[np.float32]:
    """What the network says to each observation when it is alone."""
    network = build_network(s.manifest.config, s.manifest.spec)
    network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    with torch.no_grad():
        rows = [network(torch.tensor(each[None])) for each in obs]
    values: npt.NDArray[np.float32] = torch.cat(rows).numpy()
    return values


def observations(s: Stage, rows: int, seed: int) -> Array:
    spec, stack = s.manifest.spec, s.manifest.config.frame_stack
    shape = (rows, *([stack] if stack > 1 else []), *spec.obs_shape)
    numbers = np.random.default_rng(seed).integers(0, 256, shape)
    return numbers.astype(spec.dtype)


def answer(client: InferenceClient) -> QValues:
    return until(client.answer, "an answer")
