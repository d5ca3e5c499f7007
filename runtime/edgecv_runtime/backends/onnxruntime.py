"""ONNX Runtime: its CPU, CUDA, TensorRT, OpenVINO and XNNPACK providers, by `device`.

Asked for a provider that it cannot load, ONNX Runtime warns and runs on the CPU; here that is an error.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import files, machine, onnxfile, telemetry
from edgecv_runtime.backends import DEFAULT_DEVICE, UNKNOWN, Executed, Options, Tensors, summarize
from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed, ComputationError, ModelFileError, Unavailable
from edgecv_runtime.manifest import Precision
from edgecv_runtime.records import Record

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

# Optimizers that break files with half precision between int8: a bias becomes int32 by a division in the type of the
# scales next to it, which ends at 65504 steps; a larger one becomes infinite (onnxruntime 1.32).
_HARMFUL_TO_HALF = ("WeightBiasQuantization",)
_NUMBERS = ("0", "1", "2")
_ZEROS = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_APART = 3  # calls that did not overlap, one after the other, before one takes all cores
_TRIES = 5  # calls of each, the first of which allocates


class Provider(Record, frozen=True):
    """An execution provider: its name, its options for (what follows the device's colon, threads), what it needs.

    parts: what may follow the colon; of `_NUMBERS` any number.
    """

    name: str
    options: Callable[[str, int], dict[str, str]]
    needs: str
    parts: tuple[str, ...] = ()


def _tensorrt(number: str, _: int) -> dict[str, str]:
    """Engines and timings are kept: a build takes minutes on a small device.

    Its bindings for Python take "True" and refuse "1", which its documentation shows for C.
    """
    try:
        folder = str(files.cache_folder("onnxruntime-tensorrt"))
    except OSError as exc:
        raise Unavailable(f"no folder to keep engines in: {exc}; set EDGECV_CACHE to one that can be written") from exc
    return {
        "device_id": number or "0",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
    }


def _openvino(kind: str, threads: int) -> dict[str, str]:
    """OpenVINO computes float32 in fp16 or bf16 where it likes to, unless the precision is given."""
    options = {"device_type": kind.upper() or "CPU", "precision": "FP32"}
    return options | ({"num_of_threads": str(threads)} if threads else {})


# Device as it is asked for -> provider; sources: ONNX Runtime's pages on execution providers.
PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", lambda *_: {}, "onnxruntime"),
    "cuda": Provider(
        # TensorFloat-32 keeps 10 bits of a float32's mantissa
        "CUDAExecutionProvider", lambda number, _: {"device_id": number or "0", "use_tf32": "0"}, "onnxruntime-gpu",
        _NUMBERS,
    ),
    "tensorrt": Provider("TensorrtExecutionProvider", _tensorrt, "onnxruntime-gpu and TensorRT", _NUMBERS),
    "openvino": Provider("OpenVINOExecutionProvider", _openvino, "onnxruntime-openvino", ("cpu", "gpu", "npu", "auto")),
    "xnnpack": Provider(
        "XnnpackExecutionProvider",
        lambda _, threads: {"intra_op_num_threads": str(threads or machine.this().cores)},
        "an onnxruntime built with --use_xnnpack (its Android and iOS packages are)",
    ),
}  # fmt: skip


class OnnxRuntimeBackend:
    """A session of ONNX Runtime; `run` may be called from several threads.

    Without `busy_wait` it is one with a thread, for calls that overlap, and one with all, for those that come one by
    one; where a thread alone is as fast that one is enough.
    """

    def __init__(self, model: Path, options: Options) -> None:
        self.probe()
        self._device, _, self._part = ("cpu" if options.device == DEFAULT_DEVICE else options.device).partition(":")
        self._provider = _provider(self._device, options.device)
        if options.precision not in self.precisions(options.device):
            raise BadInput(
                f"onnxruntime on {self._device} has no {options.precision}; "
                f"it runs: {', '.join(self.precisions(options.device))}"
            )
        self._model = model
        cores = options.threads or machine.this().cores
        self.streams = options.streams or (cores if self._device == "cpu" else 1)
        self._threads = max(1, cores // self.streams)
        shares = not options.busy_wait and self._device == "cpu" and self._threads > 1
        self._spins = options.busy_wait or shares
        self._session = self._open(self._threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._single: Any = None
        self._inside = self._apart = 0
        self._entered = threading.Lock()
        if shares:
            self._single = self._open(1)
            if _is_faster(self._single, self._session):
                self._session, self._single = self._single, None

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network."""
        with self._entered:
            self._inside += 1
            self._apart = self._apart + 1 if self._inside == 1 else 0
            session = self._session if self._single is None or self._apart > _APART else self._single
        try:
            return self._run(session, feeds)
        finally:
            with self._entered:
                self._inside -= 1

    def _run(self, session: Any, feeds: Tensors) -> dict[str, NDArray[Any]]:
        if session is None:
            raise Closed(f"onnxruntime: {self._model.name} is closed")
        try:
            return dict(zip(self._outputs, session.run(self._outputs, feeds), strict=True))
        except Exception as exc:  # ONNX Runtime raises its own classes, one per status
            raise ComputationError(f"onnxruntime failed on {self._model.name}: {_line(exc)}") from exc

    def executed(self) -> Executed:
        """Count the layers of the graph as ONNX Runtime rewrote it; UNKNOWN where a provider compiled it."""
        try:
            with _scratch() as written:
                self._open(self._threads, written)
                content = written.read_bytes()
        except (ModelFileError, OSError) as exc:
            if "compiled nodes" in str(exc):
                return Executed(precision=UNKNOWN, layers={})
            raise Unavailable(f"onnxruntime cannot write its optimized graph: {exc}") from exc
        operators = onnxfile.parse(content, self._model.name).operators
        layers: Counter[str] = Counter()
        for kind, count in operators.items():
            if kind in _LAYERS:
                layers[_LAYERS[kind]] += count
        return summarize(layers)

    def close(self) -> None:
        """Drop the session; ONNX Runtime frees it with the last reference, which a running call may hold."""
        self._session = self._single = None

    @staticmethod
    def probe() -> dict[str, str]:
        """Version of onnxruntime."""
        try:
            onnxruntime = telemetry.onnxruntime()
        except ModuleNotFoundError as exc:
            raise BackendUnavailable("backend 'onnxruntime' is not installed", extra="onnxruntime") from exc
        except Exception as exc:  # a library that is there and broken may fail in any way
            raise BackendUnavailable(f"backend 'onnxruntime' is installed but does not import: {exc}") from exc
        return {"onnxruntime": str(onnxruntime.__version__)}

    @staticmethod
    def precisions(device: str = DEFAULT_DEVICE) -> tuple[Precision, ...]:
        """Float32 only: the CPU provider has no bf16 kernels for convolutions, the others are told to keep float32."""
        del device
        return ("float32",)

    def _open(self, threads: int, optimized: Path | None = None) -> Any:
        onnxruntime = telemetry.onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # what it would print is raised here
        # XNNPACK brings its own pool; ONNX Runtime's beside it would only fight for the cores
        settings.intra_op_num_threads = 1 if self._device == "xnnpack" else threads
        if not self._spins:
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if optimized is not None:
            settings.optimized_model_filepath = str(optimized)
        # Once a large block was freed, as every program's first frame will be, glibc takes such blocks from its heap,
        # not as fresh pages (mallopt(3), M_MMAP_THRESHOLD): the session opens a fifth faster. Nothing touches this one.
        bytes(1 << 24)
        asked = (self._provider.name, self._provider.options(self._part, threads))

        def opened(without: Sequence[str]) -> Any:
            # its own fall-back prints to stdout
            return onnxruntime.InferenceSession(
                str(self._model), settings, providers=[asked], enable_fallback=0, disabled_optimizers=without
            )

        try:
            session = opened(())
            # the session knows what the file says of itself: to parse it again would cost every start
            if session.get_modelmeta().custom_metadata_map.get(onnxfile.ISLANDS) == "fp16":
                session = opened(_HARMFUL_TO_HALF)
        except Exception as exc:  # ONNX Runtime raises its own classes, one per status
            raise ModelFileError(f"{self._model}: onnxruntime cannot load it: {_line(exc)}") from exc
        if session.get_providers()[0] != self._provider.name:
            wanted = ":".join(filter(None, (self._device, self._part)))
            raise BackendUnavailable(
                f"onnxruntime cannot use device '{wanted}' here: {self._provider.name} does not load, and it would run "
                f"on {session.get_providers()[0]}; check the driver and {self._provider.needs}, or use device='cpu'"
            )
        return session


def _is_faster(single: Any, several: Any) -> bool:
    """Whether a session in one thread is as fast alone as another is in several, which it is for small models.

    False where the input does not say what a row is, or a call fails: that is for whoever calls it.
    """
    first, *others = single.get_inputs()
    sizes = first.shape[1:]
    if others or not sizes or first.type not in _ZEROS or not all(isinstance(size, int) for size in sizes):
        return False
    rows = first.shape[0] if isinstance(first.shape[0], int) else 1
    feeds = {first.name: np.zeros((rows, *sizes), _ZEROS[first.type])}
    took_s: dict[Any, list[float]] = {single: [], several: []}
    try:
        for _ in range(_TRIES):
            for session, times in took_s.items():
                began_s = time.perf_counter()
                session.run(None, feeds)
                times.append(time.perf_counter() - began_s)
    except Exception:  # ONNX Runtime raises its own classes
        return False
    return min(took_s[single]) <= min(took_s[several])


def _provider(device: str, asked: str) -> Provider:
    """The provider of a device; raises BadInput for an unknown one, BackendUnavailable with what there is instead."""
    onnxruntime = telemetry.onnxruntime()
    if device not in PROVIDERS:
        raise BadInput(f"onnxruntime has no device '{asked}'; known: {', '.join(PROVIDERS)}")
    found = PROVIDERS[device]
    part = asked.partition(":")[2]
    if ":" in asked and part.lower() not in found.parts and not (found.parts == _NUMBERS and part.isdigit()):
        known = f"'{device}'" + "".join(f", '{device}:{each}'" for each in found.parts)
        raise BadInput(f"onnxruntime has no device '{asked}'; known of this kind: {known}")
    built_in = onnxruntime.get_available_providers()
    if found.name not in built_in:
        here = ", ".join(name for name, each in PROVIDERS.items() if each.name in built_in)
        raise BackendUnavailable(
            f"onnxruntime {onnxruntime.__version__} here has no device '{device}', only: {here}; it needs {found.needs}"
        )
    return found


@contextmanager
def _scratch() -> Iterator[Path]:
    """A file that ONNX Runtime may write: in memory where the system has such files (Linux has)."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("edgecv")
        try:
            yield Path(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="edgecv-") as folder:
        yield Path(folder) / "optimized.onnx"


def _line(exc: Exception) -> str:
    """The first line of a vendor's message."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
