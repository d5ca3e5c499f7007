"""From an ONNX file to a TensorRT engine, and the cache of engines; no GPU is needed to build with TensorRT-RTX.

An engine is valid for one TensorRT version and one GPU: it is a cache entry, never part of a bundle.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgecv_runtime import files, onnxfile
from edgecv_runtime.errors import BackendUnavailable, BadInput, ModelFileError

MAX_BATCH = 16
LIBRARIES = ("tensorrt", "tensorrt_rtx")

Shape = tuple[int, ...]

# Layer types of the parsed network that do the work, those that only pass a tensor on, and its names of precisions.
_WORK = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED"}
_PASSING = {"SHUFFLE", "IDENTITY"}
_PRECISIONS = {"FLOAT": "float32", "HALF": "fp16"}

# What surrounds the reason in TensorRT's messages: the kind of error before it, its own source file and flags after it.
_BEFORE = re.compile(r"^.*?(?:Error Code \d+: [^(]*\(|Assertion failed: [^:]*:)\s*")
_AFTER = re.compile(r"\s*(?:In \w+ at \S+:\d+|Please set k).*$")
_CUDA = re.compile(r"\(cudaError \d+: ([^)]*)\)")


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, compute capability (8, 6), and the CUDA version that its driver serves."""

    name: str
    compute_capability: tuple[int, int]
    cuda: str


@dataclass(frozen=True)
class Tensor:
    """An input or output of a parsed network; -1 is the dynamic batch. profile: smallest, usual and largest shape."""

    name: str
    dtype: str
    shape: Shape
    profile: tuple[Shape, Shape, Shape] | None = None


