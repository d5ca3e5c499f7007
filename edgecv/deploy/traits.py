"""What of an ONNX file decides where it runs, as words that rules ask for: precision, quantization, operators."""

from __future__ import annotations

from pathlib import Path

from edgecv_runtime import onnxfile
from edgecv_runtime.onnxfile import DTYPES
from edgecv_runtime.protobuf import fields, integer, message, text
from edgecv_runtime.records import Record

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
_QDQ = 19  # the opset from which QuantizeLinear has scales of half precision


class FileTraits(Record, frozen=True):
    """Versions of a file, and its words: "float32", "fp16" or "int8", "zero points" (not symmetric), "int32 bias",
    "opset 19" (or later), "antialias", and "operator NAME" for each of its operators.
    """

    opset: int
    ir: int
    words: frozenset[str]


def read(path: Path) -> FileTraits:
    """Read a file's traits; raises ModelFileError where it is none that edgecv takes."""
    header = onnxfile.read(path)
    found = _Quantization(memoryview(path.read_bytes()))
    words = {f"operator {name}" for name in header.operators}
    if _QUANTIZED & set(header.operators):
        words.add("int8")
    else:
        words.add("fp16" if found.has_half else "float32")
    if header.opset >= _QDQ:
        words.add("opset 19")
    if found.is_asymmetric:
        words.add("zero points")
    if found.has_int32_bias:
        words.add("int32 bias")
    if found.has_antialias:
        words.add("antialias")
    return FileTraits(header.opset, header.ir_version, frozenset(words))


class _Quantization:
    """How a graph is quantized, of its initializers and nodes; field numbers are those of onnx.proto3."""

    def __init__(self, model: memoryview) -> None:
        self._kinds: dict[str, str] = {}
        self._not_zero: set[str] = set()
        nodes: list[tuple[str, list[str]]] = []
        self.has_antialias = False
        graph = next(message(value) for number, value in fields(model) if number == 7)
        for number, value in fields(graph):
            if number == 5:
                self._constant(message(value))
            elif number == 1:
                nodes.append(self._node(message(value)))
        self.has_half = "float16" in self._kinds.values()
        quantized = [(kind, inputs) for kind, inputs in nodes if kind in ("QuantizeLinear", "DequantizeLinear")]
        # without a zero point QuantizeLinear gives uint8 around 0
        self.is_asymmetric = any(
            (kind == "QuantizeLinear" and len(inputs) < 3) or self._is_shifted(inputs[2:]) for kind, inputs in quantized
        )
        self.has_int32_bias = any(
            kind == "DequantizeLinear" and self._kinds.get(inputs[0]) == "int32" for kind, inputs in quantized
        )

    def _is_shifted(self, zero_point: list[str]) -> bool:
        return any(self._kinds.get(name, "int8") == "uint8" or name in self._not_zero for name in zero_point)

    def _constant(self, data: memoryview) -> None:
        name, dtype, not_zero = "", "unknown", False
        for number, value in fields(data):
            if number == 2:
                dtype = DTYPES.get(integer(value), "unknown")
            elif number == 8:
                name = text(value)
            elif number in (5, 9):
                not_zero = not_zero or (bool(value) if isinstance(value, int) else any(message(value)))
        self._kinds[name] = dtype
        if not_zero and dtype in ("int8", "uint8"):
            self._not_zero.add(name)

    def _node(self, data: memoryview) -> tuple[str, list[str]]:
        kind, inputs, attributes = "", [], {}
        for number, value in fields(data):
            if number == 1:
                inputs.append(text(value))
            elif number == 4:
                kind = text(value)
            elif number == 5:
                parts = dict(fields(message(value)))
                attributes[text(parts.get(1))] = parts.get(3, 0)
        self.has_antialias = self.has_antialias or (kind == "Resize" and bool(attributes.get("antialias")))
        return kind, inputs
