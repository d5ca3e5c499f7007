"""What an ONNX file says of itself, read without the onnx package and before any backend touches it.

Backends disagree on what they refuse (OpenVINO runs opsets that do not exist, older ONNX Runtimes follow external data
out of the folder), so these checks are made here, the same for every backend. The wire format is Protocol Buffers'
(https://protobuf.dev/programming-guides/encoding/), field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgecv_runtime.errors import ModelFileError
from edgecv_runtime.manifest import TensorSpec

IR_VERSIONS = range(3, 14)
OPSETS = range(7, 27)
KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}

# onnx.TensorProto.DataType -> numpy's name
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool"}
_DTYPES |= {10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"}

# First bytes of what people pass as a model by mistake.
_OTHER_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer: run 'git lfs pull' to get the file itself",
    b"<": "an HTML or XML page: the download gave a web page instead of the file",
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint, or a bundle whose name must end in .edgecv)",
    b"\x80": "a Python pickle (a PyTorch checkpoint): export it with 'edgecv export'",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"ptrt": "a TensorRT engine: engines belong to one GPU and version; load the ONNX file",
    b"{": "a JSON document: a bundle is loaded by its folder",
    b"\x89HDF": "an HDF5 file (Keras): export it to ONNX",
}


@dataclass(frozen=True)
class OnnxHeader:
    """The outside of a model: versions, inputs and outputs, metadata, operators by type, external data files."""

    ir_version: int
    opsets: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]
    operators: Counter[str]
    last_operators: dict[str, str]  # output's name -> type of the operator that makes it
    external: tuple[str, ...]


def read(path: str | Path) -> OnnxHeader:
    """Read and check an ONNX file's outside.

    Raises ModelFileError in one line when it is missing, truncated, of another kind, of an IR version or opset out
    of range, with custom operators, or with external data that is missing or lies outside the file's folder.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    header = parse(data, str(path))
    _check_versions(header, str(path))
    for location in header.external:
        _check_external(path, location)
    return header


def parse(data: bytes, where: str) -> OnnxHeader:
    """Read the outside of a serialized model; raises ModelFileError that says what the bytes are instead."""
    if not data:
        raise ModelFileError(f"{where}: the file is empty")
    for start, kind in _OTHER_KINDS.items():
        if data.lstrip()[: len(start)] == start:
            raise ModelFileError(f"{where}: not an ONNX file but {kind}")
    if data[4:8] == b"TFL3":
        raise ModelFileError(f"{where}: not an ONNX file but a TensorFlow Lite model")
    try:
        return _header(memoryview(data))
    except (ValueError, IndexError, UnicodeDecodeError) as exc:
        raise ModelFileError(f"{where}: not a whole ONNX file ({exc}); it is truncated or of another kind") from exc


def _header(data: memoryview) -> OnnxHeader:
    ir_version, opsets, metadata, graph = 0, {}, {}, None
    for number, value in _fields(data):
        if number == 1:
            ir_version = _integer(value)
        elif number == 7:
            graph = _message(value)
        elif number == 8:
            entry = dict(_fields(_message(value)))
            opsets[_text(entry.get(1))] = _integer(entry.get(2, 0))
        elif number == 14:
            entry = dict(_fields(_message(value)))
            metadata[_text(entry.get(1))] = _text(entry.get(2))
    if graph is None or not ir_version or not opsets:
        raise ValueError("it has no graph, IR version or opset")

    inputs, outputs, initializers, external = [], [], set(), set()
    operators: Counter[str] = Counter()
    makers: dict[str, str] = {}
    for number, value in _fields(graph):
        if number == 1:
            kind, made, inside = _node(_message(value))
            operators[kind] += 1
            makers.update(dict.fromkeys(made, kind))
            external |= inside
        elif number == 5:
            name, location = _initializer(_message(value))
            initializers.add(name)
            external |= {location} - {""}
        elif number == 11:
            inputs.append(_tensor(_message(value)))
        elif number == 12:
            outputs.append(_tensor(_message(value)))
    return OnnxHeader(
        ir_version=ir_version,
        opsets=opsets,
        inputs=tuple(spec for spec in inputs if spec.name not in initializers),
        outputs=tuple(outputs),
        metadata=metadata,
        operators=operators,
        last_operators={spec.name: makers.get(spec.name, "") for spec in outputs},
        external=tuple(sorted(external)),
    )


