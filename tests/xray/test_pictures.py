"""The pictures' numbers against what theory says of small networks, and against brute force."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecv import models
from edgecv.xray import from_torch
from edgecv.xray.grid import Grid, grid
from edgecv.xray.pictures import attention, features, field, gradients, growth, kernels, places, spectrum
from edgecv.xray.pictures.attention import Patches
from edgecv.xray.pictures.field import Box
from edgecv.xray.pictures.subject import Absent, Photo, Subject

SIZE = (64, 64)


def subject_of(name: str, size: tuple[int, int] = SIZE, photo: Photo | None = None) -> Subject:
    network = models.create(name, classes=10, seed=0).eval()
    return Subject(from_torch.read(network, (3, *size), name=name), network=network, photo=photo)


def chain(depth: int, **options) -> nn.Sequential:
    """3x3 convolutions with equal weights that keep the size and the mean."""
    layers = [nn.Conv2d(1, 1, 3, padding=1, bias=False, **options) for _ in range(depth)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1 / 9)
    return nn.Sequential(*layers)


# Where to look


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1, 64, 56, 56), (224, 224), Grid("channels first", 56, 56)),
        ((1, 56, 56, 96), (224, 224), Grid("channels last", 56, 56)),
        ((1, 197, 192), (224, 224), Grid("tokens", 14, 14, 1)),
        ((1, 196, 192), (224, 224), Grid("tokens", 14, 14, 0)),
        ((1, 1 + 8 * 20, 192), (128, 320), Grid("tokens", 8, 20, 1)),
        ((1, 24, 19, 25), (300, 400), Grid("channels first", 19, 25)),
        ((1, 64, 1, 1), (224, 224), None),
        ((1, 1000), (224, 224), None),
        ((64, 49, 96), (224, 224), Grid("tokens", 7, 7, 0)),
    ],
)
def test_how_a_tensor_lies_over_the_picture(shape, size, expected):
    assert grid(shape, size) == expected


def test_maps_put_every_place_where_it_belongs():
    picture = torch.arange(2 * 3 * 4 * 8.0).reshape(2, 3, 4, 8)
    layouts = {
        Grid("channels first", 4, 8): picture,
        Grid("channels last", 4, 8): picture.permute(0, 2, 3, 1),
        Grid("tokens", 4, 8, 1): torch.cat([torch.zeros(2, 1, 3), picture.flatten(2).transpose(1, 2)], 1),
    }
    for place, output in layouts.items():
        assert torch.equal(places.maps(output, place), picture)
        index = [0 if each is None else each for each in place.centre()]
        assert output[tuple(index)] == picture[0, 0, 2, 4]


@pytest.mark.parametrize("name", ["lenet5", "mobilenet_v1", "resnet18", "convnext_atto", "swin_t", "vit_tiny"])
def test_stops_are_modules_that_give_what_the_graph_says(name):
    size = models.spec(name).size
    network = models.create(name, seed=0).eval()
    graph = from_torch.read(network, (3, *size), name=name)
    found = places.stops(graph, network, size)
    assert 2 <= len(found) <= places.SHOWN
    with torch.inference_mode(), places.watched(network, [stop.name for stop in found]) as outputs:
        network(torch.zeros(1, 3, *size))
    for stop in found:
        assert tuple(outputs[stop.name].shape) == graph.tensors[stop.tensor].shape
    assert not any(module._forward_hooks for module in network.modules())


# Receptive fields


def test_equal_weights_give_a_gaussian_of_known_variance():
    depth = 12
    network = chain(depth)
    graph = from_torch.read(network, (1, 65, 65))
    (last,) = [stop for stop in places.stops(graph, network, (65, 65)) if stop.name == str(depth - 1)]
    ((_, gradient),) = field.effective(network, [last], torch.randn(2, 1, 65, 65))
    exact = np.ones(1)
    for _ in range(depth):
        exact = np.convolve(exact, np.ones(3) / 3)  # the sum of 12 steps of -1, 0 or 1
    wanted = np.zeros(65)
    wanted[32 - depth : 32 + depth + 1] = exact
    np.testing.assert_allclose(gradient, np.outer(wanted, wanted), atol=1e-6)
    offsets = np.arange(65) - 32
    assert (gradient.sum(0) * offsets**2).sum() == pytest.approx(depth * 2 / 3, rel=1e-4)  # n (k^2 - 1) / 12
    assert field.theoretical(graph, last) == Box(32 - depth, 32 - depth, 32 + depth, 32 + depth)


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "mobilenet_v2", "convnext_atto"])
def test_the_effective_field_lies_inside_the_theoretical_one(name):
    size = models.spec(name).size if name == "lenet5" else SIZE
    subject = subject_of(name, size)
    inputs = places.noise(2, 3, size)
    found = places.stops(subject.graph, subject.network, size)
    measured = field.effective(field.settled(subject.network, inputs), found, inputs)
    assert [stop for stop, _ in measured] == found
    for stop, gradient in measured:
        box = field.theoretical(subject.graph, stop)
        seen = np.argwhere(gradient > 0)
        assert len(seen)
        (top, left), (bottom, right) = seen.min(0), seen.max(0)
        assert top >= box.top, stop
        assert left >= box.left, stop
        assert bottom <= box.bottom, stop
        assert right <= box.right, stop
        square = field.square(gradient, box)
        rows = slice(max(0, math.ceil(square.top)), math.floor(square.bottom) + 1)
        columns = slice(max(0, math.ceil(square.left)), math.floor(square.right) + 1)
        assert gradient[rows, columns].sum() >= field.SHARE * gradient.sum() * 0.999


def test_the_square_holds_the_share_and_no_smaller_one_does():
    gradient = np.random.default_rng(0).random((21, 21)).astype(np.float32)
    around = Box(0, 0, 20, 20)
    found = field.square(gradient, around, 0.5)
    reach = int(found.bottom - 10)
    sums = [gradient[10 - side : 11 + side, 10 - side : 11 + side].sum() / gradient.sum() for side in range(11)]
    assert sums[reach] >= 0.5 > sums[reach - 1]


def test_settling_gives_fresh_norms_the_statistics_of_the_batch():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    inputs = 5 + 3 * places.noise(4, 3, (16, 16))
    with torch.no_grad():
        out = field.settled(network, inputs)(inputs)
    assert out.mean((0, 2, 3)).abs().max() < 0.02
    assert (out.std((0, 2, 3)) - 1).abs().max() < 0.02
    assert float(network[1].running_mean.abs().max()) == 0  # the network itself is as it was


def test_growth_is_the_textbook_recursion():
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, stride=2), nn.MaxPool2d(2), nn.Conv2d(1, 1, 5))
    graph = from_torch.read(network, (1, 64, 64))
    points = growth.growth(Subject(graph, network=network))
    assert [(each.size[0], each.jump[0]) for _, each in points] == [(3, 1), (5, 2), (7, 4), (23, 4)]


# Attention


def brute_force(rows: int, columns: int, pitch: float) -> np.ndarray:
    spots = list(itertools.product(range(rows), range(columns)))
    return np.array([[pitch * math.dist(one, other) for other in spots] for one in spots])


@pytest.mark.parametrize("first", [0, 1])
def test_uniform_attention_looks_at_the_mean_distance(first):
    patches = Patches(3, 5, 16.0, first)
    tokens = 15 + first
    uniform = torch.full((2, 4, tokens, tokens), 1 / tokens)
    np.testing.assert_allclose(attention.mean_distance(uniform, patches), brute_force(3, 5, 16).mean(), rtol=1e-6)


def test_attention_to_one_patch_looks_at_its_distance():
    patches = Patches(4, 4, 8.0)
    itself = torch.eye(16)[None, None]
    opposite = torch.eye(16).flip(1)[None, None]
    both = attention.mean_distance(torch.cat([itself, opposite], 1), patches)
    assert both[0] == 0
    assert both[1] == pytest.approx(np.mean([brute_force(4, 4, 8)[each, 15 - each] for each in range(16)]))


@pytest.mark.parametrize(
    ("name", "heads"), [("vit_tiny", [3] * 12), ("swin_t", [3] * 2 + [6] * 2 + [12] * 6 + [24] * 2)]
)
def test_attention_distance_lies_between_0_and_the_diagonal(name, heads):
    network = models.create(name, classes=10, seed=0).eval()
    found = attention.measure(network, places.noise(1, 3, (224, 224)))
    assert [len(each.heads) for each in found] == heads
    for each in found:
        assert (each.heads >= 0).all()
        assert (each.heads <= math.hypot(224, 224)).all()
        assert 0 < each.uniform < math.hypot(224, 224)
    if name == "vit_tiny":
        assert found[0].uniform == pytest.approx(brute_force(14, 14, 16).mean(), rel=1e-5)
    else:
        windows = [brute_force(7, 7, pitch).mean() for pitch in (4, 8, 16, 32)]
        assert [found[at].uniform for at in (0, 2, 4, 10)] == pytest.approx(windows, rel=1e-5)
        assert found[1].uniform < found[0].uniform  # a shifted window hides what only the shift made neighbours


def test_a_shifted_window_counts_only_what_is_not_masked():
    network = models.create("swin_t", classes=10, seed=0).eval()
    first, shifted = attention.measure(network, places.noise(1, 3, (56, 56)))[:2]
    size = 14
    # Two windows a side of 14 patches, shifted by 3: regions of patches 3..9 | 10..13 | 0..2, in turn.
    region = [0] * 7 + [1] * 4 + [2] * 3
    sums = []
    for rows, columns in itertools.product((range(7), range(7, size)), repeat=2):
        spots = list(itertools.product(rows, columns))
        for one in spots:
            seen = [
                math.dist(one, other)
                for other in spots
                if region[one[0]] == region[other[0]] and region[one[1]] == region[other[1]]
            ]
            sums.append(4 * sum(seen) / len(seen))
    assert shifted.uniform == pytest.approx(np.mean(sums), rel=1e-5)
    assert first.uniform == pytest.approx(brute_force(7, 7, 4).mean(), rel=1e-5)


# Gradients


class Scaled(nn.Module):
    """x -> s x, alone or beside a skip connection."""

    def __init__(self, scale: float, skip: bool) -> None:
        super().__init__()
        self.scale, self.skip = scale, skip

    def forward(self, x: Tensor) -> Tensor:
        branch = (x * self.scale) * 1.0
        return x + branch if self.skip else branch


def linear_chain(scale: float, skip: bool, depth: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *(Scaled(scale, skip) for _ in range(depth)))


def test_the_gradient_of_a_linear_chain_is_a_power():
    inputs = places.noise(2, 1, (4, 4)) * 1e-3  # so small that the loss's own slope hardly changes
    plain = gradients.measure(linear_chain(0.5, skip=False), inputs)
    assert plain.skips == 0
    ratios = np.array(plain.norms[:-1]) / np.array(plain.norms[1:])
    np.testing.assert_allclose(ratios, 0.5, rtol=1e-5)  # dL/dh_l = s dL/dh_(l+1)


def test_cutting_the_skip_connections_leaves_the_branches():
    inputs = places.noise(2, 1, (4, 4)) * 1e-6
    whole, cut = (gradients.measure(linear_chain(0.5, skip=True), inputs, cut=cut) for cut in (False, True))
    assert whole.skips == cut.skips == 10
    np.testing.assert_allclose(np.divide(whole.norms[:-1], whole.norms[1:]), 1.5, rtol=1e-4)
    np.testing.assert_allclose(np.divide(cut.norms[:-1], cut.norms[1:]), 0.5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "skips"),  # by the papers' tables: blocks that keep their shape, two for each transformer block
    [
        ("resnet18", 8),
        ("mobilenet_v2", 10),
        ("mobilenet_v3_small", 6),
        ("vit_tiny", 24),
        ("swin_t", 24),
        ("mobilenet_v1", 0),
    ],
)
def test_skip_connections_are_counted(name, skips):
    network = models.create(name, classes=10, seed=0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = gradients.measure(network, places.noise(2, 3, models.spec(name).size if "vit" in name else (64, 64)))
    assert found.skips == skips
    assert all(math.isfinite(norm) and norm > 0 for norm in found.norms)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_cut_resnet_has_lost_its_shortcuts():
    network = models.create("resnet18", classes=10, seed=0).eval()
    inputs = places.noise(2, 3, (64, 64))
    with torch.inference_mode():
        with gradients.Skips(inputs, cut=True):
            cut = network(inputs)
        for block in [
            block for stage in (network.layer1, network.layer2, network.layer3, network.layer4) for block in stage
        ]:
            block.forward = lambda x, block=block: torch.relu(
                block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
            )
        by_hand = network(inputs)
    torch.testing.assert_close(cut, by_hand)


# Enlarging


def test_transposed_convolution_shows_a_checkerboard_and_upsampling_does_not():
    found = spectrum.spectra()
    ends = {name: values[-1] / values[: len(values) // 4].max() for name, values in found.items()}
    (upsampled,) = [value for name, value in ends.items() if "nearest" in name]
    for name, value in ends.items():
        if "transposed" in name:
            assert value > 100 * upsampled, name


@pytest.mark.parametrize("name", list(spectrum.FORMS))
def test_a_flat_map_stays_flat_only_by_upsampling(name):
    torch.manual_seed(0)
    with torch.inference_mode():
        out = spectrum.FORMS[name]()(torch.ones(1, spectrum.CHANNELS, 32, 32))[:, :, 8:-8, 8:-8]
    spread = float((out.amax((2, 3)) - out.amin((2, 3))).max())
    assert (spread < 1e-6) == ("nearest" in name)
    period = out[:, :, 2:, 2:] - out[:, :, :-2, :-2]
    assert float(period.abs().max()) < 1e-6  # whatever pattern there is repeats every second pixel


def test_power_is_where_the_wave_is():
    columns = torch.arange(128.0)
    wave = torch.sin(2 * torch.pi * columns * 12 / 64).expand(1, 1, 128, 128)
    assert int(spectrum.power(wave).argmax()) == 12  # 12 waves in the inner 64 pixels


# Kernels and maps


def test_kernels_of_the_first_layer():
    network = models.create("resnet18", seed=0)
    assert np.array_equal(kernels.of_network(network, 3, (224, 224)), network.conv1.weight.detach().numpy())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 4, 5))
    found = kernels.of_network(flat, 3, (8, 4))
    assert found.shape == (5, 3, 8, 4)
    assert found[2, 1, 7, 3] == flat[1].weight[2, 8 * 4 + 7 * 4 + 3].item()
    assert kernels.of_network(nn.Sequential(nn.Linear(7, 5)), 3, (8, 4)) is None


def test_tiles_hold_every_kernel_and_clear_gaps():
    pictures = np.random.default_rng(0).random((20, 3, 5, 4)).astype(np.float32)
    mosaic = kernels.tiles(pictures)
    assert mosaic.shape == (2 * 6 - 1, 16 * 5 - 1, 4)
    np.testing.assert_array_equal(mosaic[6:11, 15:19, :3], pictures[19].transpose(1, 2, 0))
    assert mosaic[:, 4].max() == 0
    assert int((mosaic[:, :, 3] == 1).sum()) == 20 * 5 * 4


def test_liveliest_maps_are_those_that_vary():
    maps = np.zeros((9, 4, 4), np.float32)
    for number, scale in ((7, 3.0), (2, 2.0), (4, 1.0)):
        maps[number, 0, 0] = scale
    assert features.liveliest(maps, 3).tolist() == [2, 4, 7]


def test_feature_maps_are_the_network_s_own():
    shown = np.full((64, 64, 3), 128, np.uint8)
    photo = Photo("grey", shown, places.noise(1, 3, SIZE).numpy())
    subject = dataclasses.replace(subject_of("mobilenet_v1", photo=photo), weights="its own")
    stops = places.stops(subject.graph, subject.network, SIZE)
    found = features.of_network(subject, stops)
    with torch.inference_mode():
        assert [stop for stop, _ in found] == stops
        for stop, maps in found:
            layers = subject.network.features[: int(stop.name.split(".")[1]) + 1]
            np.testing.assert_allclose(maps, layers(torch.from_numpy(photo.feed))[0].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("draw", "why"),
    [(attention.draw, "no attention"), (spectrum.draw, "enlarges nothing"), (features.draw, "no photograph")],
)
def test_what_a_network_does_not_have_is_said(draw, why):
    found = draw(subject_of("lenet5", (32, 32)))
    assert isinstance(found, Absent)
    assert why in found.why
    assert "\n" not in found.why
