"""Convolutional Q-networks against loops over pixels, for every shape that an image can have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

from common.config import Config
from common.errors import ConfigError
from common.networks import ConvQNetwork, build_network, network_input_shape
from common.spec import EnvSpec

Image = npt.NDArray[np.float64]
SMALL = ((3, 3, 2), (4, 2, 1))
"""Convolutions (channels, kernel, stride) that loops can bear."""
KINDS: Sequence[tuple[tuple[int, ...], bool]] = [
    # shape of what is seen at once, and whether it is a stack
    ((9, 8), False),
    ((9, 8, 1), False),
    ((9, 8, 3), False),
    ((4, 9, 8), True),
    ((2, 9, 8, 3), True),
]


def parameters(network: nn.Module) -> dict[str, Image]:
    return {name: p.detach().double().numpy() for name, p in network.named_parameters()}


def as_channels(seen: npt.NDArray[Any], stacked: bool, colours: bool) -> Image:
    """[channels, H, W]: for each colour the pictures of the stack, oldest first."""
    pictures = seen if stacked else seen[None]
    planes = pictures[..., None] if not colours else pictures
    scale = 255.0 if seen.dtype == np.uint8 else 1.0
    return np.array(
        [picture[:, :, c] / scale for c in range(planes.shape[-1]) for picture in planes]
    )


def convolve(image: Image, weight: Image, bias: Image, stride: int) -> Image:
    """The definition, one output pixel after the other; then max(0, ·)."""
    channels, _, kernel, _ = weight.shape
    height, width = ((size - kernel) // stride + 1 for size in image.shape[1:])
    out = np.zeros((channels, height, width))
    for o, y, x in np.ndindex(out.shape):
        top, left = y * stride, x * stride
        patch = image[:, top : top + kernel, left : left + kernel]
        out[o, y, x] = max(0.0, float((patch * weight[o]).sum() + bias[o]))
    return out


def slow_q_values(p: dict[str, Image], image: Image, strides: Sequence[int], dueling: bool) -> Any:
    for i, stride in enumerate(strides):
        image = convolve(image, p[f"torso.{2 * i}.weight"], p[f"torso.{2 * i}.bias"], stride)
    hidden = np.maximum(0.0, p["hidden.weight"] @ image.ravel() + p["hidden.bias"])
    if not dueling:
        return p["advantage.weight"] @ hidden + p["advantage.bias"]
    own_hidden = len(hidden) == 2 * p["advantage.weight"].shape[1]
    for_value, for_advantage = np.split(hidden, 2) if own_hidden else (hidden, hidden)
    value = p["value.weight"] @ for_value + p["value.bias"]
    advantage = p["advantage.weight"] @ for_advantage + p["advantage.bias"]
    return value + advantage - advantage.mean()


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("dtype", ["|u1", "|b1", "<f4"])
@pytest.mark.parametrize(("shape", "stacked"), KINDS)
def test_a_small_network_is_the_loops_over_its_pixels(
    shape: tuple[int, ...], stacked: bool, dtype: str, dueling: bool
) -> None:
    torch.manual_seed(0)
    network = ConvQNetwork(shape, stacked, 5, SMALL, hidden_size=6, dueling=dueling)
    numbers = np.random.default_rng(0).integers(0, 2 if dtype == "|b1" else 256, (3, *shape))
    seen = numbers.astype(dtype)
    colours = len(shape) - stacked == 3
    strides = [stride for _, _, stride in SMALL]
    expected = [
        slow_q_values(parameters(network), as_channels(s, stacked, colours), strides, dueling)
        for s in seen
    ]
    with torch.no_grad():
        found = network(torch.from_numpy(seen))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frame_stack", [1, 2])
@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4)])
def test_the_network_of_minatar_is_the_loops_over_its_pixels(
    shape: tuple[int, ...], frame_stack: int
) -> None:
    config = Config(network="minatar", frame_stack=frame_stack)
    spec = EnvSpec(shape, "|b1", 6)
    torch.manual_seed(1)
    network = build_network(config, spec)
    seen = np.random.default_rng(1).random((2, *network_input_shape(config, spec))) < 0.2
    images = [as_channels(s, frame_stack > 1, len(shape) == 3) for s in seen]
    expected = [slow_q_values(parameters(network), image, [1], dueling=True) for image in images]
    with torch.no_grad():
        found = network(torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize(
    ("shape", "frame_stack"),
    [((84, 84), 4), ((84, 84), 1), ((84, 84, 3), 1), ((84, 84, 3), 2), ((210, 160, 3), 1)],
)
def test_the_network_of_nature_is_matrix_products_of_patches(
    shape: tuple[int, ...], frame_stack: int, dueling: bool
) -> None:
    """Each convolution as one matrix times the patches of the image, in float64."""
    config = Config(network="nature", frame_stack=frame_stack, dueling=dueling)
    spec = EnvSpec(shape, "|u1", 4)
    torch.manual_seed(2)
    network = build_network(config, spec)
    seen = np.random.default_rng(2).integers(
        0, 256, (2, *network_input_shape(config, spec)), np.uint8
    )
    images = [as_channels(s, frame_stack > 1, len(shape) == 3) for s in seen]
    p = parameters(network)
    x = torch.from_numpy(np.stack(images))
    for i, (kernel, stride) in enumerate([(8, 4), (4, 2), (3, 1)]):
        height, width = ((size - kernel) // stride + 1 for size in x.shape[2:])
        weight = torch.from_numpy(p[f"torso.{2 * i}.weight"]).flatten(1)
        bias = torch.from_numpy(p[f"torso.{2 * i}.bias"])[:, None]
        patches = unfold(x, kernel, stride=stride)
        x = (weight @ patches + bias).clamp(min=0).unflatten(2, (height, width))
    expected = [slow_q_values(p, image.numpy(), [], dueling) for image in x]
    with torch.no_grad():
        found = network(torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "shape", "frame_stack", "dueling", "actions", "count"),
    [
        # 8·8·4·32 + 32, 4·4·32·64 + 64, 3·3·64·64 + 64; 84 → 20 → 9 → 7: 7·7·64 = 3136;
        # 3136·512 + 512; 512·4 + 4. (The well-known 1,686,180 of Mnih et al. 2015.)
        ("nature", (84, 84), 4, False, 4, 8_224 + 32_832 + 36_928 + 1_606_144 + 2_052),
        # Two hidden layers, and a value beside the advantages: 512 + 1 more.
        ("nature", (84, 84), 4, True, 4, 8_224 + 32_832 + 36_928 + 2 * 1_606_144 + 2_052 + 513),
        # One picture of three colours: 8·8·3·32 + 32.
        ("nature", (84, 84, 3), 1, False, 4, 6_176 + 32_832 + 36_928 + 1_606_144 + 2_052),
        # Two of them: 8·8·6·32 + 32.
        ("nature", (84, 84, 3), 2, False, 4, 12_320 + 32_832 + 36_928 + 1_606_144 + 2_052),
        # 3·3·4·16 + 16; 10 → 8: 8·8·16 = 1024; 1024·128 + 128; 128·6 + 6.
        ("minatar", (10, 10, 4), 1, False, 6, 592 + 131_200 + 774),
        ("minatar", (10, 10, 4), 1, True, 6, 592 + 131_200 + 774 + 129),
        # A stack of two has twice the channels.
        ("minatar", (10, 10, 4), 2, False, 6, 3 * 3 * 8 * 16 + 16 + 131_200 + 774),
    ],
)
def test_parameters_counted_by_hand(
    network: str,
    shape: tuple[int, ...],
    frame_stack: int,
    dueling: bool,
    actions: int,
    count: int,
) -> None:
    config = Config(network=network, frame_stack=frame_stack, dueling=dueling)
    built = build_network(config, EnvSpec(shape, "|u1", actions))
    assert sum(p.numel() for p in built.parameters()) == count


def test_a_pixel_of_255_is_one_and_a_number_of_another_dtype_is_itself() -> None:
    network = ConvQNetwork((3, 3), False, 2, ((1, 3, 1),), hidden_size=2, dueling=False)
    white = torch.full((1, 3, 3), 255, dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(network(white), network(torch.ones(1, 3, 3)))
        assert torch.equal(network(torch.ones(1, 3, 3, dtype=torch.bool)), network(white))
        assert not torch.equal(network(white), network(white.float()))


@pytest.mark.parametrize(
    ("network", "shape", "line"),
    [
        ("nature", (4,), "takes images [height, width] or [height, width, channels], not"),
        ("nature", (4,), "observations of shape (4,): choose mlp"),
        ("minatar", (), "not observations of shape (): choose mlp"),
        ("minatar", (2, 10, 10, 4), "not observations of shape (2, 10, 10, 4): choose mlp"),
        # 36 is the least: 36 → 8 → 3 → 1.
        ("nature", (35, 84), "images of 35×84 pixels are too small for it: choose minatar or mlp"),
        ("nature", (84, 35, 3), "images of 84×35 pixels are too small for it"),
        ("nature", (10, 10, 4), "or enlarge them with resize"),
        # Colours first: height and width are taken to be 3 and 84.
        ("nature", (3, 84, 84), "images of 3×84 pixels are too small for it"),
        ("minatar", (2, 10), "images of 2×10 pixels are too small for it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("frame_stack", [1, 4])
def test_what_is_no_image_or_too_small_is_refused(
    network: str, shape: tuple[int, ...], line: str, frame_stack: int
) -> None:
    with pytest.raises(ConfigError) as refused:
        build_network(Config(network=network, frame_stack=frame_stack), EnvSpec(shape, "|u1", 3))
    assert str(refused.value).startswith(f"network = '{network}'")
    assert line in str(refused.value)


@pytest.mark.parametrize(("network", "size"), [("nature", 36), ("minatar", 3)])
def test_the_smallest_images_are_taken(network: str, size: int) -> None:
    spec = EnvSpec((size, size), "|u1", 3)
    built = build_network(Config(network=network), spec)
    assert built(torch.zeros(2, size, size, dtype=torch.uint8)).shape == (2, 3)


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_networks_of_vectors_and_of_ones_own_see_the_stack_first(frame_stack: int) -> None:
    config = Config(hidden_sizes=(8,), frame_stack=frame_stack)
    shape = network_input_shape(config, EnvSpec((5,), "<f4", 2))
    assert shape == ((5,) if frame_stack == 1 else (3, 5))
    built = build_network(config, EnvSpec((5,), "<f4", 2))
    assert built(torch.zeros(4, *shape)).shape == (4, 2)
    own = config.model_copy(update={"network": f"{__name__}:tells_its_shape"})
    network = build_network(own, EnvSpec((5,), "<f4", 2))
    assert isinstance(network, _Flat)
    assert network.obs_shape == shape


class _Flat(nn.Module):
    def __init__(self, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        self.obs_shape = obs_shape
        self._linear = nn.Linear(int(np.prod(obs_shape)), num_actions)

    def forward(self, obs: torch.Tensor) -> Any:
        return self._linear(obs.flatten(1))


def tells_its_shape(obs_shape: tuple[int, ...], num_actions: int) -> nn.Module:
    return _Flat(obs_shape, num_actions)