@dataclass(frozen=True)
class Network:
    """What TensorRT's parser made of an ONNX file. layers: convolutions and matrix products by precision."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: dict[str, int]


def library() -> Any:
    """TensorRT's Python module, or TensorRT-RTX's; raises BackendUnavailable with the cure."""
    reasons = []
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as exc:  # OSError: the package is there, its libraries are not
            reasons.append(exc)
    broken = next((exc for exc in reasons if getattr(exc, "name", None) not in LIBRARIES), None)
    if broken is not None:
        raise BackendUnavailable(
            f"backend 'tensorrt' is installed, but does not load: {_line(str(broken))}"
        ) from broken
    raise BackendUnavailable(
        "backend 'tensorrt' is not installed: pip install 'edgecv[tensorrt]'; on a Jetson it is part of JetPack, and a "
        "virtual environment sees it with --system-site-packages"
    ) from reasons[0]


def check_serves(trt: Any, gpu: Gpu) -> None:
    """Raise BackendUnavailable when TensorRT-RTX, made for GeForce and RTX, does not serve a GPU."""
    known = _capabilities(trt)
    if known and gpu.compute_capability not in known:
        raise BackendUnavailable(
            f"TensorRT-RTX does not serve {gpu.name} (compute capability {_dotted(gpu.compute_capability)}; "
            f"it serves {', '.join(map(_dotted, known))}): install TensorRT itself, pip install tensorrt"
        )


def read_network(model: Path, max_batch: int = MAX_BATCH) -> Network:
    """Parse an ONNX file as `build_engine` does and tell what came out; with TensorRT-RTX this needs no GPU."""
    parsed = _Parsed(model, library())
    profiles = parsed.profiles(max_batch)
    return Network(
        inputs=tuple(_tensor(tensor, profiles.get(tensor.name)) for tensor in parsed.inputs),
        outputs=tuple(_tensor(tensor) for tensor in parsed.outputs),
        layers=parsed.layers(),
    )


def build_engine(
    model: Path, *, compute_capability: tuple[int, int] | None = None, max_batch: int = MAX_BATCH
) -> bytes:
    """Build a serialized engine from an ONNX file, for batches of 1 to `max_batch`, fastest at 1.

    compute_capability: of the GPU to build for, (8, 6) say: TensorRT-RTX only, and no GPU is needed here;
    None: for the GPU of this machine.
    Raises ModelFileError in one line, with the node that TensorRT does not take.
    """
    if max_batch < 1:
        raise BadInput(f"max_batch must be at least 1, got {max_batch}")
    trt = library()
    parsed = _Parsed(model, trt)
    config = parsed.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: it rounds float32 to 10 bits of mantissa
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows no precisions
    for name in parsed.weak_flags():
        config.set_flag(getattr(trt.BuilderFlag, name))
    _aim(trt, config, compute_capability)
    profiles = parsed.profiles(max_batch)
    if profiles:
        profile = parsed.builder.create_optimization_profile()
        for name, shapes in profiles.items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    engine = parsed.builder.build_serialized_network(parsed.network, config)
    if engine is None:
        raise ModelFileError(f"{model}: tensorrt cannot build an engine: {first_error()}")
    return bytes(engine)


def load_or_build(model: Path, gpu: Gpu, max_batch: int) -> Any:
    """A deserialized engine: the cached one, or one built now when there is none or it does not load.

    A build takes seconds on a desktop and minutes on a Jetson.
    """
    trt = library()
    path = entry(model, trt, gpu, max_batch)
    engine = None
    with contextlib.suppress(OSError):  # not built yet, or not readable: built now
        engine = _runtime(trt).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        content = build_engine(model, max_batch=max_batch)
        with contextlib.suppress(OSError):  # read-only or full: the next start builds again, no more
            files.write(path, content)
        engine = _runtime(trt).deserialize_cuda_engine(content)
    if engine is None:
        raise ModelFileError(f"{model}: tensorrt cannot load the engine it built: {first_error()}")
    return engine


def entry(model: Path, trt: Any, gpu: Gpu, max_batch: int) -> Path:
    """The cache entry of an engine: its name is a hash of all that the engine depends on."""
    external = [model.parent / location for location in onnxfile.read(model).external]
    key = [
        [files.sha256(file) for file in (model, *external)],
        [trt.__name__, trt.__version__],
        [gpu.name, *gpu.compute_capability],
        ["batch", 1, 1, max_batch],
    ]
    return files.cache_folder("tensorrt") / f"{hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]}.engine"


def first_error() -> str:
    """What TensorRT logged first since the last time it was asked, in one line."""
    errors = _log(library()).errors
    said = _line(errors[0]) if errors else "it gives no reason"
    errors.clear()
    return said


class _Parsed:
    """A network parsed from an ONNX file; the parser owns the weights, so they stay together."""

    def __init__(self, model: Path, trt: Any) -> None:
        onnxfile.read(model)
        log = _log(trt)
        log.errors.clear()
        self._model = model
        flags = trt.NetworkDefinitionCreationFlag.__members__
        self._strong = "STRONGLY_TYPED" in flags  # TensorRT 9 and later; explicit batch is the only one since 10
        wanted = [flags[name] for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if name in flags]
        try:
            self.builder = trt.Builder(log)
        except TypeError as exc:  # how pybind11 says that the constructor gave nothing
            raise BackendUnavailable(f"tensorrt cannot start: {first_error()}") from exc
        self.network = self.builder.create_network(sum(1 << int(flag) for flag in wanted))
        self._parser = trt.OnnxParser(self.network, log)
        if not self._parser.parse_from_file(str(model)):
            raise ModelFileError(f"{model}: tensorrt cannot parse {self._refused()}")
        log.errors.clear()
        self.inputs = [self.network.get_input(index) for index in range(self.network.num_inputs)]
        self.outputs = [self.network.get_output(index) for index in range(self.network.num_outputs)]
        self._layers = [self.network.get_layer(index) for index in range(self.network.num_layers)]

    def _refused(self) -> str:
        """The first node that the parser refused, and why."""
        if not self._parser.num_errors:
            return f"it: {first_error()}"
        error = self._parser.get_error(0)
        operator = error.node_operator() if hasattr(error, "node_operator") else ""  # TensorRT 10 and later
        node = f"node '{error.node_name()}' ({operator})" if operator else f"node number {error.node()}"
        lines = [line for line in error.desc().splitlines() if not line.startswith("Invalid Node")]
        reason = _line(lines[0] if lines else error.desc())
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

    def layers(self) -> dict[str, int]:
        """Convolutions and matrix products by precision: int8 where both operands come out of a DequantizeLinear."""
        makers = {layer.get_output(index).name: layer for layer in self._layers for index in range(layer.num_outputs)}

        def stored(tensor: Any) -> str:
            """How a tensor is held in memory before it is dequantized, if it is."""
            maker = makers.get(tensor.name)
            while maker is not None and maker.type.name in _PASSING:
                maker = makers.get(maker.get_input(0).name)
            if maker is not None and maker.type.name == "DEQUANTIZE":
                return _precision(maker.get_input(0))
            return _precision(tensor)

        counts: Counter[str] = Counter()
        for layer in self._layers:
            if layer.type.name in _WORK:
                data, *weights = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
                same = bool(weights) and weights[0] is not None and stored(weights[0]) == stored(data)
                counts[stored(data) if same else _precision(data)] += 1
        return dict(counts)

    def weak_flags(self) -> list[str]:
        """What a weakly typed network (TensorRT 8.6) must be allowed, so that it can keep the file's types."""
        if self._strong:
            return []
        kinds = {layer.get_output(index).dtype.name for layer in self._layers for index in range(layer.num_outputs)}
        quantized = any(layer.type.name == "QUANTIZE" for layer in self._layers)
        return ["FP16"] * ("HALF" in kinds) + ["INT8"] * quantized


