"""OpenVINO on CPU, GPU, NPU, or what its AUTO plugin picks.

OpenVINO runs float32 models in bf16 on machines that have it unless told not to, so the precision is always given.
Compiled models are kept in the cache folder: reading one back costs a fraction of compiling it.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import cores, files, forks, machine, onnxfile, telemetry
from edgecv_runtime.backends import DEFAULT_DEVICE, Executed, Options, Tensors, summarize
from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed, ComputationError, ModelFileError, NoMemory
from edgecv_runtime.manifest import Precision

_HINTS: dict[Precision, str] = {"float32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES: dict[Precision, str] = {"float32": "FP32", "bf16": "BF16", "fp16": "FP16"}
# Layer types of the compiled graph that do the work, and OpenVINO's names of precisions.
_LAYERS = {"Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Deconvolution", "RNNSeq"}
_PRECISIONS = {"f32": "float32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_DIGEST = 32  # bytes of a SHA-256
logger = logging.getLogger("edgecv")


class OpenVinoBackend:
    """A model compiled by OpenVINO, one infer request per calling thread.

    Single frames have a graph of their own, with all shapes fixed (about a tenth faster); other batch sizes share a
    second one, compiled when the first such batch comes. Where OpenVINO does not take the model with an open batch (its
    int8 passes stumble over a Reshape there, 2026.4), the rows of a batch run one after the other.
    """

    def __init__(self, model: Path, options: Options) -> None:
        self.probe()
        self._device = _device(options.device)
        if options.precision not in self.precisions(options.device):
            raise BadInput(
                f"this {self._device} has no {options.precision}; "
                f"openvino runs here: {', '.join(self.precisions(options.device))}"
            )
        self._config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
            "PERFORMANCE_HINT": "LATENCY" if options.streams == 1 else "THROUGHPUT",
        }
        if options.streams > 1:
            self._config["NUM_STREAMS"] = options.streams
        if options.threads:
            self._config["INFERENCE_NUM_THREADS"] = options.threads
        elif self._device == "CPU" and machine.this().cores < cores.seen():
            self._config["INFERENCE_NUM_THREADS"] = machine.this().cores  # a container's quota of CPU time
        self._model = model
        self._digest = options.digest
        self._seen = files.identity(model)
        self._lock = threading.Lock()
        self._graphs: dict[bool, _Graph] | None = {}  # by whether it is for single frames
        single = self._graph(single=True)
        self._check_device(single)
        self.streams = int(single.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network, which are only read; outputs are copies the caller owns."""
        rows = {len(tensor) for tensor in feeds.values()}
        graph = self._graph(single=rows == {1})
        try:
            outputs = graph.in_turn(feeds) if rows != {1} and graph.fixed_to_one else graph.infer(feeds)
        except RuntimeError as exc:
            raise ComputationError(f"openvino failed on {self._model.name}: {_line(exc)}") from exc
        if not all(map(len, outputs.values())):  # so it answers, without an error, when memory runs out
            raise NoMemory(f"openvino has no memory for {max(rows)} rows of {self._model.name}; run fewer frames")
        return outputs

    def executed(self) -> Executed:
        """Count the layers of the compiled graph by the precision that OpenVINO gave them."""
        layers: Counter[str] = Counter()
        for node in self._graph(single=True).compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if info["layerType"].astype(str) in _LAYERS:
                precision = info["runtimePrecision"].astype(str)
                layers[_PRECISIONS.get(precision, precision)] += 1
        return summarize(layers)

    def close(self) -> None:
        """Drop the compiled model; OpenVINO frees it with the last request, which a running call may hold."""
        self._graphs = None

    @staticmethod
    def probe() -> dict[str, str]:
        """Version of openvino."""
        try:
            openvino = telemetry.openvino()
        except ModuleNotFoundError as exc:
            raise BackendUnavailable("backend 'openvino' is not installed", extra="openvino") from exc
        except Exception as exc:  # a library that is there and broken may fail in any way
            raise BackendUnavailable(f"backend 'openvino' is installed but does not import: {exc}") from exc
        return {"openvino": str(openvino.__version__).split("-")[0]}

    @staticmethod
    def precisions(device: str = DEFAULT_DEVICE) -> tuple[Precision, ...]:
        """What the device has instructions for; AUTO may go anywhere, so it is asked for float32."""
        name = _device(device)
        if name == "AUTO":
            return ("float32",)
        capabilities = set(core().get_property(name, "OPTIMIZATION_CAPABILITIES"))
        if name == "CPU":
            capabilities -= {"FP16"}  # listed wherever fp16 weights can be read
            if not machine.bf16_allowed():
                capabilities -= {"BF16"}  # listed under every limit; compiling or running it then fails or crashes
        return tuple(precision for precision, needed in _CAPABILITIES.items() if needed in capabilities)

    def _graph(self, single: bool) -> _Graph:
        graphs = self._graphs
        if graphs is None:
            raise Closed(f"openvino: {self._model.name} is closed")
        graph = graphs.get(single)
        if graph is None:
            with self._lock:
                if single not in graphs:
                    fixed = not single and not graphs[True].takes_one
                    graphs[single] = graphs[True] if fixed else self._compiled(single, graphs.get(True))
                graph = graphs[single]
        return graph

    def _compiled(self, single: bool, instead: _Graph | None) -> _Graph:
        """The compiled model from the cache folder, or compiled now and kept there; instead: where that fails."""
        if files.identity(self._model) != self._seen:  # larger batches are compiled when the first one comes
            raise ModelFileError(f"{self._model}: was exchanged while it was loaded; load it again")
        path = self._cache_file(single)
        cached = _read_cached(path, self._device, self._config) if path else None
        if cached is not None:
            return cached
        try:
            model = _read(self._model)
            if single:
                for entry in model.inputs:
                    if entry.partial_shape.rank.is_static and entry.partial_shape[0].is_dynamic:
                        model.reshape({entry.get_any_name(): [1, *list(entry.partial_shape)[1:]]})
            compiled = core().compile_model(model, self._device, self._config)
        except (RuntimeError, UnicodeDecodeError) as exc:  # the latter: its message quotes the file's bytes
            if instead is not None and instead.fixed_to_one:
                logger.warning(
                    "openvino takes %s for single frames only, so batches run in turn: %s", self._model.name, _line(exc)
                )
                return instead
            raise ModelFileError(f"{self._model}: openvino cannot load it: {self._why(exc)}") from exc
        if path and self._is_the_file():
            _write_cached(path, compiled)
        return _Graph(compiled)

    def _why(self, exc: Exception) -> str:
        """What it says; on ARM without dot products of int8 it says of every int8 file "object is not initialized"."""
        this = machine.this()
        is_old_arm = this.os.endswith("aarch64") and "asimddp" not in this.isa
        if self._device == "CPU" and is_old_arm and "DequantizeLinear" in onnxfile.read(self._model).operators:
            return f"no int8 on this processor, an ARM core without asimddp; take onnxruntime or float32 ({_line(exc)})"
        return _line(exc)

    def _is_the_file(self) -> bool:
        """Whether the file is the one whose hash was given: what another one gave must not be kept under its name."""
        try:
            return onnxfile.digest(self._model, onnxfile.read(self._model).external) == self._digest
        except (OSError, ModelFileError):
            return False

    def _cache_file(self, single: bool) -> Path | None:
        """Named by everything that a compiled model depends on; None where the file's hash was not given."""
        if not self._digest or self._device == "AUTO":  # AUTO compiles for several devices and cannot export
            return None
        facts = [self._digest, single, self._device, self._config, self.probe(), machine.this().key, machine.this().isa]
        name = hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]
        try:
            return files.cache_folder("openvino") / f"{name}.blob"
        except OSError:
            return None  # without a cache folder every start compiles

    def _check_device(self, graph: _Graph) -> None:
        """OpenVINO says on which device a model executes: another than the one asked for is an error."""
        executes = [str(name) for name in graph.compiled.get_property("EXECUTION_DEVICES")]
        if self._device != "AUTO" and any(name.split(".")[0] != self._device.split(".")[0] for name in executes):
            raise BackendUnavailable(f"openvino runs {self._model.name} on {executes}, not on {self._device}")


