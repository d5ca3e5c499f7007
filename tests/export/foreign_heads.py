"""Small detectors and segmenters as strangers export them, and decoders of their outputs, box by box, written apart."""

import math

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tests.runtime.foreign import NORMALIZATION, constant, node

SIZE = (16, 32)  # height, width
COUNT = 3  # of classes
LABELS = ("cat", "dog", "owl")


def save(path, outputs, batch="n"):
    """A network whose outputs are `outputs`, name -> array behind the batch, each moved by the mean colour."""
    nodes = [node("GlobalAveragePool", "x", "p"), node("Flatten", "p", "f")]
    constants, infos = [], []
    random = np.random.default_rng(3)
    for name, base in outputs.items():
        base = np.asarray(base)
        whole = base.dtype.kind == "i"
        slope = random.normal(size=(3, base.size)) * (0 if whole else 0.02) * np.abs(base).ravel()
        constants += [constant(f"{name}.w", slope), constant(f"{name}.b", base.ravel())]
        constants.append(constant(f"{name}.s", [0 if isinstance(batch, str) else batch, *base.shape], np.int64))
        floats = f"{name}.floats" if whole else name
        nodes += [node("MatMul", ["f", f"{name}.w"], f"{name}.m"), node("Add", [f"{name}.m", f"{name}.b"], f"{name}.a")]
        nodes.append(node("Reshape", [f"{name}.a", f"{name}.s"], floats))
        if whole:
            nodes.append(node("Cast", floats, name, to=TensorProto.INT64))
        infos.append(
            helper.make_tensor_value_info(name, TensorProto.INT64 if whole else TensorProto.FLOAT, (batch, *base.shape))
        )
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 3, *SIZE))
    graph = helper.make_graph(nodes, "foreign", [picture], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


def frames(count=8):
    """Pictures of the input's size whose mean colours differ."""
    random = np.random.default_rng(4)
    found = []
    for _ in range(count):
        coarse = random.integers(0, 256, (2, 4, 3))
        found.append(np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8))
    return found


def outputs_of(path, frame):
    """What ONNX Runtime gives for one BGR frame of the input's size -> by name, without the batch."""
    rgb = (frame[:, :, ::-1] / 255 - np.array(NORMALIZATION.mean)) / np.array(NORMALIZATION.std)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    rows = session.get_inputs()[0].shape[0]
    rows = rows if isinstance(rows, int) else 1
    found = session.run(names, {"x": np.repeat(rgb.transpose(2, 0, 1)[None].astype(np.float32), rows, 0)})
    return dict(zip(names, (each[0].astype(np.float64) for each in found), strict=True))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def corners(cx, cy, w, h):
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


RANDOM = np.random.default_rng(6)
A = 10
MIDDLES = np.stack(
    [RANDOM.uniform(4, 28, A), RANDOM.uniform(3, 13, A), RANDOM.uniform(2, 9, A), RANDOM.uniform(2, 6, A)], 1
)
CORNERS = np.array([corners(*row) for row in MIDDLES])
SHARES = RANDOM.uniform(0.02, 0.95, (A, COUNT))
OBJECTS = RANDOM.uniform(0.3, 0.95, (A, 1))
RAW = RANDOM.normal(size=(A, COUNT))
TALL, WIDE = SIZE


def yolov5(raw):
    rows = raw["output0"]
    return [corners(*row[:4]) for row in rows], [[row[4] * share for share in row[5:]] for row in rows]


def yolov8(raw):
    rows = raw["output0"].T
    return [corners(*row[:4]) for row in rows], [list(row[4:]) for row in rows]


def yolov10(raw):
    rows = raw["output0"]
    return [row[:4] for row in rows], [[row[4] if round(row[5]) == k else 0 for k in range(COUNT)] for row in rows]


