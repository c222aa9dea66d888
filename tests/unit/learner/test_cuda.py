"""The same on a GPU: options against eager float32 on the CPU; streams, events and buffers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from common.config import Config
from common.manifest import Manifest
from learner.checkpoint import RunState, restore_learner, save_checkpoint
from learner.cuda_graph import WARM_UP
from learner.host_batch import HostBatch
from learner.transfer import Transfer
from learner.update import QLearner
from tests.networks import viewing
from tests.updates import SPECS, make_batch, make_config, make_learner

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    # An error within the compiler would have the function run uncompiled.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]

UPDATES = WARM_UP + 5
CONVOLUTIONS = 5e-3
"""cuDNN's convolutions of float32 are TF32's: products of 11 bits."""
HALF = 2e-2
SEED = 2
"""Of first weights with which no two actions are so nearly worth the same that rounding has double
Q-learning choose the other: with 0, TF32 and float16 do so for `minatar` under RMSProp."""


@pytest.fixture(autouse=True)
def float32_products() -> Iterator[None]:
    """Matrices at least are multiplied in float32, whatever this process did before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(autouse=True)
def compiled_where_it_says_so(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What another test compiled counts towards no limit, and nothing runs uncompiled instead."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    assert "runs uncompiled" not in caplog.text


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device raises."""
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def config_of(network: str, **changes: Any) -> Config:
    values = {"autocast": "off", "learning_rate": 1e-4, "target_update_period": 4, **changes}
    return make_config(network, batch_size=16, **values)


def findings_of(learner: QLearner, numbers: range) -> list[npt.NDArray[Any]]:
    """|δ|, loss and mean Q-value of each update; read as the loop does, one update late."""
    results = []
    for number in numbers:
        results.append(learner.update(make_batch(learner.config, number, "cuda")))
        if len(results) > 1:
            results[-2].read()
    return [np.append(r.read()[0], r.read()[1:]) for r in results]


OPTIONS: list[tuple[dict[str, Any], float]] = [
    ({}, CONVOLUTIONS),
    ({"fused_optimizer": False}, CONVOLUTIONS),
    ({"memory_format": "contiguous"}, CONVOLUTIONS),
    ({"optimizer": "rmsprop"}, CONVOLUTIONS),
    ({"autocast": "bfloat16"}, HALF),
    ({"autocast": "float16"}, HALF),
    ({"autocast": "float16", "optimizer": "rmsprop", "max_grad_norm": None}, HALF),
    ({"cuda_graph": True}, CONVOLUTIONS),
    ({"cuda_graph": True, "optimizer": "rmsprop"}, CONVOLUTIONS),
    ({"cuda_graph": True, "fused_optimizer": False}, CONVOLUTIONS),
    ({"cuda_graph": True, "autocast": "bfloat16"}, HALF),
    ({"compile_update": True}, CONVOLUTIONS),
    ({"compile_update": True, "cuda_graph": True, "optimizer": "rmsprop"}, CONVOLUTIONS),
    ({"compile_update": True, "cuda_graph": True, "autocast": "bfloat16"}, HALF),
]


@pytest.mark.parametrize("network", ["mlp", "minatar", "nature"])
@pytest.mark.parametrize(("option", "tolerance"), OPTIONS, ids=str)
def test_an_option_finds_what_eager_float32_on_the_cpu_does(
    network: str, option: dict[str, Any], tolerance: float
) -> None:
    plain = {k: v for k, v in option.items() if k in ("optimizer", "max_grad_norm")}
    config = config_of(network, **plain, memory_format="contiguous")
    reference = make_learner(config, seed=SEED)
    expected = []
    for number in range(UPDATES):
        priority, loss, mean_q = reference.update(make_batch(config, number)).read()
        expected.append(np.append(priority, [loss, mean_q]))
    learner = make_learner(config_of(network, **option), "cuda", seed=SEED)
    found = findings_of(learner, range(UPDATES))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_a_network_of_the_users_may_view_what_its_convolutions_give() -> None:
    config = config_of("nature")
    spec = SPECS["nature"]
    network = viewing((config.frame_stack, *spec.obs_shape), spec.num_actions)
    learner = QLearner(network, config, torch.device("cuda"))
    assert np.isfinite(findings_of(learner, range(2))).all()


@pytest.mark.parametrize(
    "option", [{}, {"optimizer": "rmsprop"}, {"autocast": "bfloat16"}], ids=str
)
def test_a_graph_is_the_same_as_its_kernels_one_by_one(option: dict[str, Any]) -> None:
    one, other = (
        make_learner(config_of("mlp", cuda_graph=graph, **option), "cuda")
        for graph in (False, True)
    )
    expected, found = (findings_of(learner, range(UPDATES)) for learner in (one, other))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("option", [option for option, _ in OPTIONS], ids=str)
def test_a_resumed_learner_goes_on_as_the_saved_one(tmp_path: Path, option: dict[str, Any]) -> None:
    """Resumed twice: into a learner that did nothing yet, and into one whose graph is recorded."""
    config = config_of("minatar", **option)
    learner = make_learner(config, "cuda")
    findings_of(learner, range(UPDATES))
    state = RunState("run", updates=learner.updates)
    path = save_checkpoint(tmp_path, learner, state, SPECS["minatar"], keep=1)
    expected = findings_of(learner, range(UPDATES, 2 * UPDATES))
    for updates_before in (0, UPDATES):
        resumed = make_learner(config, "cuda", seed=9)
        findings_of(resumed, range(updates_before))
        restore_learner(path, resumed)
        found = findings_of(resumed, range(UPDATES, 2 * UPDATES))
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "option", [o for o, _ in OPTIONS if o.get("autocast") != "float16"], ids=str
)
def test_an_update_never_waits_for_the_device(option: dict[str, Any]) -> None:
    learner = make_learner(config_of("minatar", **option), "cuda")
    batches = [make_batch(learner.config, number, "cuda") for number in range(3)]
    for number in range(WARM_UP + 1):
        learner.update(batches[number % 3]).read()
    with no_waiting():
        results = [learner.update(batch) for batch in batches]
        snapshot = learner.snapshot()
    assert all(np.isfinite(result.read()[0]).all() for result in results)
    assert all(np.isfinite(tensor).all() for tensor in snapshot.tensors().values())


def test_page_locked_buffers_go_round() -> None:
    learner = make_learner(config_of("mlp"), "cuda")
    findings_of(learner, range(20))
    # The update that is under way, and the one that is being read.
    assert len(learner._readback._free) == 2


def test_a_result_that_is_read_late_is_still_its_own_updates() -> None:
    config = config_of("mlp")
    late, soon = make_learner(config, "cuda"), make_learner(config, "cuda")
    results = [late.update(make_batch(config, number, "cuda")) for number in range(6)]
    for number, result in enumerate(results):
        expected = soon.update(make_batch(config, number, "cuda")).read()
        np.testing.assert_array_equal(result.read()[0], expected[0])


def test_a_snapshot_is_of_its_moment_though_updates_go_on() -> None:
    learner = make_learner(config_of("nature", publish_dtype="float16"), "cuda")
    batch = make_batch(learner.config, 0, "cuda")
    snapshots, expected = [], []
    for _ in range(5):
        learner.update(batch)
        expected.append({k: t.clone() for k, t in learner.online.state_dict().items()})
        snapshots.append(learner.snapshot("float16"))
    for snapshot, state in zip(snapshots, expected, strict=True):
        for name, array in snapshot.tensors().items():
            np.testing.assert_array_equal(array, state[name].half().cpu().numpy())


def test_batches_arrive_whole_while_others_are_trained_on() -> None:
    """Each slot's numbers tell when it was filled; the learner's stream is kept busy, so that it
    comes to a batch long after its copy began, and to the next when the copy is barely queued."""
    device = torch.device("cuda")
    config = config_of("nature", prefetch_batches=3)
    hosts = [HostBatch(Manifest("run", config, SPECS["nature"]), device) for _ in range(3)]
    transfer = Transfer(hosts, device)
    busy = torch.randn(2048, 2048, device=device)
    sums: list[tuple[int, torch.Tensor, torch.cuda.Event]] = []
    for number in range(30):
        slot = number % 3
        if number >= 3:
            sums[number - 3][2].synchronize()  # As reading a result does, before `done`.
        hosts[slot].tensors["frames"].fill_(number)
        tensors, copied = transfer.start(slot)
        assert copied is not None
        copied.wait(torch.cuda.current_stream(device))
        busy = torch.tanh(busy @ busy)
        total = tensors["frames"].sum(dtype=torch.int64)
        used = torch.cuda.Event()  # type: ignore[no-untyped-call]
        used.record()
        sums.append((number * tensors["frames"].numel(), total, used))
    transfer.finish()
    assert [int(total) for _, total, _ in sums] == [expected for expected, _, _ in sums]
