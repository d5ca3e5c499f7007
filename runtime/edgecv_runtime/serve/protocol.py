"""The Open Inference Protocol v2 on the wire: requests to arrays and arrays to answers, in JSON and in binary.

What the protocol calls datatypes, tensors and parameters is at https://kserve.github.io/website (V2 protocol, binary
tensor data extension); a request that holds the one input alone, without JSON, is Triton's "raw binary request".
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import records
from edgecv_runtime.datatypes import BYTES, DTYPES, NAMES
from edgecv_runtime.errors import BadInput, ComputationError, nearest
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.records import Record

# Bytes of what a mark stands for in CPython: a number and its place in a list, a list, an object, half a string.
_SIZES = {b",": 40, b"[": 128, b"{": 256, b'"': 32}
_BASE64 = "base64"
_LARGEST = 2**31  # of a size of a shape
# Of other servers, which change what is computed or when: an answer that ignores them would be a wrong one.
_REFUSED = ("sequence_id", "sequence_start", "sequence_end", "priority")
_LENGTH = struct.Struct("<I")

Array = NDArray[Any]


class InputTensor(Record, frozen=True):
    """A tensor of a request; `data` where it stands in the JSON, `parameters.binary_data_size` where behind it."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = None


class OutputWish(Record, frozen=True):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(Record, frozen=True):
    """What a client posts, as JSON."""

    inputs: tuple[InputTensor, ...]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: tuple[OutputWish, ...] | None = None


class Request(Record, frozen=True):
    """A request with its one input as an array; outputs: wanted names, and whether as binary; () for all.

    binary: whether outputs that are not named come as binary. timeout_s: after which nobody waits any more.
    """

    input: Array
    id: str | None = None
    outputs: tuple[tuple[str, bool], ...] = ()
    binary: bool = False
    timeout_s: float | None = None