def _aim(trt: Any, config: Any, compute_capability: tuple[int, int] | None) -> None:
    """Say which GPU an engine is for; TensorRT itself always builds for the one it runs on."""
    known = _capabilities(trt)
    if not known:
        if compute_capability is not None:
            raise BadInput("only TensorRT-RTX builds for a GPU that is not here: pip install tensorrt-rtx-cu13")
        return
    target = trt.ComputeCapability.CURRENT
    if compute_capability is not None:
        if compute_capability not in known:
            raise BadInput(
                f"{trt.__name__} cannot build for compute capability {_dotted(compute_capability)}; "
                f"it can for {', '.join(map(_dotted, known))}"
            )
        target = known[compute_capability]
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def _capabilities(trt: Any) -> dict[tuple[int, int], Any]:
    """The GPUs that TensorRT-RTX can build for, by compute capability; {} for TensorRT itself."""
    members = getattr(trt, "ComputeCapability", None)
    if members is None:
        return {}
    numbered = {name: member for name, member in members.__members__.items() if name[2:].isdigit()}
    found = {divmod(int(name[2:]), 10): member for name, member in numbered.items()}
    return dict(sorted(found.items()))


def _dotted(compute_capability: tuple[int, int]) -> str:
    return "{}.{}".format(*compute_capability)


def _precision(tensor: Any) -> str:
    kind: str = tensor.dtype.name
    return _PRECISIONS.get(kind, kind.lower())


def _tensor(tensor: Any, profile: tuple[Shape, Shape, Shape] | None = None) -> Tensor:
    return Tensor(tensor.name, tensor.dtype.name, tuple(tensor.shape), profile)


@functools.cache
def _runtime(trt: Any) -> Any:
    """One runtime for the process: it must outlive its engines."""
    return trt.Runtime(_log(trt))


@functools.cache
def _log(trt: Any) -> Any:
    """TensorRT's logger, one for the process: it keeps errors, and nothing is printed."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(message)

    return Log()


def _line(message: str) -> str:
    """The reason in a message of TensorRT, without the names of its source files."""
    first = (message.strip().splitlines() or ["it gives no reason"])[0]
    cuda = _CUDA.search(first)
    if cuda:
        return cuda[1]
    return _AFTER.sub("", _BEFORE.sub("", first)).strip(" .")
