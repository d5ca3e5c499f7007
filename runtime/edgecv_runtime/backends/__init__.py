"""Backends: one file, one class each; they compile an ONNX file for a device and run tensors.

A backend knows nothing of images, labels or tasks. Those of others are found through the entry-point group
`edgecv.backends`, or injected: `load(bundle, backend=MyBackend())`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from edgecv_runtime import machine
from edgecv_runtime.errors import BackendUnavailable, BadInput, nearest
from edgecv_runtime.machine import Machine
from edgecv_runtime.manifest import Precision
from edgecv_runtime.records import Record

Tensors = Mapping[str, NDArray[Any]]
GROUP = "edgecv.backends"
DEFAULT_DEVICE = "default"
UNKNOWN = "unknown"  # the precision of what cannot be looked into
MIXED = "mixed"  # and where none is that of more than half of the layers

# Our own, named here because a search through everything that is installed costs a start some 20 ms.
OWN = {
    "echo": "edgecv_runtime.backends.echo:EchoBackend",
    "onnxruntime": "edgecv_runtime.backends.onnxruntime:OnnxRuntimeBackend",
    "openvino": "edgecv_runtime.backends.openvino:OpenVinoBackend",
    "tensorrt": "edgecv_runtime.backends.tensorrt:TensorRtBackend",
}
# Those that are told with an address behind a colon, and are objects: "kserve:http://host:8000/v2/models/photos".
ADDRESSED = {"kserve": "edgecv_runtime.backends.kserve:KServe"}


class Options(Record, frozen=True):
    """How a backend shall run a model.

    device: as the backend names it; "default" is the CPU of onnxruntime and openvino, the GPU of tensorrt.
    precision: of what is not quantized. threads: CPU threads of all streams together, 0 is the backend's choice.
    streams: how many calls of `run` compute at once; 1 has the lowest latency, 0 as many as keep the device busy.
    busy_wait: whether threads may spin between two calls: a call sooner, and a core that others cannot have; False:
    only while calls come one by one.
    digest: hash of the model file: it names what the backend keeps in its cache; "" keeps nothing.
    """

    device: str = DEFAULT_DEVICE
    precision: Precision = "float32"
    threads: int = 0
    streams: int = 1
    digest: str = ""
    busy_wait: bool = True

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise BadInput(f"threads must be at least 0, got {self.threads}")
        if self.streams < 0:
            raise BadInput(f"streams must be at least 0, got {self.streams}")


class Executed(Record, frozen=True):
    """What really runs: the precision of most convolutions and matrix products, and how many run in each.

    precision: MIXED where none is that of more than half of them, UNKNOWN where the runtime does not tell.
    """

    precision: str
    layers: dict[str, int]


class Backend(Protocol):
    """What a backend does; `run` may be called from several threads at once, of which `streams` compute."""

    streams: int

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Run named tensors through the network; the caller has checked names, dtypes and shapes."""
        ...

    def executed(self) -> Executed:
        """The precision that executes, read from the compiled model."""
        ...

    def close(self) -> None:
        """Release the model."""


class Kind(Protocol):
    """What makes backends of files: the class of one, whose `probe` and `precisions` are static, or an object."""

    def __call__(self, model: Path, options: Options, /) -> Backend:
        """Compile an ONNX file; raises BackendUnavailable or ModelFileError."""
        ...

    def probe(self) -> dict[str, str]:
        """Versions of the libraries behind it; raises BackendUnavailable with the command that installs them."""
        ...

    def precisions(self, device: str = DEFAULT_DEVICE, /) -> tuple[Precision, ...]:
        """The float precisions that a device runs natively, "float32" first where it has it."""
        ...


class Injected(Kind, Protocol):
    """An object that makes backends and holds settings of its own; its evidence has its name and its machine."""

    name: str

    def machine(self) -> Machine:
        """Where it computes: `edgecv_runtime.machine.this()`, or what tells that place from others."""
        ...


@runtime_checkable
class Remote(Injected, Protocol):
    """One that runs a network of its own in the place of the file: the golden inputs prove it whenever it is loaded."""

    def serves(self, variants: Mapping[str, str], /) -> str:
        """Which of a bundle's variants it runs, given their names and the hashes of their files.

        Raises BackendUnavailable where it is none of them.
        """
        ...


