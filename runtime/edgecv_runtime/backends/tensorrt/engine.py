"""A deserialized engine: found in the cache or built now, and how execution contexts are made of it."""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from edgecv_runtime import files
from edgecv_runtime.backends.tensorrt import api, cache
from edgecv_runtime.backends.tensorrt.api import (
    ICudaEngine,
    IExecutionContext,
    IRuntimeCache,
    IRuntimeConfig,
    Library,
    Runtime,
)
from edgecv_runtime.backends.tensorrt.build import Plan
from edgecv_runtime.backends.tensorrt.builder import build_engine
from edgecv_runtime.backends.tensorrt.cuda import Gpu
from edgecv_runtime.errors import ComputationError, ModelFileError

log = logging.getLogger("edgecv.tensorrt")

# How the engine inspector names layers that do the work, and element types ("Channel major FP16 format ...", "Half").
_WORK = re.compile(r"convolution|correlation|gemm|matmul|matrixmultiply|fullyconnected")
_TYPES = {
    "int8": re.compile(r"int8"),
    "fp8": re.compile(r"fp8"),
    "bf16": re.compile(r"bf16|bfloat16"),
    "fp16": re.compile(r"fp16|half"),
    "float32": re.compile(r"fp32|float"),
}


class Engine:
    """An engine for this machine's GPU, ready to make contexts.

    A build takes seconds on a desktop and minutes on a Jetson. graphs: whether TensorRT-RTX may record CUDA graphs;
    with TensorRT the worker does it.
    """

    def __init__(self, model: Path, gpu: Gpu, plan: Plan, graphs: bool) -> None:
        self.name = model.name
        self._trt = api.library()
        self._graphs = graphs
        self._lock = threading.Lock()
        folder = cache.home()
        key = cache.key(model, self._trt, gpu, plan)
        self.cuda: ICudaEngine = self._load_or_build(model, plan, key, folder)
        self._kernels: IRuntimeCache | None = None
        self._configs: list[IRuntimeConfig] = []  # they live as long as the contexts made with them
        self._kernels_file = folder / f"{key.name}.kernels"
        self._kept = b""
        if api.abilities(self._trt).rtx:
            self._kernels = self._load_kernels()

    def context(self) -> IExecutionContext:
        """A new execution context; raises ComputationError when there is no memory for it, say."""
        with self._lock:
            made = self._configured_context() if self._kernels is not None else self.cuda.create_execution_context()
        if made is None:
            raise ComputationError(f"tensorrt cannot run {self.name}: {api.first_error()}")
        return made

    def keep_kernels(self) -> None:
        """Write the kernels that TensorRT-RTX has compiled since they were last kept."""
        if self._kernels is None:
            return
        with self._lock:
            compiled = bytes(self._kernels.serialize())
            if compiled == self._kept:
                return
            try:
                files.write(self._kernels_file, compiled)
                self._kept = compiled
            except OSError as exc:
                log.warning("%s: cannot be written, so the next start compiles again: %s", self._kernels_file, exc)

    def layers(self) -> dict[str, int]:
        """Convolutions and matrix products by precision as the inspector tells them, or {} where it does not."""
        form = self._trt.LayerInformationFormat.__members__["JSON"]
        return inspected(self.cuda.create_engine_inspector().get_engine_information(form))

    def _load_or_build(self, model: Path, plan: Plan, key: cache.Key, folder: Path) -> ICudaEngine:
        kept = cache.load(key, folder)
        if kept is not None:
            engine = self._deserialize(kept, plan)
            if engine is not None:
                return engine
            log.warning("%s: its cached engine does not load, building again: %s", model.name, api.first_error())
        content = build_engine(model, plan, timing=cache.timing_file(key, folder))
        cache.store(key, content, folder)
        engine = self._deserialize(content, plan)
        if engine is None:
            raise ModelFileError(f"{model}: tensorrt cannot load the engine it built: {api.first_error()}")
        return engine

    def _deserialize(self, content: bytes, plan: Plan) -> ICudaEngine | None:
        runtime = _runtime(self._trt, plan.dla)
        api.logger(self._trt).errors.clear()
        return runtime.deserialize_cuda_engine(content)

    def _load_kernels(self) -> IRuntimeCache:
        """TensorRT-RTX's runtime cache, with the kernels of earlier runs where it takes them."""
        kernels = self.cuda.create_runtime_config().create_runtime_cache()
        kept = cache.read_kernels(self._kernels_file)
        if kept and kernels.deserialize(kept):
            self._kept = kept
        elif kept:
            log.warning("%s: TensorRT-RTX does not take these kernels, compiling again", self._kernels_file)
            api.logger(self._trt).errors.clear()
        return kernels

    def _configured_context(self) -> IExecutionContext | None:
        """A context of TensorRT-RTX: kernels for each shape before its first answer, so that answers do not change."""
        assert self._kernels is not None
        config = self.cuda.create_runtime_config()
        graphs = "WHOLE_GRAPH_CAPTURE" if self._graphs else "DISABLED"
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.__members__[graphs]
        eager = self._trt.DynamicShapesKernelSpecializationStrategy.__members__["EAGER"]
        config.dynamic_shapes_kernel_specialization_strategy = eager
        config.set_runtime_cache(self._kernels)
        self._configs.append(config)
        return self.cuda.create_execution_context(config)


@functools.cache
def _runtime(trt: Library, dla: int | None) -> Runtime:
    """One runtime for the process and each DLA core: it must outlive its engines."""
    runtime = trt.Runtime(api.logger(trt))
    if dla is not None:
        runtime.DLA_core = dla
    return runtime


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