def yolox(raw):
    cells = [(x, y, s) for s in (8, 16) for y in range(TALL // s) for x in range(WIDE // s)]
    boxes, scores = [], []
    for row, (x, y, s) in zip(raw["output"], cells, strict=True):
        boxes.append(corners((row[0] + x) * s, (row[1] + y) * s, math.exp(row[2]) * s, math.exp(row[3]) * s))
        scores.append([row[4] * share for share in row[5:]])
    return boxes, scores


def ssd(raw):
    boxes = [[x1 * WIDE, y1 * TALL, x2 * WIDE, y2 * TALL] for y1, x1, y2, x2 in raw["locations"]]
    scores = []
    for row in raw["confidences"]:
        whole = [math.exp(each) for each in row]
        scores.append([each / sum(whole) for each in whole[1:]])
    return boxes, scores


def tensorflow(raw):
    boxes = [[x1 * WIDE, y1 * TALL, x2 * WIDE, y2 * TALL] for y1, x1, y2, x2 in raw["detection_boxes"]]
    scores = []
    for place, (share, kind) in enumerate(zip(raw["detection_scores"], raw["detection_classes"], strict=True)):
        there = place < raw["num_detections"]
        scores.append([share if there and round(kind) == k + 1 else 0 for k in range(COUNT)])
    return boxes, scores


def detr(raw):
    boxes = [corners(cx * WIDE, cy * TALL, w * WIDE, h * TALL) for cx, cy, w, h in raw["boxes"]]
    return boxes, [[sigmoid(each) for each in row] for row in raw["logits"]]


def fcos(raw):
    boxes, scores = [], []
    for s in (8, 16):
        for y in range(TALL // s):
            for x in range(WIDE // s):
                left, top, right, bottom = raw[f"reg{s}"][:, y, x]
                mx, my = (x + 0.5) * s, (y + 0.5) * s
                boxes.append([mx - left * s, my - top * s, mx + right * s, my + bottom * s])
                scores.append([sigmoid(each) for each in raw[f"cls{s}"][:, y, x]])
    return boxes, scores


def shares(boxes):
    """Normalized, as y1, x1, y2, x2."""
    return boxes[:, [1, 0, 3, 2]] / [TALL, WIDE, TALL, WIDE]


# Name -> (outputs, what the description says, the decoder).
HEADS = {
    "yolov5": (
        {"output0": np.concatenate([MIDDLES, OBJECTS, SHARES], 1)},
        """
boxes: {columns: [cx, cy, w, h], unit: pixels}
scores: {of: probabilities, objectness: 4, first: 5}
""",
        yolov5,
    ),
    "yolov8": (
        {"output0": np.concatenate([MIDDLES, SHARES], 1).T},
        """
boxes: {columns: [cx, cy, w, h], unit: pixels, layout: channels first}
scores: {of: probabilities, first: 4, layout: channels first}
""",
        yolov8,
    ),
    "yolov10": (
        {"output0": np.concatenate([CORNERS, SHARES[:, :1], np.arange(A)[:, None] % 3], 1)},
        """
boxes: {columns: [x1, y1, x2, y2], unit: pixels}
scores: {of: probabilities, first: 4, class_id: 5}
""",
        yolov10,
    ),
    "yolox": (
        {"output": np.concatenate([RANDOM.uniform(0, 1, (A, 4)), OBJECTS, SHARES], 1)},
        """
boxes: {columns: [cx, cy, w, h], unit: pixels, grid: {strides: [8, 16]}}
scores: {of: probabilities, objectness: 4, first: 5}
""",
        yolox,
    ),
    "ssd": (
        {"locations": shares(CORNERS), "confidences": np.concatenate([RAW[:, :1], 2 * RAW], 1)},
        """
boxes: {output: locations, columns: [y1, x1, y2, x2], unit: normalized}
scores: {output: confidences, of: softmax, background: 0}
""",
        ssd,
    ),
    "tensorflow": (
        {
            "detection_boxes": shares(CORNERS),
            "detection_scores": SHARES[:, 0],
            "detection_classes": (np.arange(A) % 3 + 1).astype(np.int64),
            "num_detections": np.array(A - 2, np.int64),
        },
        """
boxes: {output: detection_boxes, columns: [y1, x1, y2, x2], unit: normalized}
scores: {output: detection_scores, of: probabilities, class_id: detection_classes, first_id: 1, count: num_detections}
""",
        tensorflow,
    ),
    "detr": (
        {"boxes": MIDDLES / [WIDE, TALL, WIDE, TALL], "logits": RAW},
        """
boxes: {output: boxes, columns: [cx, cy, w, h], unit: normalized}
scores: {output: logits, of: logits}
""",
        detr,
    ),
    "fcos": (
        {
            f"{kind}{step}": RANDOM.uniform(0.1, 1, (count, TALL // step, WIDE // step))
            for step in (8, 16)
            for kind, count in (("reg", 4), ("cls", 3))
        },
        """
boxes:
  output: [reg8, reg16]
  layout: channels first
  columns: [left, top, right, bottom]
  unit: pixels
  grid: {strides: [8, 16], offset: 0.5}
scores: {output: [cls8, cls16], layout: channels first, of: logits}
""",
        fcos,
    ),
}
