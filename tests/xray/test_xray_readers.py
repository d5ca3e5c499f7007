"""Both readers against oracles: torch's FLOP counter, published counts, and each other."""

from collections import Counter
from functools import partial

import msgspec
import onnx
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgecv import models, xray
from edgecv.models import swin, vit
from edgecv.xray import costs, from_torch
from edgecv.xray.graph import KINDS
from edgecv_export import graph
from edgecv_runtime import Normalization

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


def flops(network, size):
    """Operations by torch's own counter, which knows two for each MAC."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.empty(1, *size, device="meta"))
    return counter.get_total_flops()


@pytest.mark.parametrize("name", models.names())
def test_every_model_of_the_zoo(name):
    with torch.device("meta"):
        network = models.create(name)
    spec = models.spec(name)
    size = (spec.channels, *spec.size)
    table = xray.table(from_torch.read(network, size))
    assert (table.total.parameters, table.total.idle_parameters) == (spec.parameters, spec.auxiliary_parameters)
    assert 2 * table.total.macs == flops(network, size)
    assert table.total.uncounted == {}
    assert {row.kind for row in table.rows} <= set(KINDS)
    kept = msgspec.json.decode(costs.TABLE.read_bytes(), type=dict[str, xray.Cost])
    assert (list(kept), kept[name]) == (
        models.names(),
        (table.total.macs, table.total.parameters, table.total.field),
    ), 'python -c "from edgecv.xray import costs; costs.write()" writes the table anew'
    assert xray.cost(name) == kept[name]
    if name in PUBLISHED_GMACS:
        assert round(table.total.macs / 1e9, 3) == pytest.approx(PUBLISHED_GMACS[name], abs=0.0011)


class Windows(nn.Module):
    """Swin's first stage: patches, a plain and a shifted block, a merging."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.blocks = nn.Sequential(swin.Block(12, 2, 0, 0.0), swin.Block(12, 2, 3, 0.0), swin.PatchMerging(12))

    def forward(self, x):
        return self.blocks(self.patches(x).permute(0, 2, 3, 1))


def small_vit():
    return vit.VisionTransformer(vit.Variant(patch=16, depth=2, heads=2, width=24, parameters=0), 10, 3)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (partial(models.create, "lenet5"), 32),
        (partial(models.create, "mobilenet_v3_small"), 64),
        (partial(models.create, "efficientnet_lite0"), 65),
        (partial(models.create, "convnext_atto"), 64),
        (small_vit, 224),
        (Windows, 116),
    ],
)
def test_onnx_and_torch_give_the_same_numbers(make, size, tmp_path):
    network = make()
    model = graph.to_onnx(graph.Deployed(network, Normalization()), (size, size), 3, {})
    onnx.save(model, tmp_path / "model.onnx")
    ours, file = xray.table(from_torch.read(network, (3, size, size))), xray.table(xray.read(tmp_path / "model.onnx"))
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
