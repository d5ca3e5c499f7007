"""A file that OpenVINO takes for single frames only: its batches run in turn. Oracle: ONNX Runtime on the same file."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgecv_runtime import backends
from edgecv_runtime.backends import Options

# OpenVINO 2026.4 moves the scales behind the Reshape, and takes 7 for a number of channels when the batch is open.
TEXT = """
    <ir_version: 8, opset_import: ["" : 17]>
    tokens (float[batch, 7, 8] x) => (float[batch, 7, 5] y)
    <float s = {0.02}, uint8 z = {128}>
    {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        w = DequantizeLinear <axis = 1> (weights, scales, zeros)
        m = MatMul (d, w)
        mq = QuantizeLinear (m, s, z)
        md = DequantizeLinear (mq, s, z)
        shape = Shape (md)
        flat = Flatten <axis = 2> (md)
        normal = BatchNormalization (flat, gamma, beta, mean, variance)
        y = Reshape (normal, shape)
    }
"""


@pytest.fixture
def path(tmp_path):
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT)
    arrays = {
        "weights": random.integers(-127, 128, (8, 5)).astype(np.int8),
        "scales": random.uniform(0.001, 0.01, 5).astype(np.float32),
        "zeros": np.zeros(5, np.int8),
    } | {name: random.uniform(0.5, 1.5, 5).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(model, tmp_path / "tokens.onnx")
    return tmp_path / "tokens.onnx"


def test_a_batch_that_openvino_does_not_compile_runs_in_turn(path, caplog):
    backend = backends.get("openvino")(path, Options())
    session = onnxruntime.InferenceSession(path)
    with caplog.at_level(logging.WARNING, "edgecv"):
        for count in (1, 3, 1, 4):
            x = np.random.default_rng(count).standard_normal((count, 7, 8)).astype(np.float32)
            given = backend.run({"x": x})["y"]
            assert given.shape == (count, 7, 5)
            assert np.abs(given - session.run(None, {"x": x})[0]).max() < 0.05  # a step of the grid, scaled
    assert [record.getMessage() for record in caplog.records] == [
        "openvino takes tokens.onnx for single frames only, so batches run in turn: "
        "Requested output shape [1,7,1] is incompatible with input shape"
    ]
    backend.close()
