"""One worker: an execution context with its stream, its memory, and the CUDA graph of its present shape."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.backends.tensorrt import api
from edgecv_runtime.backends.tensorrt.cuda import cuda, cuda_runtime
from edgecv_runtime.backends.tensorrt.engine import Engine
from edgecv_runtime.errors import ComputationError, ModelFileError

log = logging.getLogger("edgecv.tensorrt")

# TensorRT's names of element types, and numpy's.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
_DTYPES |= {"UINT8": "uint8", "BOOL": "bool"}


class Worker:
    """Runs batches of up to `max_batch` rows, one at a time; used by one thread at a time.

    graphs: from the second batch of a shape on, copies and inference are one CUDA graph. A graph is tied to the state
    of its context, so a new shape ends it (NVIDIA's guide, "CUDA Graphs": run once after a change of shape, then
    record; one context for each graph).
    """

    def __init__(self, engine: Engine, max_batch: int, graphs: bool) -> None:
        self.max_batch = max_batch
        self._name = engine.name
        self._graphs = graphs
        self._context = engine.context()
        names = [engine.cuda.get_tensor_name(index) for index in range(engine.cuda.num_io_tensors)]
        self._outputs = [name for name in names if engine.cuda.get_tensor_mode(name).name == "OUTPUT"]
        self._inputs = [name for name in names if name not in self._outputs]
        self._shapes: list[tuple[int, ...]] = []
        self._views: dict[str, NDArray[Any]] = {}
        self._graph: list[Any] = []  # the recorded graph, or none; a list, so that the release below sees it
        with contextlib.ExitStack() as stack:
            self._stream: Any = cuda("cudaStreamCreateWithFlags", cuda_runtime().cudaStreamNonBlocking)
            stack.callback(cuda, "cudaStreamDestroy", self._stream)
            # Inputs come first: the sizes of the outputs follow from theirs.
            self._buffers = {name: self._buffer(name, engine, stack) for name in (*self._inputs, *self._outputs)}
            stack.callback(_drop, self._graph)
            release = stack.pop_all().close
        self._release = weakref.finalize(self, release)  # also frees what was never closed
        self._release.atexit = False  # the driver may be gone by then

    def run(self, feeds: Tensors) -> tuple[dict[str, NDArray[Any]], bool]:
        """Copy in, run, copy out, and wait -> outputs that the caller owns, and whether the shape was new."""
        shapes = [feeds[name].shape for name in self._inputs]
        new = shapes != self._shapes
        if new:
            self._reshape(shapes)
        elif self._graphs and not self._graph:
            self._record()
        for name in self._inputs:
            np.copyto(self._views[name], feeds[name], casting="no")
        if self._graph:
            cuda("cudaGraphLaunch", self._graph[0], self._stream)
        else:
            self._enqueue()
        cuda("cudaStreamSynchronize", self._stream)
        return {name: self._views[name].copy() for name in self._outputs}, new

    def close(self) -> None:
        """Free everything; closing twice is fine."""
        self._views = {}
        self._buffers = {}
        self._release()

    def _buffer(self, name: str, engine: Engine, stack: contextlib.ExitStack) -> _Buffer:
        kind = engine.cuda.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise ModelFileError(f"{self._name}: tensor '{name}' is {kind}, which numpy has not; end it with a Cast")
        if name in self._inputs:
            shape = tuple(self.max_batch if size < 0 else size for size in engine.cuda.get_tensor_shape(name))
            self._set_shape(name, shape)
            self.max_batch = shape[0]  # that of the file, where it is fixed
        else:
            shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise ModelFileError(
                f"{self._name}: the size of output '{name}' depends on the data; tensorrt needs it fixed"
            )
        buffer = _Buffer(np.dtype(_DTYPES[kind]), math.prod(shape), stack)
        if not self._context.set_tensor_address(name, buffer.device):
            raise ComputationError(f"tensorrt refuses the memory of '{name}': {api.first_error()}")
        return buffer

    def _reshape(self, shapes: list[tuple[int, ...]]) -> None:
        """Set the shapes of the inputs and cut the buffers to them and to the outputs that follow."""
        _drop(self._graph)
        self._shapes = []  # nothing is known until all is set
        for name, shape in zip(self._inputs, shapes, strict=True):
            self._set_shape(name, shape)
            self._views[name] = self._buffers[name].host(shape)
        for name in self._outputs:
            self._views[name] = self._buffers[name].host(tuple(self._context.get_tensor_shape(name)))
        self._shapes = shapes

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise ComputationError(f"tensorrt refuses '{name}' of shape {shape}: {api.first_error()}")

    def _enqueue(self) -> None:
        """Put copies and inference on the stream."""
        kinds = cuda_runtime().cudaMemcpyKind
        for name in self._inputs:
            buffer, size = self._buffers[name], self._views[name].nbytes
            cuda("cudaMemcpyAsync", buffer.device, buffer.pinned, size, kinds.cudaMemcpyHostToDevice, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise ComputationError(f"tensorrt failed on {self._name}: {api.first_error()}")
        for name in self._outputs:
            buffer, size = self._buffers[name], self._views[name].nbytes
            cuda("cudaMemcpyAsync", buffer.pinned, buffer.device, size, kinds.cudaMemcpyDeviceToHost, self._stream)

    def _record(self) -> None:
        """Record what `_enqueue` does as a CUDA graph; where that fails, this worker goes on without.

        The shape has run once before: what it changes inside the context must not be recorded.
        """
        mode = cuda_runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            cuda("cudaStreamBeginCapture", self._stream, mode)
            try:
                self._enqueue()
            finally:
                graph = cuda("cudaStreamEndCapture", self._stream)
            try:
                self._graph.append(cuda("cudaGraphInstantiate", graph, 0))
            finally:
                cuda("cudaGraphDestroy", graph)
        except ComputationError as exc:
            self._graphs = False
            cuda_runtime().cudaGetLastError()  # forget it: the next call would report it again
            log.warning("%s: runs without a CUDA graph: %s", self._name, exc)


class _Buffer:
    """Memory of one tensor: pinned on the host, so that copies need no second one, and on the GPU."""

    def __init__(self, dtype: np.dtype[Any], size: int, stack: contextlib.ExitStack) -> None:
        self._dtype = dtype
        count = max(1, size * dtype.itemsize)
        self.device = int(cuda("cudaMalloc", count))
        stack.callback(cuda, "cudaFree", self.device)
        self.pinned = int(cuda("cudaHostAlloc", count, cuda_runtime().cudaHostAllocDefault))
        stack.callback(cuda, "cudaFreeHost", self.pinned)
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(self.pinned))

    def host(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first part of the pinned memory, as a tensor of that shape."""
        size = math.prod(shape) * self._dtype.itemsize
        return self._bytes[:size].view(self._dtype).reshape(shape)


def _drop(graph: list[Any]) -> None:
    """Free a recorded graph, if there is one."""
    while graph:
        cuda("cudaGraphExecDestroy", graph.pop())
