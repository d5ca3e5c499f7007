"""What an output of a graph ends in: the operator that decides what its values mean, and what comes behind it."""

from __future__ import annotations

from collections.abc import Mapping

from edgecv_runtime.records import Record

# Operators that hand values on as they are.
_PASSING = {"Identity", "Cast", "CastLike", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
_QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}
# Operators that scale, shift or average: of a linear layer's outputs they make others that have no bounds either.
_SCALING = {"Add", "Sub", "Mul", "Div", "Neg", "BatchNormalization", "GlobalAveragePool", "AveragePool", "ReduceMean"}
_LINEAR = {"Gemm", "MatMul", "Conv", "ConvTranspose", "QGemm", "QLinearConv", "QLinearMatMul", "MatMulInteger"}
_LINEAR |= {"ConvInteger", "MatMulIntegerToFloat", "MatMulNBits"}
_SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid"}
# Operators whose outputs have bounds, and are no probabilities.
_BOUNDED = {"Tanh", "Softsign", "Erf", "Sin", "Cos", "Atan", "Asin", "Sign", "LpNormalization"}
# Operators that bend each value: behind a squashing one they say no more than it; else they are what the graph ends in.
_BENDING = {"Abs", "Clip", "Exp", "Log", "Max", "Mean", "Min", "Pow", "Reciprocal", "Relu", "Round", "Sqrt", "Sum"}
_QUANTIZED = {"QLinearSoftmax": "Softmax", "QLinearSigmoid": "Sigmoid"}
_STANDARD = {"", "ai.onnx", "com.microsoft"}


class Maker(Record, frozen=True):
    """The node that computes a tensor: its operator with its domain, and its inputs."""

    operator: str
    domain: str
    inputs: tuple[str, ...]


class Ending(Record, frozen=True):
    """The last operator that decides what values mean, "" where none is known; what changes them behind it.

    quantized: whether the values pass through integers behind it.
    """

    operator: str = ""
    behind: tuple[str, ...] = ()
    quantized: bool = False

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer: nothing bounds its outputs."""
        return self.operator in _LINEAR

    @property
    def bounded(self) -> bool:
        """Whether it keeps its outputs within bounds that are not those of a probability."""
        return self.operator in _BOUNDED

    @property
    def changed(self) -> bool:
        """Whether something is done to probabilities behind the operator that makes them."""
        return bool(self.behind) and self.operator in _SQUASHING

    def __str__(self) -> str:
        article = "an" if self.operator[:1] in "AEIOU" else "a"
        return f"{article} {self.operator}" + (f" with {', '.join(self.behind)} behind it" if self.behind else "")


def of(name: str, makers: Mapping[str, Maker]) -> Ending:
    """Follow an output back to what decides on its meaning; `makers` by the names of the tensors they compute."""
    behind: list[str] = []
    bent: Ending | None = None
    quantized, seen = False, {name}
    while True:
        maker = makers.get(name)
        if maker is None or maker.domain not in _STANDARD:
            return bent or Ending()
        kind = _QUANTIZED.get(maker.operator, maker.operator)
        quantized = quantized or kind != maker.operator or kind in _QUANTIZING
        computed = [each for each in maker.inputs if not _is_constant(each, makers)]
        if kind in _SCALING:
            behind.insert(0, kind)
        elif kind in _PASSING | _QUANTIZING:
            computed = [each for each in maker.inputs[:1] if each in computed]
        elif kind in _BENDING:
            bent = bent or Ending(kind, tuple(behind), quantized)
            behind.insert(0, kind)
        elif bent is not None and kind not in _SQUASHING | _BOUNDED:
            return bent
        elif kind == "Softmax" and behind[:1] == ["Log"]:
            return Ending("LogSoftmax", tuple(behind[1:]), quantized)
        else:
            return Ending(kind, tuple(behind), quantized)
        if len(computed) != 1 or computed[0] in seen:
            return bent or Ending()
        name = computed[0]
        seen.add(name)


def _is_constant(name: str, makers: Mapping[str, Maker]) -> bool:
    """Whether a tensor is stored in the file: as it is, or quantized, or in another shape."""
    seen: set[str] = set()
    while name in makers and name not in seen:
        seen.add(name)
        maker = makers[name]
        if maker.operator != "Constant" and (maker.operator not in _PASSING | _QUANTIZING or not maker.inputs):
            return False
        name = maker.inputs[0] if maker.inputs else ""
    return True
