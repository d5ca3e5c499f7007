"""What an ONNX file says of itself, read without the onnx package and before any backend touches it.

Backends disagree on what they refuse (OpenVINO runs opsets that do not exist, older ONNX Runtimes follow external data
out of the folder), so these checks are made here, the same for every backend. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath, PureWindowsPath

from edgecv_runtime import files
from edgecv_runtime.errors import ModelFileError
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxending import Ending, Maker
from edgecv_runtime.onnxending import of as ending_of
from edgecv_runtime.protobuf import fields, integer, message, text
from edgecv_runtime.records import Record

IR_VERSIONS = range(3, 14)
OPSETS = range(7, 27)
KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
ISLANDS = "edgecv.islands"  # metadata: float precision between the int8 layers of a file, where it is not float32
ANY_SHAPE = ("...",)  # of a tensor whose shape the file leaves out

# onnx.TensorProto.DataType -> numpy's name
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"}
DTYPES |= {10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"}

# First bytes of what people pass as a model by mistake.
_OTHER_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer: run 'git lfs pull' to get the file itself",
    b"<net": "a model of OpenVINO: export it to ONNX",
    b"<?xml": "an XML file (a model of OpenVINO, say): export the model to ONNX",
    b"<": "an HTML page: the download gave a web page instead of the file",
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint, or a bundle whose name must end in .edgecv)",
    b"\x80": "a Python pickle (a PyTorch checkpoint): export it with 'edgecv export'",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"ptrt": "a TensorRT engine: engines belong to one GPU and version; load the ONNX file",
    b"vtrt": "a TensorRT-RTX engine: engines belong to one GPU and version; load the ONNX file",
    b"{": "a JSON document: a bundle is loaded by its folder",
    b"\x89HDF": "an HDF5 file (Keras): export it to ONNX",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93NUMPY": "a numpy array",
    b"\x7fELF": "a Linux program or library",
    b"%PDF": "a PDF document",
}


class OnnxHeader(Record, frozen=True):
    """The outside of a model: versions, inputs and outputs, metadata, operators by type, external data files.

    A shape that the file leaves out is ANY_SHAPE.
    """

    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    operators: Counter[str]
    custom: frozenset[str]  # "domain (operator)" of what is neither standard nor a function in the file
    endings: dict[str, Ending]  # output's name -> what it ends in
    external: dict[str, int]  # external data: location -> bytes that the file there has at least

    @property
    def opset(self) -> int:
        """Version of the standard operators, 0 where none is named."""
        return self.opsets.get("", self.opsets.get("ai.onnx", 0))


def read(path: str | Path) -> OnnxHeader:
    """Read and check an ONNX file's outside; the weights inside stay on the disk.

    Raises ModelFileError in one line when it is missing, truncated, of another kind, of an IR version or opset out
    of range, with custom operators, or with external data that is missing or lies outside the file's folder.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # nothing to map
        raise ModelFileError(f"{path}: the file is empty") from exc
    header = parse(data, str(path))
    _check_versions(header, str(path))
    for location, size in header.external.items():
        _check_external(path, location, size)
    return header


def digest(path: Path, external: Collection[str]) -> str:
    """SHA-256 of a model, as 64 hexadecimal digits: of its file, or over those of it and of its external data files."""
    found = "".join(files.sha256(each) for each in (path, *(path.parent / name for name in external)))
    if not external:
        return found
    import hashlib

    return hashlib.sha256(found.encode()).hexdigest()


def parse(data: bytes | mmap.mmap, where: str) -> OnnxHeader:
    """Read the outside of a serialized model; raises ModelFileError that says what the bytes are instead."""
    if not data:
        raise ModelFileError(f"{where}: the file is empty")
    head = data[:64].lstrip()
    for start, kind in _OTHER_KINDS.items():
        if head.startswith(start):
            raise ModelFileError(f"{where}: not an ONNX file but {kind}")
    if data[4:8] == b"TFL3":
        raise ModelFileError(f"{where}: not an ONNX file but a TensorFlow Lite model")
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        raise ModelFileError(f"{where}: not an ONNX file but safetensors, weights without a graph: export the network")
    try:
        return _header(memoryview(data))
    except (ValueError, IndexError, RecursionError) as exc:
        raise ModelFileError(f"{where}: not a whole ONNX file ({exc}); it is truncated or of another kind") from exc


def _header(data: memoryview) -> OnnxHeader:
    ir_version, opsets, metadata = 0, {}, {}
    graphs: list[memoryview] = []
    found = _Inside()
    for number, value in fields(data):
        if number == 1:
            ir_version = integer(value)
        elif number == 7:
            graphs.append(message(value))
        elif number == 8:
            entry = dict(fields(message(value)))
            opsets[text(entry.get(1))] = integer(entry.get(2, 0))
        elif number == 14:
            entry = dict(fields(message(value)))
            metadata[text(entry.get(1))] = text(entry.get(2))
        elif number == 25:
            found.add_function(message(value))
    if len(graphs) != 1 or not ir_version or not opsets:
        raise ValueError("it has no graph, IR version or opset" if not graphs else "it has two graphs")

    inputs, outputs, initializers = [], [], set()
    for number, value in fields(graphs[0]):
        if number == 5:
            initializers.add(_external(message(value))[0])
        elif number == 11:
            inputs.append(_tensor(message(value)))
        elif number == 12:
            outputs.append(_tensor(message(value)))
    makers = found.add_parts(graphs[0])
    return OnnxHeader(
        ir_version=ir_version,
        opsets=opsets,
        inputs=tuple(spec for spec in inputs if spec.name not in initializers),
        outputs=tuple(outputs),
        metadata=metadata,
        operators=found.operators,
        custom=frozenset(f"{domain} ({kind})" for domain, kind in found.strangers - found.functions),
        endings={spec.name: ending_of(spec.name, makers) for spec in outputs},
        external=dict(sorted(found.external.items())),
    )


