"""The part of TensorRT's Python API that edgecv uses, as types under NVIDIA's own names, and how releases differ.

`tensorrt` has no types of its own. Tests compare these with the signatures of TensorRT-RTX and of TensorRT's own
bindings from 8.6 to 11. What not every release has is reached only where `Abilities` or `hasattr` finds it.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from edgecv_runtime.errors import BackendUnavailable

LIBRARIES = ("tensorrt", "tensorrt_rtx")

# What surrounds the reason in TensorRT's messages: the kind of error before it, its own source file and flags after it.
_BEFORE = re.compile(r"^.*?(?:Error Code \d+: [^(]*\(|Assertion failed: [^:]*:)\s*")
_AFTER = re.compile(r"\s*(?:In \w+ at \S+:\d+|Please set k).*$")
_CUDA = re.compile(r"\(cudaError \d+: ([^)]*)\)")


class Member(Protocol):
    """A member of an enumeration."""

    @property
    def name(self) -> str: ...
    def __int__(self) -> int: ...


class Enumeration(Protocol):
    """One of TensorRT's enumerations; which members it has depends on the release."""

    @property
    def __members__(self) -> Mapping[str, Member]: ...


class IHostMemory(Protocol):
    @property
    def nbytes(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


class ITensor(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> Member: ...
    @property
    def shape(self) -> Sequence[int]: ...


class ILayer(Protocol):
    precision: Member

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Member: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    def get_input(self, index: int) -> ITensor | None: ...
    def get_output(self, index: int) -> ITensor: ...
    def set_output_type(self, index: int, dtype: Member) -> None: ...


class INetworkDefinition(Protocol):
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    def get_input(self, index: int) -> ITensor: ...
    def get_output(self, index: int) -> ITensor: ...
    def get_layer(self, index: int) -> ILayer: ...


class IOptimizationProfile(Protocol):
    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...  # noqa: A002
    def get_shape(self, input: str) -> list[Sequence[int]]: ...  # noqa: A002


class ITimingCache(Protocol):
    def serialize(self) -> IHostMemory: ...


class IBuilderConfig(Protocol):
    profiling_verbosity: Member
    default_device_type: Member
    DLA_core: int
    progress_monitor: object
    num_compute_capabilities: int

    def set_flag(self, flag: Member) -> None: ...
    def clear_flag(self, flag: Member) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...
    def can_run_on_DLA(self, layer: ILayer) -> bool: ...  # noqa: N802
    def set_compute_capability(self, compute_capability: Member, index: int) -> bool: ...


class Builder(Protocol):
    @property
    def num_DLA_cores(self) -> int: ...  # noqa: N802
    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node(self) -> int: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    @property
    def num_errors(self) -> int: ...
    def parse_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class EngineInspector(Protocol):
    def get_engine_information(self, format: Member) -> str: ...  # noqa: A002


class IRuntimeCache(Protocol):
    def serialize(self) -> IHostMemory: ...
    def deserialize(self, blob: bytes) -> bool: ...


class IRuntimeConfig(Protocol):
    cuda_graph_strategy: Member
    dynamic_shapes_kernel_specialization_strategy: Member

    def create_runtime_cache(self) -> IRuntimeCache: ...
    def set_runtime_cache(self, cache: IRuntimeCache) -> bool: ...


class IExecutionContext(Protocol):
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Member: ...
    def get_tensor_dtype(self, name: str) -> Member: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Sequence[int]]: ...
    def create_engine_inspector(self) -> EngineInspector: ...
    def create_runtime_config(self) -> IRuntimeConfig: ...
    def create_execution_context(self, runtime_config: IRuntimeConfig = ...) -> IExecutionContext | None: ...


class Runtime(Protocol):
    DLA_core: int

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


class Library(Protocol):
    """The module `tensorrt` or `tensorrt_rtx`."""

    __name__: str
    __version__: str
    ILogger: type[Any]
    IProgressMonitor: type[Any]

    def __hash__(self) -> int: ...
    @property
    def BuilderFlag(self) -> Enumeration: ...  # noqa: N802
    @property
    def NetworkDefinitionCreationFlag(self) -> Enumeration: ...  # noqa: N802
    @property
    def ProfilingVerbosity(self) -> Enumeration: ...  # noqa: N802
    @property
    def LayerInformationFormat(self) -> Enumeration: ...  # noqa: N802
    @property
    def DeviceType(self) -> Enumeration: ...  # noqa: N802
    @property
    def DataType(self) -> Enumeration: ...  # noqa: N802
    @property
    def ComputeCapability(self) -> Enumeration: ...  # noqa: N802
    @property
    def CudaGraphStrategy(self) -> Enumeration: ...  # noqa: N802
    @property
    def DynamicShapesKernelSpecializationStrategy(self) -> Enumeration: ...  # noqa: N802
    def Builder(self, logger: object) -> Builder: ...  # noqa: N802
    def OnnxParser(self, network: INetworkDefinition, logger: object) -> OnnxParser: ...  # noqa: N802
    def Runtime(self, logger: object) -> Runtime: ...  # noqa: N802


@dataclass(frozen=True)
class Abilities:
    """What a release can do, asked of the library itself: version numbers of TensorRT and TensorRT-RTX do not compare.

    strong_typing: networks can keep the file's types by themselves (TensorRT 9 and later, TensorRT-RTX).
    precision_flags: precision can be a permission to the builder, FP16 and INT8 (before TensorRT 11).
    progress: a build tells how far it is (TensorRT 9 and later, TensorRT-RTX).
    rtx: TensorRT-RTX: it compiles kernels when an engine is loaded, keeps them in a runtime cache and records CUDA
    graphs by itself; timing caches do nothing.
    targets: the GPUs that it can build for without having one, by compute capability (TensorRT-RTX).
    """

    strong_typing: bool
    precision_flags: bool
    progress: bool
    rtx: bool
    targets: dict[tuple[int, int], Member]


def abilities(trt: Library) -> Abilities:
    """Ask a release what it can do."""
    targets = getattr(trt, "ComputeCapability", None)
    numbered = {name: member for name, member in targets.__members__.items() if name[2:].isdigit()} if targets else {}
    return Abilities(
        strong_typing="STRONGLY_TYPED" in trt.NetworkDefinitionCreationFlag.__members__,
        precision_flags="FP16" in trt.BuilderFlag.__members__,
        progress=hasattr(trt, "IProgressMonitor"),
        rtx=hasattr(trt, "IRuntimeCache"),
        targets=dict(sorted((divmod(int(name[2:]), 10), member) for name, member in numbered.items())),
    )


def library() -> Library:
    """TensorRT's Python module, or TensorRT-RTX's; raises BackendUnavailable with the cure."""
    reasons = []
    for name in LIBRARIES:
        try:
            return cast(Library, importlib.import_module(name))
        except (ImportError, OSError) as exc:  # OSError: the package is there, its libraries are not
            reasons.append(exc)
    broken = next((exc for exc in reasons if getattr(exc, "name", None) not in LIBRARIES), None)
    if broken is not None:
        raise BackendUnavailable(f"backend 'tensorrt' is installed, but does not load: {line(str(broken))}") from broken
    raise BackendUnavailable(
        "backend 'tensorrt' is not installed (on a Jetson it is part of JetPack, and a virtual environment sees it "
        "with --system-site-packages)",
        extra="tensorrt",
    ) from reasons[0]


@functools.cache
def logger(trt: Library) -> Any:
    """TensorRT's logger, one for the process: it keeps errors, and nothing is printed."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Member, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(message)

    return Log()


def first_error() -> str:
    """What TensorRT logged first since the last time it was asked, in one line."""
    errors = logger(library()).errors
    said = line(errors[0]) if errors else "it gives no reason"
    errors.clear()
    return said


def line(message: str) -> str:
    """The reason in a message of TensorRT, without the names of its source files."""
    first = (message.strip().splitlines() or ["it gives no reason"])[0]
    cuda = _CUDA.search(first)
    if cuda:
        return cuda[1]
    return _AFTER.sub("", _BEFORE.sub("", first)).strip(" .")
