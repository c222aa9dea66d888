"""What makes updates faster must not make them others: each option against eager float32."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch._inductor.graph import GraphLowering

from common.config import Config
from learner.checkpoint import RunState, restore_learner, save_checkpoint
from learner.compilation import Compiled
from learner.cuda_graph import WARM_UP, GraphedStep, Step
from learner.update import QLearner, stacks
from tests.updates import EAGER, SPECS, make_batch, make_config, make_learner

UPDATES = 6
N = {"mlp": 64, "minatar": 32, "nature": 8}
SEEDS = {"mlp": 0, "minatar": 0, "nature": 1}
"""Of first weights with which no ReLU is so near its kink that rounding switches it."""
ROUNDING = 1e-4
"""Of float32, when the same sums are taken in another order; |δ| and Q-values are about 1."""
BFLOAT16 = 1e-2
"""Products of 8 bits, each wrong by up to 0.4%, mostly cancel each other."""

# PyTorch's own, when its compiler is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def config_of(network: str, **changes: Any) -> Config:
    values = {"learning_rate": 1e-4, "target_update_period": 4, **EAGER, **changes}
    return make_config(network, batch_size=N[network], **values)


def trained(config: Config, updates: int = UPDATES) -> tuple[QLearner, list[npt.NDArray[Any]]]:
    """A learner after some updates, and what each of them found: |δ|, loss, mean Q-value."""
    learner = make_learner(config, seed=SEEDS[config.network])
    findings = []
    for number in range(updates):
        priority, loss, mean_q = learner.update(make_batch(config, number)).read()
        findings.append(np.append(priority, [loss, mean_q]))
    return learner, findings


def way(learner: QLearner) -> Tensor:
    """From the initial weights to these, all in one vector."""
    start = make_learner(learner.config, seed=SEEDS[learner.config.network]).online
    pairs = zip(learner.online.parameters(), start.parameters(), strict=True)
    return torch.cat([(p - q).detach().flatten() for p, q in pairs])


@pytest.mark.parametrize("network", ["mlp", "minatar", "nature"])
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize(
    ("option", "tolerance", "straying"),
    [
        pytest.param({"fused_optimizer": True}, ROUNDING, 1e-3, id="fused"),
        pytest.param({"memory_format": "channels_last"}, ROUNDING, 1e-3, id="channels_last"),
        # Adam and RMSProp divide by a gradient's size: where it is rounding alone, whole steps go
        # another way. Those weights matter least.
        pytest.param({"autocast": "bfloat16"}, BFLOAT16, 0.25, id="bfloat16"),
        pytest.param(
            {"autocast": "bfloat16", "memory_format": "channels_last"},
            BFLOAT16,
            0.25,
            id="bfloat16, channels_last",
        ),
    ],
)
def test_an_option_finds_and_learns_what_eager_float32_does(
    network: str, optimizer: str, option: dict[str, Any], tolerance: float, straying: float
) -> None:
    eager, expected = trained(config_of(network, optimizer=optimizer))
    faster, found = trained(config_of(network, optimizer=optimizer, **option))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert (way(faster) - way(eager)).norm() < straying * way(eager).norm()


@pytest.mark.parametrize("network", ["mlp", "minatar", "nature"])
@pytest.mark.parametrize("double", [True, False])
def test_with_autocast_gradients_reach_every_weight(network: str, double: bool) -> None:
    """The selector's forward casts the same weights as the one that is differentiated, but without
    gradients: the cast ones must not be shared."""
    gradients = []
    for autocast in ("off", "bfloat16"):
        learner, _ = trained(config_of(network, double=double, autocast=autocast), updates=1)
        gradients.append([p.grad for p in learner.online.parameters()])
    for exact, rounded in zip(*gradients, strict=True):
        assert exact is not None
        assert rounded is not None
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("network", ["mlp", "minatar", "nature"])
def test_with_autocast_large_q_values_are_as_exact_as_small_ones(network: str) -> None:
    """bfloat16 knows 20 and 20.125, and nothing between; what comes out must."""
    config = config_of(network)
    learner = make_learner(config)
    with torch.no_grad():
        for name, bias in learner.online.named_parameters():
            if name in ("value.bias", "head.bias"):
                bias[0] += 20.0  # The state's value, in either kind of network.
        obs = make_batch(config, 0).frames[:, : config.frame_stack]
        obs = obs if config.frame_stack > 1 else obs[:, 0]
        exact = learner.online(obs)
        with torch.autocast("cpu", torch.bfloat16):
            found = learner.online(obs)
    assert found.dtype == torch.float32
    assert exact.mean() > 19.0
    assert (found - exact).abs().max() < 0.01


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_the_next_stack_begins_at_the_shift(shift: int) -> None:
    """Stacks of 3 out of 5 rows, numbered 10 i + row for transition i."""
    frames = torch.tensor([[[10 * i + row] for row in range(5)] for i in range(2)])
    obs, next_obs = stacks(frames, torch.tensor([shift if shift < 3 else 2, 0]), 3)
    first = min(shift, 2)
    assert obs.flatten(1).tolist() == [[0, 1, 2], [10, 11, 12]]
    assert next_obs.flatten(1).tolist() == [[first, first + 1, first + 2], [10, 11, 12]]


# ----------------------------------------------------------------------------------------- resuming


def saved(learner: QLearner, directory: Path) -> Path:
    state = RunState("run", updates=learner.updates)
    return save_checkpoint(directory, learner, state, SPECS[learner.config.network], keep=1)


def assert_same(one: QLearner, other: QLearner) -> None:
    for a, b in ((one.online, other.online), (one.target, other.target)):
        for name, tensor in a.state_dict().items():
            assert torch.equal(tensor, b.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_resumed_learner_goes_on_exactly_as_the_saved_one(
    tmp_path: Path, optimizer: str, fused: bool, memory_format: str
) -> None:
    config = config_of(
        "nature", optimizer=optimizer, fused_optimizer=fused, memory_format=memory_format
    )
    learner, _ = trained(config, updates=3)
    resumed = make_learner(config, seed=9)
    restore_learner(saved(learner, tmp_path), resumed)
    for number in range(3, 6):
        learner.update(make_batch(config, number))
        resumed.update(make_batch(config, number))
    assert_same(learner, resumed)


def test_a_checkpoint_can_be_resumed_with_other_options(tmp_path: Path) -> None:
    before, after = config_of("nature"), config_of("nature", memory_format="channels_last")
    learner, _ = trained(before, updates=3)
    resumed = make_learner(after, seed=9)
    restore_learner(saved(learner, tmp_path), resumed)
    batch = make_batch(before, 3)
    learner.update(batch)
    resumed.update(batch)
    for one, other in zip(learner.online.parameters(), resumed.online.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=ROUNDING, atol=1e-6)


# ------------------------------------------------------------------------------------ torch.compile


def test_compiled_updates_are_eager_ones_and_compile_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RMSProp, whose step is compiled too."""
    eager, expected = trained(config_of("mlp", optimizer="rmsprop"), updates=5)
    config = config_of("mlp", optimizer="rmsprop", compile_update=True)
    learner, found = trained(config, updates=2)
    path = saved(learner, tmp_path)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for number in range(2, 5):
            priority, loss, mean_q = learner.update(make_batch(config, number)).read()
            found.append(np.append(priority, [loss, mean_q]))
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING)
    assert (way(learner) - way(eager)).norm() < 1e-3 * way(eager).norm()
    assert [r for r in caplog.records if r.name == "learner.compilation"] == []

    resumed = make_learner(config, seed=9)
    restore_learner(path, resumed)
    for number in range(2, 5):
        resumed.update(make_batch(config, number))
    assert_same(learner, resumed)