class _Inside:
    """What the nodes and constants of a graph and of the graphs inside it name."""

    def __init__(self) -> None:
        self.operators: Counter[str] = Counter()
        self.strangers: set[tuple[str, str]] = set()  # domain and type of operators that are not standard
        self.functions: set[tuple[str, str]] = set()  # those that the file itself defines
        self.external: dict[str, int] = {}

    def add_function(self, data: memoryview) -> None:
        """Take in a FunctionProto: its name and domain, and its nodes."""
        parts = dict(fields(data))
        self.functions.add((text(parts.get(10)), text(parts.get(1))))
        self.add_parts(data, nodes=7)

    def add_parts(self, data: memoryview, nodes: int = 1) -> dict[str, Maker]:
        """Take in a GraphProto (or, with `nodes` 7, a FunctionProto) -> what computes each tensor."""
        makers: dict[str, Maker] = {}
        for number, value in fields(data):
            if number == nodes:
                makers.update(self._node(message(value)))
            elif nodes == 1 and number in (5, 15):
                self._constant(message(value), sparse=number == 15)
        return makers

    def _node(self, data: memoryview) -> dict[str, Maker]:
        kind, domain = "", ""
        taken: list[str] = []
        made: list[str] = []
        for number, value in fields(data):
            if number == 1:
                taken.append(text(value))
            elif number == 2:
                made.append(text(value))
            elif number == 4:
                kind = text(value)
            elif number == 5:
                self._attribute(message(value))
            elif number == 7:
                domain = text(value)
        self.operators[kind] += 1
        if domain not in KNOWN_DOMAINS:
            self.strangers.add((domain, kind))
        return dict.fromkeys(made, Maker(kind, domain, tuple(taken)))

    def _attribute(self, data: memoryview) -> None:
        """Tensors stand in fields 5 and 10 of an AttributeProto, graphs in 6 and 11, sparse tensors in 22 and 23."""
        for number, value in fields(data):
            if number in (5, 10, 22, 23):
                self._constant(message(value), sparse=number > 20)
            elif number in (6, 11):
                self.add_parts(message(value))

    def _constant(self, data: memoryview, sparse: bool) -> None:
        """A TensorProto, or the values and indices of a SparseTensorProto."""
        tensors = [message(value) for number, value in fields(data) if number in (1, 2)] if sparse else [data]
        for _, location, size in map(_external, tensors):
            if location:
                self.external[location] = max(size, self.external.get(location, 0))


def _external(data: memoryview) -> tuple[str, str, int]:
    """Name of a TensorProto, where its external data lies ("" when it holds its own), and where that ends there."""
    name, entries = "", {}
    for number, value in fields(data):
        if number == 8:
            name = text(value)
        elif number == 13:
            entry = dict(fields(message(value)))
            entries[text(entry.get(1))] = text(entry.get(2))
    end = int(entries.get("offset") or 0) + int(entries.get("length") or 0)
    return name, entries.get("location", ""), end


def _tensor(data: memoryview) -> TensorSpec:
    """A ValueInfoProto: name, element type, and shape with the names of dynamic dimensions."""
    parts = dict(fields(data))
    kind = dict(fields(message(parts.get(2, b""))))
    tensor = dict(fields(message(kind.get(1, b""))))
    shape: list[int | str] = [] if 2 in tensor else list(ANY_SHAPE)
    for number, dimension in fields(message(tensor.get(2, b""))):
        if number == 1:
            entry = dict(fields(message(dimension)))
            length = integer(entry.get(1, 0))
            known = 0 < length < 1 << 63  # others write -1 where a length is open
            shape.append(text(entry[2]) if 2 in entry else length if known else "?")
    dtype = DTYPES.get(integer(tensor.get(1, 0)), "unknown")
    return TensorSpec(name=text(parts.get(1)), dtype=dtype, shape=tuple(shape))


def _check_versions(header: OnnxHeader, where: str) -> None:
    if header.ir_version not in IR_VERSIONS:
        raise ModelFileError(
            f"{where}: IR version {header.ir_version} is outside {IR_VERSIONS[0]}..{IR_VERSIONS[-1]}; export it again"
        )
    if header.opset not in OPSETS:
        raise ModelFileError(
            f"{where}: opset {header.opset} is outside {OPSETS[0]}..{OPSETS[-1]}; export it with opset 17"
        )
    if header.custom:
        named = ", ".join(sorted(header.custom))
        raise ModelFileError(f"{where}: needs custom operators of {named}; export with standard operators")


def _check_external(path: Path, location: str, size: int) -> None:
    """External data must be a plain and whole file inside the model's own folder."""
    pure = PurePosixPath(location)
    if pure.is_absolute() or PureWindowsPath(location).drive or ".." in pure.parts or "\\" in location:
        raise ModelFileError(f"{path}: external data '{location}' lies outside the model's folder; refused")
    file = path.parent / pure
    if "\0" in location or not file.is_file():
        raise ModelFileError(f"{path}: external data {location!r} is missing; copy it beside the model")
    if file.is_symlink() or not file.resolve().is_relative_to(path.parent.resolve()):
        raise ModelFileError(f"{path}: external data '{location}' is a link; refused")
    if size > file.stat().st_size:
        raise ModelFileError(
            f"{path}: external data '{location}' has {file.stat().st_size} bytes, the model wants {size}: "
            "it is truncated; copy it again"
        )
