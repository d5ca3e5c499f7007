"""Both readers against oracles: torch's FLOP counter, published counts, and each other."""

from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgecv import models, xray
from edgecv.xray.graph import KINDS

# MACs of convolutions and linear layers at 224x224, 1000 classes: torchvision 0.28's `_ops` figures (in its weights'
# meta, GFLOPs with one multiply-add as one) to the digits that it gives.
PUBLISHED_GMACS = {
    "alexnet": 0.714,
    "vgg16": 15.47,
    "resnet18": 1.814,
    "resnet50": 4.089,
    "mobilenet_v2": 0.301,
    "mobilenet_v3_large": 0.217,
    "mobilenet_v3_small": 0.057,
    "efficientnet_b0": 0.386,
    "convnext_tiny": 4.456,
    "vit_b_16": 17.564,
    "swin_t": 4.491,
}


def flops(name):
    """Operations by torch's own counter, which knows two for each MAC."""
    with torch.device("meta"):
        network = models.create(name).eval()
        x = torch.empty(1, 3, *models.spec(name).size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", models.names())
def test_every_model_of_the_zoo(name):
    graph = xray.zoo(name)
    table = xray.table(graph)
    assert table.total.parameters + table.total.idle_parameters == models.spec(name).parameters
    assert 2 * table.total.macs == flops(name)
    assert table.total.uncounted == {}
    assert {row.kind for row in table.rows} <= set(KINDS)
    if name in PUBLISHED_GMACS:
        assert round(table.total.macs / 1e9, 3) == pytest.approx(PUBLISHED_GMACS[name], abs=0.0011)


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "mobilenet_v3_small", "efficientnet_lite0", "vit_tiny"])
def test_onnx_and_torch_give_the_same_numbers(name, exported_onnx):
    ours, file = xray.table(xray.zoo(name)), xray.table(xray.read(exported_onnx(name)))
    assert file.total.macs == ours.total.macs
    assert file.total.activations == ours.total.activations
    assert file.total.field == ours.total.field
    assert file.total.uncounted == {}
    assert products(file) == products(ours)


def products(table):
    """Layers that multiply, in any order: branches may stand the other way round."""
    return Counter(
        (row.kind, row.macs, row.kernel, row.stride, row.dilation, row.groups, row.output_shape, str(row.field))
        for row in table.rows
        if row.macs
    )