def test_without_a_compiler_updates_run_as_they_are_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiled(*_: Any, **__: Any) -> Any:
        def fails(*_: Any) -> Any:
            raise RuntimeError("No working C++ compiler found\nin any of these places: …")

        return fails

    _, expected = trained(config_of("mlp"))
    monkeypatch.setattr(torch, "compile", compiled)
    with caplog.at_level(logging.WARNING):
        _, found = trained(config_of("mlp", compile_update=True))
    np.testing.assert_array_equal(found, expected)
    assert caplog.messages == [
        "the loss runs uncompiled, because compiling it failed: No working C++ compiler found"
    ]


@pytest.mark.skipif(
    not hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"),
    reason="this PyTorch compiles gradients when they are asked for",
)
def test_where_only_gradients_cannot_be_compiled_a_function_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generate = GraphLowering.codegen

    def codegen(graph: GraphLowering) -> Any:
        if graph.is_backward:
            raise RuntimeError("out of resource: shared memory")
        return generate(graph)

    monkeypatch.setattr(GraphLowering, "codegen", codegen)
    square = Compiled(lambda x: (x * x).sum(), "the square")
    x = torch.tensor([3.0], requires_grad=True)
    # What another run has compiled would do.
    with (
        torch._inductor.config.patch(fx_graph_cache=False),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        square(x).backward()
    assert x.grad == 6.0
    (told,) = (r.getMessage() for r in caplog.records if r.name == "learner.compilation")
    assert told.startswith("the square runs uncompiled, because compiling it failed: ")


# -------------------------------------------------------------------------------------- CUDA graphs


class Tape:
    """A recorder for the CPU. Like a CUDA graph, it reads its inputs where they were when it was
    recorded, and leaves its result in one place."""

    def __init__(self) -> None:
        self.warmed_up = self.recorded = 0

    def warm_up(self, step: Step, *inputs: Tensor) -> Tensor:
        self.warmed_up += 1
        return step(*inputs)

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.recorded += 1
        result = torch.full((1,), torch.nan)

        def replay() -> None:
            found = work()
            result.resize_(found.shape).copy_(found)

        return replay, result


def test_a_recorded_step_gives_what_the_step_itself_does() -> None:
    """The target network is copied behind a replay's back, and batches lie somewhere else each
    time and are overwritten afterwards."""
    config = config_of("mlp")
    eager, expected = trained(config, updates=12)
    learner, tape, found = make_learner(config), Tape(), []
    learner._run = GraphedStep(learner._step, tape)
    for number in range(12):
        batch = make_batch(config, number)
        result = learner.update(batch)
        for tensor in (batch.frames, batch.n_step_return, batch.weight):
            tensor.fill_(torch.nan)
        priority, loss, mean_q = result.read()
        found.append(np.append(priority, [loss, mean_q]))
    np.testing.assert_array_equal(found, expected)
    assert_same(learner, eager)
    assert (tape.warmed_up, tape.recorded) == (WARM_UP, 1)


def test_a_step_that_was_forgotten_is_recorded_anew() -> None:
    tape = Tape()
    step = GraphedStep(lambda x: 2 * x, tape)
    for number in range(WARM_UP + 2):
        assert step(torch.tensor([float(number)])).item() == 2 * number
    step.forget()
    for number in range(WARM_UP + 2):
        assert step(torch.tensor([float(number)])).item() == 2 * number
    assert (tape.warmed_up, tape.recorded) == (2 * WARM_UP, 2)


def test_an_update_is_recorded_anew_once_its_moments_were_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = Tape()
    monkeypatch.setattr("learner.update.CudaRecorder", lambda _: tape)
    config = config_of("mlp", optimizer="rmsprop", cuda_graph=True)
    learner, _ = trained(config, updates=WARM_UP + 1)
    assert (tape.warmed_up, tape.recorded) == (WARM_UP, 1)
    restore_learner(saved(learner, tmp_path), learner)
    for number in range(WARM_UP + 1):
        learner.update(make_batch(config, number))
    assert (tape.warmed_up, tape.recorded) == (2 * WARM_UP, 2)