@functools.cache
def _others() -> dict[str, Any]:
    """Backends that other packages bring."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in OWN}


def names() -> list[str]:
    """Every backend known, installed or not; test doubles come last."""
    return sorted({*OWN, *_others()}, key=lambda name: (name == "echo", name))


def get(name: str) -> Kind:
    """What makes the backends of a name; raises BadInput with the nearest name when there is none of that name."""
    own, _, address = name.partition(":")
    if own in ADDRESSED:
        module, _, attribute = ADDRESSED[own].partition(":")
        made: Kind = getattr(import_module(module), attribute).of(address)
        return made
    if name not in OWN and name not in _others():
        raise BadInput(f"no backend '{name}'{nearest(name, [*names(), *ADDRESSED])}")
    try:
        if name in OWN:
            module, _, attribute = OWN[name].partition(":")
            kind: Kind = getattr(import_module(module), attribute)
        else:
            kind = _others()[name].load()
    except Exception as exc:  # somebody else's module may fail in any way
        raise BackendUnavailable(f"backend '{name}' cannot be imported: {type(exc).__name__}: {exc}") from exc
    return kind


def asked(backend: str | Injected) -> dict[str, Kind]:
    """By name, the backend that was named or injected, or for "auto" every one that works here.

    Raises BadInput for what is no backend, and BackendUnavailable for one that does not work, or where none does.
    """
    if not isinstance(backend, str):
        return {_checked(backend).name: backend}
    if backend == "auto":
        found = available()
        if not found:
            raise BackendUnavailable("no backend is installed, onnxruntime or openvino will do", extra="onnxruntime")
        return {name: get(name) for name in found}
    kind = get(backend)
    kind.probe()
    return {backend.partition(":")[0]: kind}


def machine_of(kind: Kind) -> Machine:
    """Where a backend computes: this machine, unless it is an object that says otherwise."""
    return machine.this() if isinstance(kind, type) else getattr(kind, "machine", machine.this)()


def _checked(backend: Injected) -> Injected:
    """An object that can be a backend; raises BadInput that says what it lacks."""
    shown = type(backend).__name__
    if isinstance(backend, type):
        raise BadInput(f"backend {backend.__name__} is a class: give an instance, backend={backend.__name__}(...)")
    methods = ("__call__", "probe", "precisions", "machine")
    lacks = [name for name in methods if not callable(getattr(backend, name, None))]
    if lacks:
        raise BadInput(f"backend {shown} has no {', '.join(lacks)}: see edgecv_runtime.backends.Injected")
    if not isinstance(getattr(backend, "name", None), str) or not backend.name.isprintable() or not backend.name:
        raise BadInput(f"backend {shown} has no name: a str that its evidence is kept under")
    if backend.name in ("auto", *names()):
        raise BadInput(f"backend {shown} is named '{backend.name}': evidence of another backend goes by that name")
    try:
        hash(backend)
    except TypeError as exc:
        raise BadInput(f"backend {shown} cannot be hashed: a dataclass wants eq=False, or frozen=True") from exc
    return backend


def available() -> dict[str, dict[str, str]]:
    """The backends that work here, with the versions of their libraries; test doubles are left out."""
    working = {}
    for name in names():
        if name == "echo":
            continue
        try:
            working[name] = get(name).probe()
        except BackendUnavailable:
            continue  # `edgecv doctor` tells why
    return working


def summarize(layers: Mapping[str, int]) -> Executed:
    """Name the precision that most convolutions and matrix products run in.

    layers: by precision, after which may stand where they run ("int8 on DLA").
    """
    if not layers:
        return Executed(precision="float32", layers={})
    sums: Counter[str] = Counter()
    for name, count in layers.items():
        sums[name.split()[0]] += count
    most, count = sums.most_common(1)[0]
    return Executed(MIXED if 2 * count < sums.total() else most, dict(sorted(layers.items())))


def mixed(layers: Mapping[str, int], islands: Precision = "float32") -> str:
    """How an int8 file runs in a mix of precisions, in words; "" where it runs as it was made, or nobody can tell.

    OpenVINO on ARM runs some layers of an int8 file in int8 and others in fp16, which nobody asked for. A file of
    which most was left in float runs as it was made. islands: the precision of what was left.
    """
    asked = {"int8", "float32", islands, UNKNOWN}
    int8 = sum(count for name, count in layers.items() if name.split()[0] == "int8")
    total = sum(layers.values())
    if 2 * int8 >= total or all(name.split()[0] in asked for name in layers):
        return ""
    others = ", ".join(f"{count} in {name}" for name, count in layers.items() if name != "int8")
    return f"runs in mixed precision, not in int8: {int8} of {total} layers ({others})"
