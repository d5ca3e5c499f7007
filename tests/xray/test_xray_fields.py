"""Receptive fields against autograd: an input pixel belongs to a place's field where its gradient is not zero."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecv import models, xray
from edgecv.models import swin
from edgecv.xray import from_torch, relations


class Pyramid(nn.Module):
    """Branches of different reach, dilation, ceil mode, transposed convolution and both ways of enlarging."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, 2, 1)
        self.far = nn.Conv2d(4, 4, 3, padding=3, dilation=3)
        self.near = nn.Conv2d(4, 4, 1)
        self.pool = nn.AvgPool2d(3, 2, ceil_mode=True)
        self.deep = nn.Conv2d(8, 8, 5, 1, 2, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        small = self.deep(self.pool(torch.cat((self.far(x), self.near(x)), 1)))
        up = self.up(small)
        height, width = (min(side) for side in zip(x.shape[2:], up.shape[2:], strict=True))
        x = x[:, :, :height, :width] + up[:, :, :height, :width]
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return F.interpolate(x[:, :, 1:-2], scale_factor=2, mode="nearest")


class Sound(nn.Module):
    """Causal dilated convolutions over time (van den Oord et al. 2016, figure 3)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(3 if step == 0 else 4, 4, 2, dilation=2**step) for step in range(5))

    def forward(self, x):
        for step, layer in enumerate(self.layers):
            x = layer(F.pad(x, (2**step, 0)))
        return x


class Tokens(nn.Module):
    """Patches with a token before and after them, taken off again, as a sequence."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv1d(3, 4, 5, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.mlp = nn.Linear(4, 4)

    def forward(self, x):
        x = torch.cat((self.token, self.patches(x).transpose(1, 2), self.token), 1)
        return self.mlp(x)[:, 1:-1]


class Shuffled(nn.Module):
    """Sub-pixel convolution (Shi et al. 2016), means over uneven cells, and a narrow strided slice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 16, 3, 2, 1)
        self.cells = nn.AdaptiveAvgPool2d((7, 3))

    def forward(self, x):
        x = nn.functional.pixel_shuffle(self.conv(x), 2)
        return self.cells(x[:, :, 1::2])


class Stage(nn.Module):
    """Two blocks of Swin, plain and shifted, a merging and a third block."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(swin.Block(8, 2, 0, 0.0), swin.Block(8, 2, 3, 0.0), swin.PatchMerging(8))
        self.last = swin.Block(16, 2, 0, 0.0)

    def forward(self, x):
        return self.last(self.blocks(self.patches(x).permute(0, 2, 3, 1)))


def measured(network, shape, axis, places_axis):
    """Pixels of one input axis with a gradient from each place of the output: [(first, last), ...]."""
    x = torch.rand(1, *shape, dtype=torch.float64, requires_grad=True)
    output = network(x)
    weighted = output * torch.rand_like(output)
    found = []
    for place in range(output.shape[places_axis]):
        (gradient,) = torch.autograd.grad(weighted.select(places_axis, place).sum(), x, retain_graph=True)
        strength = gradient.abs().amax([each for each in range(x.dim()) if each != axis])
        pixels = (strength > 1e-30 * strength.max()).nonzero().flatten()  # Swin's mask leaves exp(-100)
        found.append((int(pixels.min()), int(pixels.max())))
    return found


def predicted(graph, axis):
    """The same from the graph, cut to the picture."""
    extent = xray.extents(graph, axis)[graph.outputs[0]]
    length = graph.tensors[graph.inputs[0]].shape[axis]
    low, high = (np.clip(each, 0, length - 1).reshape(-1).astype(int) for each in (extent.low, extent.high))
    return list(zip(low.tolist(), high.tolist(), strict=True))


@pytest.mark.parametrize(
    ("network", "shape", "places_axis"),
    [
        (Pyramid, (2, 61, 20), 2),
        (Pyramid, (2, 96, 16), 2),
        (Sound, (3, 70), 2),
        (Tokens, (3, 50), 1),
        (Shuffled, (2, 40, 12), 2),
        (Stage, (3, 112, 56), 1),
        (Stage, (3, 100, 28), 1),
    ],
)
def test_every_place_sees_what_autograd_says(network, shape, places_axis):
    torch.manual_seed(0)
    network = network().double().eval()
    for parameter in network.parameters():
        parameter.data.uniform_(0.1, 1.0)
    graph = from_torch.read(network, shape)
    assert predicted(graph, 2) == measured(network, shape, 2, places_axis)


@pytest.mark.parametrize(("name", "height"), [("resnet18", 480), ("mobilenet_v2", 544), ("efficientnet_lite0", 960)])
def test_fields_of_whole_networks(name, height):
    """The middle place of the last map sees exactly as many pixels as the table says."""
    network = linearized(models.create(name, seed=0))
    table = xray.table(from_torch.read(network, (3, height, 32)))
    last = [row for row in table.rows if row.macs and max(row.field.jump) > 0][-1]
    caught = {}
    module = dict(network.named_modules())[last.name]
    module.register_forward_hook(lambda _module, _inputs, output: caught.update(output=output))
    x = torch.rand(1, 3, height, 32, dtype=torch.float64, requires_grad=True)
    network(x)
    middle = caught["output"].shape[2] // 2
    (gradient,) = torch.autograd.grad(caught["output"][:, :, middle].sum(), x)
    pixels = gradient.abs().amax((0, 1, 3)).nonzero().flatten()
    assert int(pixels.max() - pixels.min()) + 1 == last.field.size[0]
    centre = last.field.centre[0] + middle * last.field.jump[0]
    assert (int(pixels.max()) + int(pixels.min())) / 2 == centre


def linearized(network):
    """Positive weights, activations that pass everything, means for maxima: no gradient vanishes by chance."""
    network = network.double().eval()
    for name, module in list(network.named_modules()):
        parent = network.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.ReLU | nn.ReLU6):
            setattr(parent, name.rpartition(".")[2], nn.Identity())
        elif isinstance(module, nn.MaxPool2d):
            setattr(parent, name.rpartition(".")[2], nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
        elif isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    return network


def test_published_fields():
    # Araujo, Norris and Sim 2019, "Computing receptive fields": AlexNet 195, VGG-16 212, MobileNet v1 315.
    published = {"alexnet": 195, "vgg16": 212, "mobilenet_v1": 315}
    for name, size in published.items():
        assert xray.cost(name).field.size == (size, size)
        assert not xray.cost(name).field.whole


def test_the_graph_agrees_with_the_formula():
    graph = xray.zoo("vgg16")
    rows = [row for row in xray.table(graph).rows if row.kernel]
    for count in range(1, len(rows) + 1):
        windows = [
            relations.Window(row.kernel[0], row.stride[0], row.padding[0], row.dilation[0]) for row in rows[:count]
        ]
        field = rows[count - 1].field
        assert (field.size[0], field.jump[0], field.centre[0]) == relations.receptive_field(windows)


def test_gates_and_attention_see_everything():
    rows = xray.table(xray.zoo("mobilenet_v3_small")).rows
    gate = next(index for index, row in enumerate(rows) if row.kind == "multiply")
    assert not any(row.field.whole for row in rows[:3])
    assert all(row.field.whole for row in rows[gate:])
    assert rows[gate].field.size == (7, 7)  # what the windows alone see
    assert xray.table(xray.zoo("vit_tiny")).total.field.whole
    assert xray.table(xray.zoo("mlp")).total.field.size == (28, 28)
