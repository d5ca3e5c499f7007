"""Parallel linear branches become one convolution that gives PyTorch's outputs; what is no sum of one tensor stays."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from edgecv_export.export import export
from edgecv_export.graph import Deployed, reference, to_onnx
from edgecv_export.linear_norms import merge_linear_norms
from edgecv_export.merge import merge_branches
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.preprocess import Normalization, Preprocess


def conv(kernel, *, stride=1, padding=None, dilation=1, groups=1, channels=8, norm=True):
    """A convolution that keeps the picture's size, and its norm."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(dilation * (side // 2) for side in sides) if padding is None else padding
    layer = nn.Conv2d(8, channels, sides, stride, padding, dilation, groups, bias=not norm)
    return nn.Sequential(layer, nn.BatchNorm2d(channels)) if norm else layer


class Sum(nn.Module):
    """Branches of one tensor, added, between layers that are none."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        x = torch.relu(x)
        return torch.relu(sum(branch(x) for branch in self.branches))


class Mixer(nn.Module):
    """x + scale (mixer(x) - norm(x)), as FastViT mixes tokens (Vasu et al. 2023, arXiv:2303.14189, section 3.2)."""

    def __init__(self):
        super().__init__()
        self.mixer, self.small, self.norm = conv(5, groups=8), conv(1, groups=8), nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        x = torch.relu(x)
        return torch.relu(x + self.scale * (self.mixer(x) + self.small(x) - self.norm(x)) / 2)


class Outer(nn.Module):
    """A norm behind the sum, as in RepViT (Wang et al. 2024, arXiv:2307.09283, figure 4)."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow, self.norm = conv(3, groups=8), conv(1, groups=8, norm=False), nn.BatchNorm2d(8)

    def forward(self, x):
        x = torch.relu(x)
        return torch.relu(self.norm(self.wide(x) + self.narrow(x) + x))


class Twice(nn.Module):
    """A branch that somebody else reads, too, and a sum of two different tensors."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = conv(3, norm=False), conv(1, norm=False), conv(3, norm=False)

    def forward(self, x):
        x = torch.relu(x)
        first = self.first(x)
        return torch.relu(first + self.second(x)) * torch.sigmoid(first) + self.third(torch.relu(first))


class Classifier(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, 2, 1), block, nn.LazyLinear(5)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).flatten(2).mean(-1))


def network(block, seed=0):
    """A network whose batch norms have seen something."""
    torch.manual_seed(seed)
    whole = Classifier(block)
    whole(torch.rand(2, 3, 24, 24))
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 2)
            module.weight.data.uniform_(0.3, 2)
            module.bias.data.normal_(0, 0.3)
    return whole.eval()


def answers(model, frames):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": frames})[0]


def merged(block):
    """The merged graph, how many convolutions it says took others' place; it gives PyTorch's outputs."""
    deployed = Deployed(network(block), Normalization())
    model, count = merge_branches(to_onnx(deployed, (23, 26), 3, {}))
    frames = np.random.default_rng(0).integers(0, 256, (3, 23, 26, 3), np.uint8)
    np.testing.assert_allclose(answers(model, frames), reference(deployed, frames), rtol=1e-4, atol=1e-5)
    return model, count


def operators(model):
    return [node.op_type for node in model.graph.node]


MERGED = {
    "RepVGG": lambda: Sum(conv(3), conv(1), nn.BatchNorm2d(8)),
    "RepVGG with a stride": lambda: Sum(conv(3, stride=2, channels=16), conv(1, stride=2, channels=16)),
    "MobileOne": lambda: Sum(*[conv(3, groups=8) for _ in range(3)], conv(1, groups=8), nn.BatchNorm2d(8)),
    "asymmetric": lambda: Sum(conv(3), conv((1, 3)), conv((3, 1))),
    "of several groups": lambda: Sum(conv(3, groups=2), conv(1, groups=4), conv(3, groups=8)),
    "dilated": lambda: Sum(conv(3, dilation=2), conv(1)),
    "dilated and plain": lambda: Sum(conv(5), conv(3, dilation=2)),
    "the tensor itself": lambda: Sum(conv(3), nn.Identity()),
    "without norms": lambda: Sum(conv(3, norm=False), conv(1, norm=False)),
    "shifted": lambda: Sum(conv(2, padding=1, norm=False), conv(4, padding=2, norm=False)),
    "FastViT": Mixer,
    "RepViT": Outer,
}


@pytest.mark.parametrize("block", MERGED.values(), ids=MERGED)
def test_branches_become_one_convolution(block):
    model, count = merged(block())
    assert count == 1
    found = operators(model)
    assert found.count("Conv") == 2  # with the stem
    assert not {"BatchNormalization", "Sub", "Div"} & set(found)
    inner = found[found.index("Conv") : -found[::-1].index("Conv")]
    assert "Add" not in inner
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


KEPT = {
    "which would multiply more": lambda: Sum(conv((5, 1)), conv((1, 5))),
    "dense and depthwise": lambda: Sum(conv(1), conv(5, groups=8)),
    "read elsewhere": Twice,
}


@pytest.mark.parametrize("block", KEPT.values(), ids=KEPT)
def test_what_is_no_gain_or_no_sum_stays(block):
    model, count = merged(block())
    assert count == 0
    assert operators(model).count("Conv") >= 3


def test_a_bundle_says_what_was_merged(tmp_path):
    block = nn.Sequential(MERGED["RepVGG"](), MERGED["MobileOne"]())
    frames = np.random.default_rng(1).integers(0, 256, (8, 24, 24, 3), np.uint8)
    done = export(
        network(block),
        tmp_path / "bundle",
        name="merged",
        preprocess=Preprocess((24, 24)),
        normalization=Normalization(),
        labels=tuple("abcde"),
        images=frames,
    )
    assert done.merged == 2
    assert max(done.parity.values()) < 1e-4
    with Bundle(tmp_path / "bundle") as bundle:
        assert bundle.manifest.provenance["merged"] == "2 convolutions from parallel branches"


class Rows(nn.Module):
    """A linear layer and a norm of its outputs as rows, as LeViT's `LinearNorm` has them, and layers that differ."""

    def __init__(self, *, bias=False, shared=False, norm_first=False):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8, bias=bias), nn.BatchNorm1d(8)
        self.shared, self.norm_first = shared, norm_first

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)  # (N, T, 8)
        made = tokens if self.norm_first else self.linear(tokens)
        rows = self.norm(made.flatten(0, 1)).reshape_as(made)
        rows = rows + made if self.shared else rows
        rows = self.linear(rows) if self.norm_first else rows
        return torch.relu(rows).transpose(1, 2)[..., None]


@pytest.mark.parametrize(
    ("settings", "folded"),
    [({}, 1), ({"bias": True}, 1), ({"shared": True}, 0), ({"norm_first": True}, 0)],
    ids=["plain", "with a bias", "read by others", "before the layer"],
)
def test_a_norm_of_rows_becomes_part_of_the_matrix_product(settings, folded):
    whole = network(Rows(**settings))
    norm = whole.block.norm
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.3, 2)
    norm.weight.data.uniform_(0.3, 2)
    norm.bias.data.normal_(0, 0.3)
    deployed = Deployed(whole, Normalization())
    model, count = merge_linear_norms(to_onnx(deployed, (23, 26), 3, {}))
    frames = np.random.default_rng(0).integers(0, 256, (3, 23, 26, 3), np.uint8)
    np.testing.assert_allclose(answers(model, frames), reference(deployed, frames), rtol=1e-4, atol=1e-5)
    assert (count, operators(model).count("BatchNormalization")) == (folded, 1 - folded)
