"""Memory, what-if rows and the summary of the zoo, by hand-made cases."""

import pytest
import torch
from torch import nn

from edgecv import models, xray
from edgecv.xray import costs, from_torch
from edgecv.xray.console import cells
from edgecv.xray.groups import Group
from edgecv_runtime.errors import BadInput, ShapeError


class Residual(nn.Module):
    """4x8x8 floats: 1,024 bytes a tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = self.first(x)
        return (x + torch.relu(self.second(x))).flatten(1)


def test_peak_memory_by_hand():
    graph = from_torch.read(Residual(), (4, 8, 8))
    # conv: input, output. 1x1: both. relu: x, its input, its output. add: x, its input, its output; flatten: none.
    assert xray.peak_memory(graph) == 3 * 1024
    # In place, ReLU writes over its input and the addition over x.
    assert xray.peak_memory(graph, in_place=True) == 2 * 1024


def test_rows_by_hand():
    table = xray.table(from_torch.read(Residual(), (4, 8, 8)))
    conv, point, _relu, add, flat = table.rows
    assert [row.kind for row in table.rows] == ["conv", "pointwise conv", "activation", "add", "reshape"]
    assert (conv.name, conv.parameters, conv.macs) == ("first", 148, 144 * 64)
    assert (conv.weight_bytes, conv.input_bytes, conv.activation_bytes) == (592, 1024, 1024)
    assert conv.intensity == pytest.approx(2 * 9216 / 2640)
    assert (point.name, point.parameters, point.macs) == ("second", 16, 16 * 64)
    assert add.inputs == ("first", "relu")
    assert (flat.output_shape, flat.activation_bytes) == ((1, 256), 0)
    assert table.total.idle_parameters == 12
    assert conv.macs_share + point.macs_share == pytest.approx(1)


def test_a_group_of_all_layers_is_the_total():
    """With reshapes among them, which move no bytes."""
    found = xray.table(xray.read("vit_tiny"))
    assert "reshape" in {row.kind for row in found.rows}
    assert cells(found, Group("all", found.rows))["op/byte"] == f"{found.total.intensity:.1f}"


def test_a_network_is_left_as_it_was():
    network = Residual().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    from_torch.read(network, (4, 8, 8))
    assert network.training
    assert not network.first._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_shared_weights_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    table = xray.table(from_torch.read(Twice(), (3, 8, 8)))
    assert [row.parameters for row in table.rows] == [84, 0]
    assert [row.name for row in table.rows] == ["conv", "conv#2"]
    assert table.total.macs == 2 * 81 * 64


def test_torchs_own_attention():
    """nn.MultiheadAttention computes what its parts do: four projections and two products."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    total = xray.table(from_torch.read(layer, (10, 16))).total
    assert total.parameters == sum(each.numel() for each in layer.parameters())
    assert total.macs == 10 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 10 * 10 * 16


def test_what_if_by_hand():
    network = nn.Sequential(nn.Conv2d(16, 32, 5, padding=2, bias=False), nn.MaxPool2d(2))
    changes = {each.change: each for each in xray.what_if(xray.table(from_torch.read(network, (16, 8, 8))))}
    assert len(changes) == 5
    assert changes["fully connected"].parameters_after == 16 * 64 * 32 * 64
    # The same changes, built.
    built = {
        "depthwise separable": nn.Sequential(nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.Conv2d(16, 32, 1)),
        "2 3x3 for the 5x5": nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)),
        "1x1 bottleneck": nn.Sequential(nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 5, padding=2), nn.Conv2d(8, 32, 1)),
    }
    for name, other in built.items():
        total = xray.table(from_torch.read(other, (16, 8, 8))).total
        biases = sum(layer.out_channels for layer in other)
        assert (changes[name].parameters_after, changes[name].macs_after) == (total.parameters - biases, total.macs)
        assert (changes[name].parameters, changes[name].macs) == (16 * 32 * 25, 16 * 32 * 25 * 64)
    pooled = changes["strided convolution for pooling"]
    assert (pooled.parameters, pooled.parameters_after, pooled.macs_after) == (0, 32 * 32 * 4, 32 * 32 * 4 * 16)


def test_two_3x3_keep_the_field_of_a_5x5():
    small = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    one, other = (xray.table(from_torch.read(net, (3, 9, 9))).total for net in (small, nn.Conv2d(3, 3, 5)))
    assert one.field == other.field
    assert one.parameters < other.parameters


def test_cost_of_the_zoo_allocates_no_weights():
    macs, parameters, field = costs.counted("vgg16")
    assert (macs, parameters) == (15_470_264_320, models.spec("vgg16").parameters)
    assert field.size == (212, 212)


def test_a_network_that_needs_values_is_refused_in_one_line():
    class Choosy(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ShapeError, match="Choosy cannot be followed with an input of 3x8x8: "):
        from_torch.read(Choosy(), (3, 8, 8))


def test_unknown_names_get_the_nearest():
    with pytest.raises(BadInput, match="'resnet5' is no model of the zoo, bundle or file; did you mean 'resnet50'"):
        xray.read("resnet5")
    with pytest.raises(BadInput, match="--input-shape and --variant are for those"):
        xray.read("resnet18", variant="int8")
