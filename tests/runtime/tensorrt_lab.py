"""What tests of TensorRT share: files of every variant, the text inside an engine, and whether a GPU is at hand."""

import re

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecv_export import fp16
from edgecv_runtime.backends.tensorrt import TensorRtBackend
from edgecv_runtime.errors import BackendUnavailable

TARGETS = [(8, 6), (8, 9)]
SCALE = 0.05
GRID = ("int8/scale", "int8/zero")


class PlanText:
    """What TensorRT-RTX 1.7 writes into an engine as text; undocumented, so only tests read it."""

    def __init__(self, engine):
        text = engine.decode("latin1")
        self.targets = re.search(r"accelerators=\{([\w ]+)", text)[1].split()
        self.tensors = {
            name.removesuffix(".1"): (kind, [int(size) for size in sizes.split() if size.isdigit()])
            for sizes, name, kind in re.findall(
                r"tensor=\{[^\n]*? dims=\{([^}]*)\}[^\n]*? name=\"?([^\" ]+)\"?[^\n]*? type=(\w+)", text
            )
        }
        self.tf32 = re.search(r"^  tf32=(\d)", text, re.MULTILINE)[1] == "1"
        self.regions = {int(size) for size in re.findall(r"region = \{ name=devmem\S+ size=(\d+)", text)}
        inputs = re.findall(r"\b(?:corrltn|fully_connected)=\{[^\n]*? input=\{\"([^\"^]+)", text)
        self.operands = [
            self.tensors[name.removesuffix(".1")][0] for name in inputs if name.removesuffix(".1") in self.tensors
        ]


def why_not():
    """Why TensorRT cannot run here, or "" where there is a GPU that it serves."""
    try:
        TensorRtBackend.probe()
    except BackendUnavailable as exc:
        return str(exc)
    return ""


def convolution(path, size=("N", 8, 8, 3), kind=TensorProto.FLOAT16):
    """A file of one convolution behind our uint8 input, in half precision unless told otherwise."""
    weight = np.ones((4, 3, 3, 3), helper.tensor_dtype_to_np_dtype(kind))
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=kind),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["features"]),
        helper.make_node("Cast", ["features"], ["logits"], to=TensorProto.FLOAT),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, size)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, "H", "W"])
    graph = helper.make_graph(nodes, "one", [image], [logits], [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def half(model):
    """The same network in half precision, with float32 logits."""
    return onnx.load_from_string(fp16.converted(model))


def symmetric(model):
    """The same network with both operands of every convolution and matrix product in symmetric int8.

    One scale for all: enough to be parsed, built and compared with another runtime, not to be accurate.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(SCALE), "int8/scale"),
            numpy_helper.from_array(np.int8(0), "int8/zero"),
        ]
    )
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            for operand in (0, 1):
                stored, real = (f"{node.output[0]}/{kind}{operand}" for kind in ("int8", "real"))
                nodes.append(helper.make_node("QuantizeLinear", [node.input[operand], *GRID], [stored]))
                nodes.append(helper.make_node("DequantizeLinear", [stored, *GRID], [real]))
                copy.input[operand] = real
        nodes.append(copy)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made
