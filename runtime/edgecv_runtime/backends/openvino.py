"""OpenVINO on the CPU.

OpenVINO runs float32 models in bf16 on machines that have it unless told not to, so the precision is always given.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Executed, Options, Tensors, summarize
from edgecv_runtime.errors import BackendUnavailable, BadInput, ComputationError, ModelFileError
from edgecv_runtime.manifest import Precision

_HINTS = {"float32": "f32", "bf16": "bf16", "fp16": "f16"}
# Layer types of the compiled graph that do the work, and OpenVINO's names of precisions.
_LAYERS = {"Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Deconvolution", "RNNSeq"}
_PRECISIONS = {"f32": "float32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}


class OpenVinoBackend:
    """OpenVINO's CPU plugin, one infer request per calling thread."""

    def __init__(self, model: Path, options: Options) -> None:
        self.probe()
        import openvino

        if options.device not in ("auto", "cpu"):
            raise BadInput(f"openvino runs on device 'cpu' here, not on '{options.device}'")
        if options.precision not in self.precisions():
            raise BadInput(f"this CPU has no {options.precision}; openvino runs here: {', '.join(self.precisions())}")
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads:
            config["INFERENCE_NUM_THREADS"] = options.threads
        self._name = model.name
        try:
            self._compiled: Any = openvino.Core().compile_model(str(model), "CPU", config)
        except (RuntimeError, UnicodeDecodeError) as exc:  # the latter: its message quotes the file's bytes
            raise ModelFileError(f"{model}: openvino cannot load it: {_line(exc)}") from exc
        self._outputs = [output.get_any_name() for output in self._compiled.outputs]
        self._requests = threading.local()

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network, sharing the inputs' memory; outputs are copies the caller owns."""
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        try:
            request.infer(feeds, share_inputs=True, share_outputs=True)
        except RuntimeError as exc:
            raise ComputationError(f"openvino failed on {self._name}: {_line(exc)}") from exc
        return {name: np.array(request.get_tensor(name).data) for name in self._outputs}

    def executed(self) -> Executed:
        """Count the layers of the compiled graph by the precision that OpenVINO gave them."""
        layers: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if info["layerType"].astype(str) in _LAYERS:
                precision = info["runtimePrecision"].astype(str)
                layers[_PRECISIONS.get(precision, precision)] += 1
        return summarize(layers)

    def close(self) -> None:
        """Drop the compiled model; OpenVINO frees it with the last request."""
        self._requests = threading.local()
        self._compiled = None

    @staticmethod
    def probe() -> dict[str, str]:
        """Version of openvino."""
        try:
            import openvino
        except ModuleNotFoundError as exc:
            raise BackendUnavailable("backend 'openvino' is not installed: pip install 'edgecv[openvino]'") from exc
        except Exception as exc:  # a library that is there and broken may fail in any way
            raise BackendUnavailable(f"backend 'openvino' is installed but does not import: {exc}") from exc
        return {"openvino": str(openvino.__version__).split("-")[0]}

    @staticmethod
    def precisions() -> tuple[Precision, ...]:
        """Float32, and bf16 where the CPU has instructions for it."""
        import openvino

        has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("float32", "bf16") if has_bf16 else ("float32",)


def _line(exc: Exception) -> str:
    """The last line of OpenVINO's message: the first ones name its own source files."""
    lines = [line.strip() for line in str(exc).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
