"""Fusion rules on networks whose kernels are known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from edgecv import xray
from edgecv.cost.kernels import Kernel, activation, kernels
from edgecv.cost.net import Net
from edgecv.xray import from_torch


def kinds(found: list[Kernel]) -> list[tuple[str, tuple[str, ...]]]:
    return [(kernel.kind, kernel.fused) for kernel in found]


def read(tmp_path: Path, net: Net) -> xray.Graph:
    path = tmp_path / "net.onnx"
    path.write_bytes(net.model())
    return xray.read(path)


class Residual(nn.Module):
    """Convolution, batch norm, activation; convolution, batch norm, addition, activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), act
        self.second, self.norm2 = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm2(self.second(self.act(self.norm(self.first(x))))) + x)


def test_residual_block_is_two_kernels():
    graph = from_torch.read(Residual(nn.ReLU()), (16, 12, 12))
    for backend in ("onnxruntime", "openvino"):
        assert kinds(kernels(graph, backend)) == [("conv", ("relu",)), ("pointwise", ("add", "relu"))]


def test_hard_swish_is_fused_where_the_backend_has_it():
    graph = from_torch.read(Residual(nn.Hardswish()), (16, 12, 12))
    assert kinds(kernels(graph, "openvino")) == [("conv", ("hardswish",)), ("pointwise", ("add", "hardswish"))]
    assert [kernel.kind for kernel in kernels(graph, "onnxruntime")] == ["conv", "hardswish", "pointwise", "hardswish"]


def test_every_layer_stands_in_one_kernel_or_is_free():
    graph = xray.zoo("efficientnet_b0")
    found = [name for kernel in kernels(graph, "openvino") for name in kernel.layers]
    free = [layer.name for layer in graph.layers if layer.kind == "reshape"]
    assert Counter(found + free) == Counter(layer.name for layer in graph.layers)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_both_readers_give_the_same_kernels(tmp_path, name):
    """Before and after export; the export puts the conversion of frames before the network."""
    from edgecv.cost.real import export

    path = tmp_path / "model.onnx"
    export(name, path)
    after = kernels(xray.read(path), "openvino")[3:]
    before = kernels(xray.zoo(name), "openvino")
    facts = [Counter((k.kind, k.macs, k.write_bytes, k.fused) for k in found) for found in (before, after)]
    assert facts[0] == facts[1]


def test_squeeze_and_excitation(tmp_path):
    net = Net((1, 32, 6, 6))
    net.gate(8)
    assert kinds(kernels(read(tmp_path, net), "onnxruntime")) == [
        ("reduce", ()), ("gate", ("relu",)), ("gate", ("hardsigmoid",)), ("scale", ()),
    ]  # fmt: skip


def test_an_output_in_between_is_not_fused_over(tmp_path):
    """What two layers read cannot vanish into a kernel."""
    net = Net((1, 16, 6, 6))
    net.conv(16)
    x = net.at
    net.act("relu")
    net.add("Add", x)
    assert [kernel.kind for kernel in kernels(read(tmp_path, net), "openvino")] == ["pointwise", "relu", "binary"]


def test_attention_is_products_and_a_softmax(tmp_path):
    net = Net((1, 20, 32))
    net.attention(4)
    found = kernels(read(tmp_path, net), "onnxruntime")
    assert [k.kind for k in found if k.macs] == ["matrix", "matmul", "matmul", "matrix"]
    first = next(k for k in found if k.kind == "matmul")
    assert (first.batch, first.places, first.inner, first.outer) == (4, 20, 8, 20)  # heads, tokens, size, tokens


def test_a_convolution_behind_tokens_reorders_them(tmp_path):
    net = Net((1, 8, 8, 16))
    net.norm()
    net.transpose(0, 3, 1, 2)
    net.conv(16)
    net.conv(16)
    norm, transpose, first, second = kernels(read(tmp_path, net), "onnxruntime")
    assert (norm.kind, transpose.kind) == ("norm", "transpose")
    assert (first.reordered, second.reordered) == (16 * 64 * 4, 0)


def test_what_no_rule_knows_is_named(tmp_path):
    net = Net((1, 4, 4))
    net.add("Det", shape=(1,))
    assert [kernel.unknown for kernel in kernels(read(tmp_path, net), "openvino")] == [("Det",)]


@pytest.mark.parametrize(
    ("op", "name"),
    [("relu6", "relu"), ("clamp_min_", "relu"), ("HardSwish", "hardswish"), ("Silu", "silu"), ("Cos", None)],
)
def test_names_of_activations(op, name):
    assert activation(op) == name
