"""What was left in float runs in float, on every backend and for whoever opens the file without edgecv."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from edgecv_export.calibrate import sample
from edgecv_export.dialects import DIALECTS
from edgecv_export.graph import Deployed, to_onnx
from edgecv_export.plan import Plan, Workshop
from tests.conftest import NORMALIZATION
from tests.export.test_passes import run

WORK = {"Conv": "float", "FusedConv": "float", "Gemm": "float", "FusedGemm": "float", "MatMul": "float"}
WORK |= {"QLinearConv": "int8", "QGemm": "int8", "QLinearMatMul": "int8", "MatMulIntegerToFloat": "int8"}


class Row(nn.Module):
    """Convolutions in a row, every kind between two of another kind, and a linear layer."""

    def __init__(self, act):
        super().__init__()
        torch.manual_seed(0)
        shapes = [(3, 16, 3, 1), (16, 32, 1, 1), (32, 32, 3, 32), (32, 16, 1, 1), (16, 32, 3, 1), (32, 32, 3, 32)]
        layers = [(nn.Conv2d(a, b, k, padding=k // 2, groups=g), act()) for a, b, k, g in shapes]
        self.features = nn.Sequential(*(each for pair in layers for each in pair), nn.AvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(32 * 64, 10)

    def forward(self, x):
        return self.head(self.features(x))


@pytest.fixture(scope="module", params=[nn.ReLU, nn.ReLU6, nn.Hardswish])
def row(request, digits):
    graph = to_onnx(Deployed(Row(request.param).eval(), NORMALIZATION), (32, 32), 3, {})
    return Workshop(graph, sample(digits[0], 64))


def executed_by_onnxruntime(path, folder):
    """Layers of the graph that a plain session runs, by kind."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return Counter(WORK[node.op_type] for node in nodes if node.op_type in WORK)


def executed_by_openvino(path):
    model = openvino.Core().read_model(str(path))
    model.reshape([1, 32, 32, 3])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = {key: node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")}
        if info["layerType"] in ("Convolution", "GroupConvolution", "FullyConnected", "MatMul"):
            found["float" if info["runtimePrecision"] == "f32" else "int8"] += 1
    return found


@pytest.mark.parametrize("places", [(1, 3, 5), (2, 4, 6)], ids=str)
@pytest.mark.parametrize("placement", ["all", "layers"])
def test_islands_execute_in_float(row, digits, tmp_path, placement, places):
    """Oracles: what the runtimes, used directly, say that they run; and the file without any optimization."""
    names = [layer.name for layer in row.form(())[0].layers()]
    islands = tuple(names[place] for place in places)
    path = tmp_path / "model.onnx"
    path.write_bytes(row.make(Plan(placement, passes=(), islands=islands), DIALECTS["int8-u8s8"]))
    wanted = {"float": len(islands), "int8": len(names) - len(islands)}
    assert executed_by_onnxruntime(path, tmp_path) == wanted
    assert executed_by_openvino(path) == wanted

    frames = digits[0][100:164]
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": frames})[0]
    exact, floats = run(path.read_bytes(), frames), run(row.form(())[0].model, frames)
    assert np.abs(plain - exact).mean() < 0.2 * np.abs(exact - floats).mean()
