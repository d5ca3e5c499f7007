"""ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgecv_runtime import onnxfile
from edgecv_runtime.backends import Executed, Options, Tensors, summarize
from edgecv_runtime.errors import BackendUnavailable, BadInput, ComputationError, ModelFileError, Unavailable
from edgecv_runtime.manifest import Precision

# Operators of the optimized graph that do the work, and the precision that each runs in.
_LAYERS = {
    "QLinearConv": "int8",
    "QLinearMatMul": "int8",
    "QGemm": "int8",
    "ConvInteger": "int8",
    "MatMulInteger": "int8",
    "MatMulIntegerToFloat": "int8",
    "DynamicQuantizeMatMul": "int8",
    "Conv": "float32",
    "FusedConv": "float32",
    "Gemm": "float32",
    "FusedGemm": "float32",
    "MatMul": "float32",
    "FusedMatMul": "float32",
    "ConvTranspose": "float32",
}


class OnnxRuntimeBackend:
    """ONNX Runtime's CPU provider."""

    def __init__(self, model: Path, options: Options) -> None:
        self.probe()
        if options.device not in ("auto", "cpu"):
            raise BadInput(f"onnxruntime runs on device 'cpu' here, not on '{options.device}'")
        if options.precision not in self.precisions():
            raise BadInput(f"onnxruntime on a CPU has no {options.precision}; it runs: {', '.join(self.precisions())}")
        self._model = model
        self._options = options
        self._session = self._open()
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network."""
        try:
            return dict(zip(self._outputs, self._session.run(None, feeds), strict=True))
        except Exception as exc:  # ONNX Runtime raises its own classes, one per status
            raise ComputationError(f"onnxruntime failed on {self._model.name}: {_line(exc)}") from exc

    def executed(self) -> Executed:
        """Count the layers of the graph as ONNX Runtime rewrote it."""
        with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
            written = Path(folder) / "optimized.onnx"
            try:
                self._open(written)
                content = written.read_bytes()
            except (ModelFileError, OSError) as exc:
                raise Unavailable(f"{folder}: onnxruntime cannot write its optimized graph there: {exc}") from exc
            operators = onnxfile.parse(content, self._model.name).operators
        layers: Counter[str] = Counter()
        for kind, count in operators.items():
            if kind in _LAYERS:
                layers[_LAYERS[kind]] += count
        return summarize(layers)

    def close(self) -> None:
        """Drop the session; ONNX Runtime frees it with the last reference."""
        self._session = None

    @staticmethod
    def probe() -> dict[str, str]:
        """Version of onnxruntime."""
        try:
            import onnxruntime
        except ModuleNotFoundError as exc:
            raise BackendUnavailable(
                "backend 'onnxruntime' is not installed: pip install 'edgecv[onnxruntime]'"
            ) from exc
        except Exception as exc:  # a library that is there and broken may fail in any way
            raise BackendUnavailable(f"backend 'onnxruntime' is installed but does not import: {exc}") from exc
        return {"onnxruntime": onnxruntime.__version__}

    @staticmethod
    def precisions() -> tuple[Precision, ...]:
        """Float32 only: the CPU provider has no bf16 kernels for convolutions."""
        return ("float32",)

    def _open(self, optimized: Path | None = None) -> Any:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = self._options.threads
        if optimized is not None:
            settings.optimized_model_filepath = str(optimized)
        try:
            return onnxruntime.InferenceSession(
                str(self._model), settings, providers=["CPUExecutionProvider"], enable_fallback=0
            )  # its fall-back prints to stdout
        except Exception as exc:  # ONNX Runtime raises its own classes, one per status
            raise ModelFileError(f"{self._model}: onnxruntime cannot load it: {_line(exc)}") from exc


def _line(exc: Exception) -> str:
    """The first line of a vendor's message."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
