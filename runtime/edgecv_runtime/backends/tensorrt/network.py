"""What TensorRT's parser makes of an ONNX file: inputs and outputs, batches, and the precision of its layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgecv_runtime import onnxfile
from edgecv_runtime.backends.tensorrt import api
from edgecv_runtime.backends.tensorrt.api import ILayer, ITensor, Library
from edgecv_runtime.errors import BackendUnavailable, ModelFileError

MAX_BATCH = 16

Shape = tuple[int, ...]

# Layer types of the parsed network that do the work, those that only pass a tensor on, and its names of precisions.
_WORK = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED"}
_PASSING = {"SHUFFLE", "IDENTITY"}
_PRECISIONS = {"FLOAT": "float32", "HALF": "fp16"}
# Layers that compute nothing, or whose types are their purpose.
_TYPELESS = {"CONSTANT", "SHAPE", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a parsed network; -1 is the dynamic batch. profile: smallest, usual and largest shape."""

    name: str
    dtype: str
    shape: Shape
    profile: tuple[Shape, Shape, Shape] | None = None


@dataclass(frozen=True)
class Network:
    """What the parser made of an ONNX file. layers: convolutions and matrix products by precision."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: dict[str, int]


def read_network(model: Path, max_batch: int = MAX_BATCH) -> Network:
    """Parse an ONNX file as `build_engine` does and tell what came out; with TensorRT-RTX this needs no GPU."""
    trt = api.library()
    parsed = Parsed(model, trt, strong=api.abilities(trt).strong_typing)
    profiles = parsed.profiles(max_batch)
    return Network(
        inputs=tuple(_tensor(tensor, profiles.get(tensor.name)) for tensor in parsed.inputs),
        outputs=tuple(_tensor(tensor) for tensor in parsed.outputs),
        layers=dict(Counter(parsed.precisions().values())),
    )


class Parsed:
    """A network parsed from an ONNX file; the parser owns the weights, so they stay together.

    strong: the network keeps the types of the file by itself; else `permissions` and `pin_float32` see to it.
    """

    def __init__(self, model: Path, trt: Library, strong: bool) -> None:
        _check_qdq(model, trt)
        log = api.logger(trt)
        log.errors.clear()
        self._model = model
        flags = trt.NetworkDefinitionCreationFlag.__members__
        self._strong = strong
        wanted = ["EXPLICIT_BATCH"] + ["STRONGLY_TYPED"] * strong  # since TensorRT 10 there is no other batch
        try:
            self.builder = trt.Builder(log)
        except TypeError as exc:  # how pybind11 says that the constructor gave nothing
            raise BackendUnavailable(f"tensorrt cannot start: {api.first_error()}") from exc
        self.network = self.builder.create_network(sum(1 << int(flags[name]) for name in wanted if name in flags))
        self._parser = trt.OnnxParser(self.network, log)
        if not self._parser.parse_from_file(str(model)):
            raise ModelFileError(f"{model}: tensorrt cannot parse {self._refused()}")
        log.errors.clear()
        self.inputs = [self.network.get_input(index) for index in range(self.network.num_inputs)]
        self.outputs = [self.network.get_output(index) for index in range(self.network.num_outputs)]
        self.layers = [self.network.get_layer(index) for index in range(self.network.num_layers)]

    def _refused(self) -> str:
        """The first node that the parser refused, and why."""
        if not self._parser.num_errors:
            return f"it: {api.first_error()}"
        error = self._parser.get_error(0)
        operator = error.node_operator() if hasattr(error, "node_operator") else ""  # TensorRT 10 and later
        node = f"node '{error.node_name()}' ({operator})" if operator else f"node number {error.node()}"
        lines = [line for line in error.desc().splitlines() if not line.startswith("Invalid Node")]
        reason = api.line(lines[0] if lines else error.desc())
        if operator:
            reason = reason.removeprefix(f"{error.node_name()}: ")
        if operator in ("QuantizeLinear", "DequantizeLinear"):
            reason += "; it takes symmetric int8 with unquantized bias (int8-s8s8)"
        return f"{node}: {reason}"

    def profiles(self, max_batch: int) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Smallest, usual and largest shape of each input with a dynamic batch."""
        found = {}
        for tensor in self.inputs:
            batch, *rest = tuple(tensor.shape)
            if any(size < 0 for size in rest):
                raise ModelFileError(
                    f"{self._model}: input '{tensor.name}' {tuple(tensor.shape)} is dynamic beyond its batch; "
                    "export it with fixed height and width"
                )
            if batch < 0:
                found[tensor.name] = ((1, *rest), (1, *rest), (max_batch, *rest))
        return found

    def precisions(self) -> dict[int, str]:
        """Precision of each convolution and matrix product, by the layer's index.

        int8 where both operands come out of a DequantizeLinear.
        """
        makers = {output.name: layer for layer in self.layers for output in _outputs(layer)}

        def stored(tensor: ITensor) -> str:
            """How a tensor is held in memory before it is dequantized, if it is."""
            maker = makers.get(tensor.name)
            while maker is not None and maker.type.name in _PASSING:
                maker = makers.get(_first(maker).name)
            if maker is not None and maker.type.name == "DEQUANTIZE":
                return _precision(_first(maker))
            return _precision(tensor)

        found = {}
        for index, layer in enumerate(self.layers):
            if layer.type.name in _WORK:
                data, weight = _first(layer), layer.get_input(1) if layer.num_inputs > 1 else None
                same = weight is not None and stored(weight) == stored(data)
                found[index] = stored(data) if same else _precision(data)
        return found

    def permissions(self) -> list[str]:
        """The builder flags that let a weakly typed network have the types of the file."""
        if self._strong:
            return []
        kinds = {output.dtype.name for layer in self.layers for output in _outputs(layer)}
        quantized = any(layer.type.name == "QUANTIZE" for layer in self.layers)
        return ["FP16"] * ("HALF" in kinds) + ["INT8"] * quantized

    def pin_float32(self, float32: api.Member) -> None:
        """Hold the float32 layers of a weakly typed network to it: the permission of fp16 is for the whole network."""
        for layer in self.layers:
            outputs = _outputs(layer)
            if layer.type.name not in _TYPELESS and all(output.dtype.name == "FLOAT" for output in outputs):
                layer.precision = float32
                for index in range(len(outputs)):
                    layer.set_output_type(index, float32)


def _check_qdq(model: Path, trt: Library) -> None:
    """Check the file, and its Q/DQ: TensorRT 8.6 takes float16 scales, which opset 19 allows, for float32 ones."""
    header = onnxfile.read(model)
    if header.operators["QuantizeLinear"] and header.opset >= 19 and not api.abilities(trt).strong_typing:
        raise ModelFileError(
            f"{model}: {trt.__name__} {trt.__version__} takes no Q/DQ of opset 19 or later; "
            "take the variant int8-s8s8, or export it with opset 17"
        )


def _outputs(layer: ILayer) -> list[ITensor]:
    return [layer.get_output(index) for index in range(layer.num_outputs)]


def _first(layer: ILayer) -> ITensor:
    tensor = layer.get_input(0)
    assert tensor is not None  # only optional inputs, later ones, can be missing
    return tensor


def _precision(tensor: ITensor) -> str:
    kind = tensor.dtype.name
    return _PRECISIONS.get(kind, kind.lower())


def _tensor(tensor: ITensor, profile: tuple[Shape, Shape, Shape] | None = None) -> Tensor:
    return Tensor(tensor.name, tensor.dtype.name, tuple(tensor.shape), profile)
