"""TensorRT 8.6 to 11, and TensorRT-RTX, on an NVIDIA GPU.

Running has not been tried on a GPU and is not run in CI: there, `tensorrt_engine` really parses and builds, with
TensorRT-RTX on a machine without a GPU, and the bookkeeping of this file runs against a fake CUDA.

Networks keep the types of the ONNX file: half precision and int8 must be in the graph, and TensorFloat-32 is off, so
that float32 is float32. CUDA is reached through NVIDIA's own bindings, `cuda.bindings.runtime`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import math
import re
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Executed, Options, Tensors, summarize, tensorrt_engine
from edgecv_runtime.backends.tensorrt_engine import MAX_BATCH, Gpu
from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed, ComputationError, EdgecvError, ModelFileError
from edgecv_runtime.manifest import Precision

# TensorRT's names of element types, and numpy's.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
_DTYPES |= {"UINT8": "uint8", "BOOL": "bool"}

# How the engine inspector names layers that do the work, and element types ("Channel major FP16 format ...", "Half").
_WORK = re.compile(r"convolution|correlation|gemm|matmul|matrixmultiply|fullyconnected")
_TYPES = {
    "int8": re.compile(r"int8"),
    "fp8": re.compile(r"fp8"),
    "bf16": re.compile(r"bf16|bfloat16"),
    "fp16": re.compile(r"fp16|half"),
    "float32": re.compile(r"fp32|float"),
}

_opening = threading.Lock()


class TensorRtBackend:
    """TensorRT on the first NVIDIA GPU; calls from several threads run one after the other.

    `Options.threads` counts CPU threads and has no meaning here. A batch larger than MAX_BATCH runs in parts.
    """

    streams = 1

    def __init__(self, model: Path, options: Options) -> None:
        self.probe()
        if options.device not in (Options().device, "gpu"):  # the default asks for nothing
            raise BadInput(f"tensorrt runs on device 'gpu', the first NVIDIA GPU, not on '{options.device}'")
        if options.precision not in self.precisions():
            raise BadInput(
                f"tensorrt takes its precision from the ONNX file, not {options.precision} by option; "
                f"float files run as: {', '.join(self.precisions())}"
            )
        self._model = model
        self._lock = threading.Lock()
        with _opening:  # two threads would build one engine twice
            engine = tensorrt_engine.load_or_build(model, gpu(), MAX_BATCH)
        self._session: _Session | None = _Session(engine, model, MAX_BATCH)

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network; outputs are copies the caller owns."""
        with self._lock:
            if self._session is None:
                raise Closed(f"tensorrt: {self._model.name} is closed")
            rows = len(next(iter(feeds.values())))
            most = self._session.max_batch
            if rows <= most:
                return self._session.run(feeds)
            parts = [
                self._session.run({name: tensor[start : start + most] for name, tensor in feeds.items()})
                for start in range(0, rows, most)
            ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def executed(self) -> Executed:
        """Count the engine's layers by precision; where it does not tell them, those of the network it was built from.

        An engine whose layers were fused into one names no types. Networks are strongly typed (TensorRT 10 and later),
        so what the parsed network says is what was built.
        """
        with self._lock:
            if self._session is None:
                raise Closed(f"tensorrt: {self._model.name} is closed")
            layers = inspected(self._session.inspect())
        return summarize(layers or tensorrt_engine.read_network(self._model).layers)

    def close(self) -> None:
        """Free the engine, its streams and its memory; closing twice is fine."""
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                session.close()

    @staticmethod
    def probe() -> dict[str, str]:
        """Versions of TensorRT and of the CUDA that the driver serves.

        Raises BackendUnavailable that says which is missing: GPU or driver, NVIDIA's bindings, or TensorRT.
        """
        found = gpu()
        library = tensorrt_engine.library()
        tensorrt_engine.check_serves(library, found)
        return {library.__name__: library.__version__, "cuda": found.cuda}

    @staticmethod
    def precisions(device: str = Options().device) -> tuple[Precision, ...]:
        """Float32 only: other precisions are in the ONNX file."""
        del device
        return ("float32",)


class _Session:
    """An execution context with a stream, and pinned host memory and GPU memory for the largest batch."""

    def __init__(self, engine: Any, model: Path, max_batch: int) -> None:
        self._engine = engine
        self._name = model.name
        self.max_batch = max_batch
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise ComputationError(f"tensorrt cannot run {model.name}: {tensorrt_engine.first_error()}")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._outputs = [name for name in names if engine.get_tensor_mode(name).name == "OUTPUT"]
        with contextlib.ExitStack() as stack:
            self._stream: Any = cuda("cudaStreamCreate")
            stack.callback(cuda, "cudaStreamDestroy", self._stream)
            self._buffers = {
                # Inputs come first: the sizes of the outputs follow from theirs.
                name: self._buffer(name, stack)
                for name in sorted(names, key=self._outputs.__contains__)
            }
            release = stack.pop_all().close
        self._release = weakref.finalize(self, release)  # also frees what was never closed
        self._release.atexit = False  # the driver may be gone by then

    def _buffer(self, name: str, stack: contextlib.ExitStack) -> _Buffer:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise ModelFileError(f"{self._name}: tensor '{name}' is {kind}, which numpy has not; end it with a Cast")
        if name in self._outputs:
            shape = tuple(self._context.get_tensor_shape(name))
        else:
            shape = tuple(self.max_batch if size < 0 else size for size in self._engine.get_tensor_shape(name))
            self._shape(name, shape)
            self.max_batch = shape[0]  # that of the file, where it is fixed
        if any(size < 0 for size in shape):
            raise ModelFileError(
                f"{self._name}: the size of output '{name}' depends on the data; tensorrt needs it fixed"
            )
        buffer = _Buffer(np.dtype(_DTYPES[kind]), math.prod(shape), stack)
        if not self._context.set_tensor_address(name, buffer.device):
            raise ComputationError(f"tensorrt refuses the memory of '{name}': {tensorrt_engine.first_error()}")
        return buffer

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Copy in, run, copy out, and wait."""
        kinds = cuda_runtime().cudaMemcpyKind
        for name, tensor in feeds.items():
            self._shape(name, tensor.shape)
            buffer = self._buffers[name]
            np.copyto(buffer.host(tensor.shape), tensor, casting="no")
            size, kind = tensor.nbytes, kinds.cudaMemcpyHostToDevice
            cuda("cudaMemcpyAsync", buffer.device, buffer.pinned, size, kind, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise ComputationError(f"tensorrt failed on {self._name}: {tensorrt_engine.first_error()}")
        answers = {}
        for name in self._outputs:
            buffer = self._buffers[name]
            answers[name] = buffer.host(tuple(self._context.get_tensor_shape(name)))
            size, kind = answers[name].nbytes, kinds.cudaMemcpyDeviceToHost
            cuda("cudaMemcpyAsync", buffer.pinned, buffer.device, size, kind, self._stream)
        cuda("cudaStreamSynchronize", self._stream)
        return {name: answer.copy() for name, answer in answers.items()}

    def inspect(self) -> str:
        """What TensorRT's inspector tells of the engine, as JSON."""
        formats = tensorrt_engine.library().LayerInformationFormat
        text: str = self._engine.create_engine_inspector().get_engine_information(formats.JSON)
        return text

    def close(self) -> None:
        """Free everything; the context goes before its engine."""
        self._context = None
        self._engine = None
        self._buffers = {}
        self._release()

    def _shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise ComputationError(f"tensorrt refuses '{name}' of shape {shape}: {tensorrt_engine.first_error()}")


class _Buffer:
    """Memory of one tensor: pinned on the host, so that copies need no second one, and on the GPU."""

    def __init__(self, dtype: np.dtype[Any], size: int, stack: contextlib.ExitStack) -> None:
        self._dtype = dtype
        count = max(1, size * dtype.itemsize)
        self.device: int = cuda("cudaMalloc", count)
        stack.callback(cuda, "cudaFree", self.device)
        self.pinned: int = cuda("cudaHostAlloc", count, 0)
        stack.callback(cuda, "cudaFreeHost", self.pinned)
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.pinned))

    def host(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first part of the pinned memory, as a tensor of that shape."""
        size = math.prod(shape) * self._dtype.itemsize
        return self._bytes[:size].view(self._dtype).reshape(shape)


def inspected(text: str) -> dict[str, int]:
    """Count convolutions and matrix products by precision in what the engine inspector writes.

    Gives {} when it says nothing, or when part of the network was fused into a layer without types.
    """
    try:
        layers = json.loads(text).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return {}  # some versions write JSON that is not valid; the network is asked instead
    counts: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict) or "ForeignNode" in layer.get("Name", ""):
            return {}
        if _WORK.search(f"{layer.get('LayerType')} {layer.get('ParameterType')}".lower()):
            counts[_type_of(layer)] += 1
    return {} if "" in counts else dict(counts)


def _type_of(layer: dict[str, Any]) -> str:
    """Precision of a layer's first input, or ""; TensorRT 11 names the field otherwise than those before."""
    inputs = [each for each in layer.get("Inputs", []) if isinstance(each, dict)]
    said = " ".join(str(value) for each in inputs[:1] for key, value in each.items() if "datatype" in key.lower())
    return next((name for name, pattern in _TYPES.items() if pattern.search(said.lower())), "")


@functools.cache
def gpu() -> Gpu:
    """The first NVIDIA GPU; raises BackendUnavailable when there is none, or no driver, or no way to reach it."""
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)  # quick, and machines without a GPU end here
    except OSError as exc:
        raise BackendUnavailable(
            f"backend 'tensorrt' needs an NVIDIA GPU and its driver, but there is no {driver}: "
            "install the driver, or take another backend"
        ) from exc
    version: int = cuda("cudaDriverGetVersion", error=BackendUnavailable)
    if not cuda("cudaGetDeviceCount", error=BackendUnavailable):
        raise BackendUnavailable("backend 'tensorrt' needs an NVIDIA GPU: the driver finds none")
    facts = cuda("cudaGetDeviceProperties", 0, error=BackendUnavailable)
    return Gpu(
        name=facts.name.split(b"\0")[0].decode(errors="replace"),
        compute_capability=(facts.major, facts.minor),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
    )


@functools.cache
def cuda_runtime() -> Any:
    """NVIDIA's Python bindings of the CUDA runtime."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as exc:
        raise BackendUnavailable(
            "backend 'tensorrt' needs NVIDIA's CUDA bindings: pip install cuda-bindings, of the driver's CUDA version"
        ) from exc


def cuda(function: str, *given: Any, error: type[EdgecvError] = ComputationError) -> Any:
    """Call a function of the CUDA runtime and give its value; raises `error` in CUDA's own words."""
    runtime = cuda_runtime()
    status, *values = getattr(runtime, function)(*given)
    if status != runtime.cudaError_t.cudaSuccess:
        words = runtime.cudaGetErrorString(status)[1].decode()
        hint = "; update the driver, or install the cuda-bindings of its CUDA version" if "driver" in words else ""
        raise error(f"tensorrt: {function}: {words}{hint}")
    return values[0] if values else None
