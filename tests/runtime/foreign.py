"""ONNX files as strangers export them, small, and what ONNX Runtime used directly makes of a frame: the oracle."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import edgecv_runtime as rt

SIZE = 8
LABELS = ["cat", "dog", "owl"]
PREPROCESS = rt.Preprocess(size=(SIZE, SIZE), mode="stretch")
NORMALIZATION = rt.Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
YAML = """
labels: [cat, dog, owl]
preprocess: {size: [8, 8], mode: stretch}
normalization: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}
"""
TYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.UINT8: np.uint8}

_RANDOM = np.random.default_rng(5)
KERNEL = _RANDOM.normal(size=(4, 3, 3, 3))
HEAD = _RANDOM.normal(size=(4, 3))


def node(kind, source, target, **given):
    return helper.make_node(kind, source if isinstance(source, list) else [source], [target], **given)


def constant(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values, dtype), name)


def save(
    path,
    tail=(),
    *,
    dtype=TensorProto.FLOAT,
    layout="NCHW",
    batch="n",
    shape=True,
    output=("n", 3),
    constants=(),
    classes=3,
    functions=(),
    imports=(),
    opset=17,
    output_type=None,
):
    """A convolution, a pool, a matrix product whose result is called 'l', then `tail`, which ends in 'y'.

    shape: False leaves the input's shape out of the file; output: None leaves out the output's.
    """
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    nodes, x = [], "x"
    if dtype == TensorProto.UINT8:
        nodes.append(node("Cast", x, "floats", to=TensorProto.FLOAT))
        x = "floats"
    if layout == "NHWC":
        nodes.append(node("Transpose", x, "nchw", perm=[0, 3, 1, 2]))
        x = "nchw"
    nodes += [
        node("Conv", [x, "K"], "c"),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "f"),
        node("MatMul", ["f", "H"], "l" if tail else "y"),
        *tail,
    ]
    sizes = (3, SIZE, SIZE) if layout == "NCHW" else (SIZE, SIZE, 3)
    scale = 1 / 255 if dtype == TensorProto.UINT8 else 1
    initializers = [constant("K", KERNEL * scale, kind), constant("H", HEAD[:, :classes], kind), *constants]
    result = output_type or (TensorProto.FLOAT16 if kind == np.float16 else TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", dtype, (batch, *sizes) if shape else None)],
        [helper.make_tensor_value_info("y", result, output)],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in imports)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    model.ir_version = 9
    onnx.save(model, path)
    return path


def frames(count=1):
    return [np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8) for seed in range(count)]


def truth(path, frame, dtype=np.float32, layout="NCHW", batch=1):
    """What ONNX Runtime gives for one frame, by arithmetic written out here: BGR -> RGB, normalized, in the layout."""
    rgb = frame[:, :, ::-1]
    if dtype != np.uint8:
        rgb = ((rgb / 255 - np.array(NORMALIZATION.mean)) / np.array(NORMALIZATION.std)).astype(dtype)
    if layout == "NCHW":
        rgb = rgb.transpose(2, 0, 1)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.ascontiguousarray(np.repeat(rgb[None], batch, 0))})
    return np.ravel(result[0] if result.ndim > 1 else result).astype(np.float64)


def load(path, backend="onnxruntime", **given):
    given = {"preprocess": PREPROCESS, "labels": LABELS, "normalization": NORMALIZATION, **given}
    return rt.load(path, backend=backend, **given)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))
