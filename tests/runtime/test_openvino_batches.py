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
from edgecv_runtime.errors import ComputationError

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


TWO = """
    <ir_version: 8, opset_import: ["" : 17]>
    two (float[1, 4] a, float[1, 4] b) => (float[1, 4] y) { y = Sub (a, b) }
"""


def test_tensors_go_into_the_requests_own_and_what_does_not_fit_is_refused(tmp_path):
    onnx.save(onnx.parser.parse_model(TWO), tmp_path / "two.onnx")
    backend = backends.get("openvino")(tmp_path / "two.onnx", Options())
    session = onnxruntime.InferenceSession(tmp_path / "two.onnx")
    random = np.random.default_rng(0)
    for count in range(3):  # strided, as a slice of something larger is, and in any order
        a, b = random.standard_normal((2, 1, 8), np.float32)[..., :: 1 + count % 2][..., :4]
        feeds = {"b": b, "a": a} if count else {"a": a, "b": b}
        assert np.array_equal(backend.run(feeds)["y"], session.run(None, feeds)[0])
    kept = a.copy(), b.copy()
    wrong = {
        "b is float32": {"a": a, "b": b[:, :1]},  # which numpy would spread over the four
        "given as float64": {"a": a, "b": b.astype(np.float64)},
        "takes 2 inputs": {"a": a},  # the other is not what it was before
        "it takes b": {"a": a, "c": b},
    }
    for said, feeds in wrong.items():
        with pytest.raises(ComputationError, match=said):
            backend.run(feeds)
    assert np.array_equal(a, kept[0])
    assert np.array_equal(b, kept[1])