def metadata(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as models describe theirs: sizes that are open are -1."""
    return {
        "name": spec.name,
        "datatype": DTYPES[spec.dtype],
        "shape": [size if isinstance(size, int) else -1 for size in spec.shape],
    }


def decoded_bytes(body: bytearray, header_length: str | None) -> int:
    """What the JSON of a body takes at most once it is read, bytes; raises BadInput for a length that cannot be."""
    length = _json_length(body, header_length)
    return sum(body.count(mark, 0, length) * size for mark, size in _SIZES.items())


def _json_length(body: bytearray, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    if header_length.isascii() and header_length.isdecimal() and int(header_length[:20]) <= len(body):
        return int(header_length)
    raise BadInput(
        f"Inference-Header-Content-Length is '{header_length[:40]}', expected the bytes of the JSON, at most the "
        f"{len(body)} of the whole body"
    )


def read(body: bytearray, header_length: str | None, spec: TensorSpec, outputs: Sequence[str]) -> Request:
    """A request of a model with one input, as `spec` says, and these outputs.

    header_length: of the JSON at the start of the body, where binary data follows; "0": all of it is the input.
    Raises BadInput that says what is wrong with it.
    """
    length = _json_length(body, header_length)
    if length == 0 and header_length is not None:
        return Request(_alone(body, spec))
    sent = memoryview(body)
    return request_of(records.decode(sent[:length], InferRequest, "the request"), sent[length:], spec, outputs)


def request_of(asked: InferRequest, binary: memoryview, spec: TensorSpec, outputs: Sequence[str]) -> Request:
    """A request that has been taken apart already; binary: the data of inputs that do not stand in it.

    Raises BadInput.
    """
    parameters = asked.parameters or {}
    refused = [name for name in _REFUSED if parameters.get(name)]
    if refused:
        raise BadInput(f"parameters.{refused[0]}: this server has no sequences and no priorities; leave it out")
    is_binary = _flag(parameters, "binary_data_output", "parameters")
    return Request(
        _input(asked.inputs, binary, spec),
        asked.id,
        _wishes(asked.outputs or (), is_binary, outputs),
        is_binary,
        _timeout_s(parameters.get("timeout")),
    )


def _alone(body: bytearray, spec: TensorSpec) -> Array:
    """A body that is the input and nothing else."""
    if spec.dtype == "object":
        return _objects([bytes(body)])
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    row = math.prod(sizes) * np.dtype(spec.dtype).itemsize
    if not len(body) or len(body) % row:
        raise BadInput(f"the body has {len(body)} bytes, expected {row} for each row of '{spec.name}'")
    return np.frombuffer(body, _little(spec.dtype)).reshape(-1, *sizes)


def _input(tensors: Sequence[InputTensor], binary: memoryview, spec: TensorSpec) -> Array:
    if len(tensors) != 1 or tensors[0].name != spec.name:
        got = ", ".join(f"'{each.name[:60]}'" for each in tensors[:8]) or "none"
        raise BadInput(f"inputs: expected '{spec.name}' and no other, got {got}")
    (tensor,) = tensors
    where = f"input '{tensor.name}'"
    wanted = DTYPES[spec.dtype]
    if tensor.datatype != wanted:
        raise BadInput(
            f"{where}: its datatype is {wanted}, got '{tensor.datatype[:20]}'{nearest(tensor.datatype[:20], NAMES)}"
            if tensor.datatype not in NAMES
            else f"{where}: its datatype is {wanted}, got {tensor.datatype}"
        )
    if not all(0 <= size < _LARGEST for size in tensor.shape) or len(tensor.shape) > 8:
        told = str(list(tensor.shape[:8]))
        raise BadInput(f"{where}: shape {told[:80]} is none: 8 sizes at most, each from 0 to {_LARGEST - 1}")
    parameters = tensor.parameters or {}
    size = parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            raise BadInput(f"{where}: {len(binary)} bytes follow the JSON, and no binary_data_size claims them")
        if tensor.data is None:
            raise BadInput(f"{where}: has neither data nor parameters.binary_data_size")
        return _from_json(tensor, parameters, where)
    if tensor.data is not None:
        raise BadInput(f"{where}: has both data and parameters.binary_data_size: give one of the two")
    if type(size) is not int or size != len(binary):
        raise BadInput(
            f"{where}: parameters.binary_data_size is {str(size)[:40]}, and {len(binary)} bytes follow the JSON: the "
            "body is truncated or too long"
        )
    return _from_binary(tensor, binary, where)


def _from_binary(tensor: InputTensor, data: memoryview, where: str) -> Array:
    if tensor.datatype == BYTES:
        return _shaped(_objects(_elements(data, where)), tensor, where)
    dtype = _little(NAMES[tensor.datatype])
    wanted = math.prod(tensor.shape) * dtype.itemsize
    if wanted != len(data):
        raise BadInput(
            f"{where}: {list(tensor.shape)} {tensor.datatype} are {wanted} bytes, got {len(data)}: truncated, or "
            "another shape"
        )
    if tensor.datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise BadInput(f"{where}: a BOOL is a byte 0 or 1")
    return _shaped(np.frombuffer(data, dtype), tensor, where)


def _elements(data: memoryview, where: str) -> list[bytes]:
    """Elements of a BYTES tensor: the length of each in 4 bytes, then itself."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4
        if end <= len(data):
            end += _LENGTH.unpack_from(data, at)[0]
        if end > len(data) or end < at + 4:
            raise BadInput(f"{where}: element {len(found)} is truncated: BYTES are 4 bytes of length, then the element")
        found.append(bytes(data[at + 4 : end]))
        at = end
    return found


def _from_json(tensor: InputTensor, parameters: Mapping[str, Any], where: str) -> Array:
    kind = tensor.datatype
    if kind == "FP16":
        raise BadInput(f"{where}: FP16 has no form in JSON: send it as binary data")
    nested = _sizes(tensor.data, where)
    if len(nested) > 1 and nested != tuple(tensor.shape):
        raise BadInput(f"{where}: its data are lists of {list(nested)}, and its shape is {list(tensor.shape)}")
    if kind == BYTES:
        words = list(_flat(tensor.data, where))
        if not all(isinstance(word, str) for word in words):
            raise BadInput(f"{where}: BYTES are strings in JSON")
        if parameters.get("content_type") == _BASE64:
            try:
                return _shaped(_objects([base64.b64decode(word, validate=True) for word in words]), tensor, where)
            except (binascii.Error, ValueError) as exc:
                raise BadInput(f"{where}: is not base64: {exc}") from exc
        return _shaped(_objects([word.encode(errors="surrogatepass") for word in words]), tensor, where)
    try:
        found = np.array(tensor.data)
    except (ValueError, OverflowError, RecursionError) as exc:
        raise BadInput(f"{where}: its data is ragged or nested too deep: expected a list of {kind}") from exc
    dtype = np.dtype(NAMES[kind])
    if kind == "UINT64" and found.dtype.kind == "f":  # NumPy's answer to values on both sides of 2**63
        flat = list(_flat(tensor.data, where))
        if all(type(value) is int and 0 <= value < 2**64 for value in flat):
            found = np.array(flat, dtype)
    kinds = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    # among numbers NumPy takes true for 1
    if found.size and (found.dtype.kind not in kinds or (bool in _types(tensor.data)) != (dtype.kind == "b")):
        raise BadInput(f"{where}: its data does not hold {kind} values alone")
    if found.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise BadInput(
                f"{where}: {kind} values lie in {limits.min}..{limits.max}, got {found.min()}..{found.max()}"
            )
    with np.errstate(over="ignore"):
        values = found.astype(dtype).reshape(-1)
    if dtype.kind == "f" and found.size and not np.isfinite(values).all():
        raise BadInput(f"{where}: its data holds values that are no {kind}")
    return _shaped(values, tensor, where)


def _sizes(data: Any, where: str, depth: int = 0) -> tuple[int, ...]:
    """The sizes of nested lists; raises BadInput where they are ragged or nested too deep."""
    if not isinstance(data, list):
        return ()
    if depth > 8:
        raise BadInput(f"{where}: its data is nested too deep")
    if not any(isinstance(each, list) for each in data):
        return (len(data),)
    inner = {_sizes(each, where, depth + 1) for each in data}
    if len(inner) > 1:
        raise BadInput(f"{where}: its data is ragged or nested too deep: expected a list of values")
    return (len(data), *inner.pop())


def _types(data: Any) -> set[type]:
    """Of all values of lists that are nested evenly."""
    found = {type(data)}
    while found == {list}:
        found = set(map(type, data))
        data = chain.from_iterable(data) if found == {list} else data
    return found


def _flat(data: Any, where: str, depth: int = 0) -> Any:
    if not isinstance(data, list):
        yield data
        return
    if depth > 8:
        raise BadInput(f"{where}: its data is nested too deep")
    for each in data:
        yield from _flat(each, where, depth + 1)


def _shaped(flat: Array, tensor: InputTensor, where: str) -> Array:
    if math.prod(tensor.shape) != flat.size:
        raise BadInput(f"{where}: shape {list(tensor.shape)} holds {math.prod(tensor.shape)} values, got {flat.size}")
    try:
        return flat.reshape(tensor.shape)
    except ValueError as exc:  # nothing, of sizes whose product is too large
        raise BadInput(f"{where}: shape {list(tensor.shape)} cannot be") from exc


def _objects(values: Sequence[bytes]) -> Array:
    made = np.empty(len(values), object)
    made[:] = values
    return made


def _little(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _flag(parameters: Mapping[str, Any], name: str, where: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise BadInput(f"{where}.{name}: expected true or false, got {str(value)[:40]}")
    return value


def _wishes(wishes: Sequence[OutputWish], binary: bool, outputs: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    found: dict[str, bool] = {}
    for wish in wishes:
        name, is_binary = _wish(wish, binary, outputs)
        if name in found:  # it would be held as often
            raise BadInput(f"outputs: '{name}' is asked for more than once")
        found[name] = is_binary
    return tuple(found.items())


def _wish(wish: OutputWish, binary: bool, outputs: Sequence[str]) -> tuple[str, bool]:
    if wish.name not in outputs:
        raise BadInput(f"outputs: there is no '{wish.name[:60]}'{nearest(wish.name[:60], outputs)}")
    parameters = wish.parameters or {}
    if parameters.get("classification"):
        raise BadInput(f"output '{wish.name}': parameters.classification is not served; leave it out")
    return wish.name, _flag(parameters, "binary_data", f"output '{wish.name}': parameters") if (
        "binary_data" in parameters
    ) else binary


def _timeout_s(micros: Any) -> float | None:
    if micros in (None, 0):
        return None
    if type(micros) is not int or not 0 <= micros < 2**63:
        raise BadInput(f"parameters.timeout: expected microseconds, got {str(micros)[:40]}")
    return micros / 1e6


def write(
    name: str, version: str, told: str, request: Request, outputs: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """The answer, and the length of the JSON at its start where binary data follows.

    told: which content of the bundle made it. Raises ComputationError for NaN and infinities, which JSON has not.
    """
    wishes = request.outputs or tuple((each, request.binary) for each in outputs)
    tensors, binary = [], []
    for output, is_binary in wishes:
        array = outputs[output]
        tensor: dict[str, Any] = {"name": output, "datatype": DTYPES[str(array.dtype)], "shape": list(array.shape)}
        if is_binary:
            data = to_binary(array)
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            tensor |= _to_json(array, output)
        tensors.append(tensor)
    told_of = {"model_name": name, "model_version": version, "parameters": {"content": told}, "outputs": tensors}
    document = msgspec.json.encode(told_of if request.id is None else {**told_of, "id": request.id})
    return (b"".join([document, *binary]), len(document)) if binary else (document, None)


def to_binary(array: Array) -> bytes:
    """An array as the protocol's binary data."""
    if array.dtype == object:
        return b"".join(_LENGTH.pack(len(each)) + each for each in array.ravel())
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _to_json(array: Array, name: str) -> dict[str, Any]:
    if array.dtype == object:
        try:
            return {"data": [each.decode() for each in array.ravel()]}
        except UnicodeDecodeError:
            data = [base64.b64encode(each).decode() for each in array.ravel()]
            return {"data": data, "parameters": {"content_type": _BASE64}}
    if array.dtype == np.float16:
        raise BadInput(f"output '{name}': FP16 has no form in JSON: ask for binary_data")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ComputationError(f"output '{name}' holds NaN or infinities, which JSON has not: ask for binary_data")
    return {"data": array.ravel().tolist()}