class _Graph:
    """A compiled model and each calling thread's infer request; `memory` is what its weights may lie in."""

    def __init__(self, compiled: Any, memory: object = None) -> None:
        self.compiled = compiled
        self._memory = memory
        self._outputs = [_own_name(output) for output in compiled.outputs]
        first = compiled.inputs[0].partial_shape
        self.fixed_to_one = first.rank.is_static and first[0].is_static and first[0].get_length() == 1
        self.takes_one = self.fixed_to_one or first.rank.is_dynamic or first[0].is_dynamic
        self._requests = threading.local()

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = _Request(self.compiled)
        request.infer(feeds)
        return {name: request.output(index) for index, name in enumerate(self._outputs)}

    def in_turn(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """The rows of a batch one after the other, of a graph for single frames."""
        count = max(map(len, feeds.values()))
        rows = [
            self.infer({name: np.ascontiguousarray(tensor[row : row + 1]) for name, tensor in feeds.items()})
            for row in range(count)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


class _Request:
    """One thread's infer request.

    On a CPU it keeps the input tensors that OpenVINO made for it, where their shapes are fixed: copying into them costs
    less than giving it other ones, for which it prepares anew at each call.
    """

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        keeps = compiled.get_property("EXECUTION_DEVICES") == ["CPU"]
        keeps = keeps and all(each.partial_shape.is_static for each in compiled.inputs)
        inputs = compiled.inputs if keeps else []
        self._own = [(each.get_names(), self._request.get_input_tensor(i).data) for i, each in enumerate(inputs)]

    def infer(self, feeds: Tensors) -> None:
        """Run it; raises RuntimeError for tensors that are not what it takes."""
        if not self._own:
            self._request.infer(feeds, share_inputs=True, share_outputs=True)
            return
        if len(feeds) != len(self._own):
            raise RuntimeError(f"it takes {len(self._own)} inputs, and was given {', '.join(feeds)}")
        for names, own in self._own:
            name = next((name for name in feeds if name in names), None)
            if name is None:
                raise RuntimeError(f"it takes {' or '.join(sorted(names))}, and was given {', '.join(feeds)}")
            tensor = feeds[name]
            if tensor.shape != own.shape or tensor.dtype != own.dtype:
                raise RuntimeError(f"{name} is {own.dtype} {own.shape}, and was given as {tensor.dtype} {tensor.shape}")
            own[...] = tensor
        self._request.infer(share_outputs=True)

    def output(self, index: int) -> NDArray[Any]:
        """A copy of an output."""
        return np.array(self._request.get_output_tensor(index).data)


def _own_name(output: Any) -> str:
    """The name that the file gives an output: where OpenVINO leaves out an Identity, it has those before it, too."""
    name: str = output.get_node().get_friendly_name().removesuffix("/sink_port_0")
    return name if name in output.get_names() else output.get_any_name()


@functools.cache
def core() -> Any:
    """One core for the process: plugins are loaded once.

    OpenVINO 2026.4's CPU plugin gives the thread a signal stack of its own. When two cores are dropped in the order in
    which they were made, a stack that is no longer mapped stays behind, and the next Ctrl-C ends the process.
    """
    found = telemetry.openvino().Core()
    forks.in_child(lambda: forks.keep_for_ever(found))
    return found


def _device(asked: str) -> str:
    """OpenVINO's name of a device; raises BackendUnavailable that says which there are."""
    if asked == DEFAULT_DEVICE:
        return "CPU"
    kind, number = asked.upper().partition(".")[::2]
    if kind not in ("CPU", "GPU", "NPU", "AUTO"):
        raise BadInput(f"openvino has no device '{asked}'; known: cpu, gpu, npu, auto, and gpu.1 for the second GPU")
    if kind == "AUTO":
        return kind
    found = core().available_devices
    if not any(name == asked.upper() or (not number and name.split(".")[0] == kind) for name in found):
        here = ", ".join(name.lower() for name in found)
        raise BackendUnavailable(f"openvino finds no device '{asked}' here, only: {here}; is its driver installed?")
    return asked.upper()


def _read(path: Path) -> Any:
    """Read an ONNX file; one that OpenVINO takes only without functions of its own, or with ranks, is given so."""
    try:
        return core().read_model(str(path))
    except RuntimeError:
        from edgecv_runtime import onnxinline

        plain = onnxinline.rewritten(path.read_bytes())
        if plain is None or onnxfile.parse(plain, str(path)).external:  # from memory it finds no data beside the file
            raise
        return core().read_model(plain)


def _read_cached(path: Path, device: str, config: dict[str, Any]) -> _Graph | None:
    """A compiled model from its file; None when there is none, or it is damaged, or OpenVINO does not take it."""
    openvino = telemetry.openvino()
    try:
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    blob = content[_DIGEST:]
    if content[:_DIGEST].tobytes() != hashlib.sha256(blob.data).digest():
        return None
    try:
        return _Graph(core().import_model(openvino.Tensor(blob, shared_memory=True), device, config), content)
    except RuntimeError:
        return None  # of a driver that has changed: compiled anew, and written over


def _write_cached(path: Path, compiled: Any) -> None:
    try:
        blob = compiled.export_model().getvalue()
        files.write(path, hashlib.sha256(blob).digest() + blob)
    except (OSError, RuntimeError):
        return  # a full disk, or a device that cannot export, costs the next start a compilation, no more


def _line(exc: Exception) -> str:
    """The last line of OpenVINO's message: the first ones name its own source files."""
    lines = [line.strip() for line in str(exc).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