def _node(data: memoryview) -> tuple[str, list[str], set[str]]:
    """A NodeProto: its operator, its outputs, and the external data that its attributes name."""
    kind, made, external = "", [], set()
    for number, value in _fields(data):
        if number == 2:
            made.append(_text(value))
        elif number == 4:
            kind = _text(value)
        elif number == 5:
            external |= _in_attribute(_message(value))
    return kind, made, external


def _in_attribute(data: memoryview) -> set[str]:
    """External data named inside an AttributeProto: by tensors (fields 5 and 10) and by graphs (6 and 11)."""
    external: set[str] = set()
    for number, value in _fields(data):
        if number in (5, 10):
            external.add(_initializer(_message(value))[1])
        elif number in (6, 11):
            for inner, part in _fields(_message(value)):
                if inner == 1:
                    external |= _node(_message(part))[2]
                elif inner == 5:
                    external.add(_initializer(_message(part))[1])
    return external - {""}


def _initializer(data: memoryview) -> tuple[str, str]:
    """Name of a TensorProto, and the location of its external data ("" when it holds its own)."""
    name, location = "", ""
    for number, value in _fields(data):
        if number == 8:
            name = _text(value)
        elif number == 13:
            entry = dict(_fields(_message(value)))
            if _text(entry.get(1)) == "location":
                location = _text(entry.get(2))
    return name, location


def _tensor(data: memoryview) -> TensorSpec:
    """A ValueInfoProto: name, element type, and shape with the names of dynamic dimensions."""
    fields = dict(_fields(data))
    kind = dict(_fields(_message(fields.get(2, b""))))
    tensor = dict(_fields(_message(kind.get(1, b""))))
    shape: list[int | str] = []
    for number, dimension in _fields(_message(tensor.get(2, b""))):
        if number == 1:
            entry = dict(_fields(_message(dimension)))
            shape.append(_text(entry[2]) if 2 in entry else _integer(entry.get(1, 0)) or "?")
    dtype = _DTYPES.get(_integer(tensor.get(1, 0)), "unknown")
    return TensorSpec(name=_text(fields.get(1)), dtype=dtype, shape=tuple(shape))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one Protocol Buffers message: number, and a varint or the bytes of the value."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("a field reaches beyond the end of the file")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than 10 bytes")


def _message(value: int | memoryview | bytes) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message is expected")  # noqa: TRY004 - caught as a malformed file
    return memoryview(value)


def _text(value: int | memoryview | None) -> str:
    return "" if value is None else bytes(_message(value)).decode()


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes stand where a number is expected")  # noqa: TRY004 - caught as a malformed file
    return value


def _check_versions(header: OnnxHeader, where: str) -> None:
    if header.ir_version not in IR_VERSIONS:
        raise ModelFileError(
            f"{where}: IR version {header.ir_version} is outside {IR_VERSIONS[0]}..{IR_VERSIONS[-1]}; export it again"
        )
    opset = header.opsets.get("", header.opsets.get("ai.onnx", 0))
    if opset not in OPSETS:
        raise ModelFileError(f"{where}: opset {opset} is outside {OPSETS[0]}..{OPSETS[-1]}; export it with opset 17")
    custom = sorted(set(header.opsets) - KNOWN_DOMAINS)
    if custom:
        raise ModelFileError(f"{where}: needs custom operators of {', '.join(custom)}; export with standard operators")


def _check_external(path: Path, location: str) -> None:
    """External data must be a plain file inside the model's own folder."""
    pure = PurePosixPath(location)
    if pure.is_absolute() or ".." in pure.parts or "\\" in location:
        raise ModelFileError(f"{path}: external data '{location}' lies outside the model's folder; refused")
    file = path.parent / pure
    if not file.is_file():
        raise ModelFileError(f"{path}: external data '{location}' is missing; copy it beside the model")
    if file.is_symlink() or not file.resolve().is_relative_to(path.parent.resolve()):
        raise ModelFileError(f"{path}: external data '{location}' is a link; refused")
