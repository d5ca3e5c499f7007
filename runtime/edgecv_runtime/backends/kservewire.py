"""The Open Inference Protocol v2 as a client speaks it: what a server says of itself, requests, and answers as arrays.

Whatever a server sends that is not what the network's file says raises, and is never cast.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import httpclient
from edgecv_runtime.datatypes import DTYPES, HEADER_LENGTH, NAMES
from edgecv_runtime.errors import BackendUnavailable, ComputationError
from edgecv_runtime.httpclient import Client, refusal
from edgecv_runtime.manifest import TensorSpec

TOKEN = "EDGECV_KSERVE_TOKEN"  # the name of a variable


class Server(NamedTuple):
    """What a server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...]


class Tensor(msgspec.Struct):
    """Of metadata and of answers; what else stands there is the server's own."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: Any = None


class Answer(msgspec.Struct):
    """What a model answers; data of tensors that stand behind its JSON are not in it."""

    outputs: list[Tensor]
    parameters: dict[str, Any] | None = None


class Model(msgspec.Struct):
    """What a server says of a model."""

    name: str
    inputs: list[Tensor] | None = None
    outputs: list[Tensor] | None = None
    parameters: dict[str, Any] | None = None

    @property
    def content(self) -> str:
        """Which bundle, variant and file an edgecv serves; "" of others."""
        return str((self.parameters or {}).get("content", ""))


class _About(msgspec.Struct):
    name: str
    version: str = ""
    extensions: list[str] | None = None


def about(client: Client, root: str) -> Server:
    """What the server at this path says of itself; raises BackendUnavailable."""
    found = read(client, root, _About)
    return Server(found.name, found.version, tuple(found.extensions or ()))


def read(client: Client, path: str, kind: Any) -> Any:
    """A document of the protocol; raises BackendUnavailable for what is none, and for a refusal."""
    answer = client.ask(path)
    if answer.status in (401, 403):
        raise BackendUnavailable(f"{client.where}{path}: {refusal(answer)}; set {TOKEN}")
    if answer.status != 200:
        raise BackendUnavailable(f"{client.where}{path}: {refusal(answer)}")
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BackendUnavailable(
            f"{client.where}{path}: it does not speak the Open Inference Protocol v2: {exc}"
        ) from exc


def unlike(said: list[Tensor], own: tuple[TensorSpec, ...]) -> str:
    """How tensors that a server names differ from the network's, or ""; more outputs and open sizes are none."""
    by_name = {each.name: each for each in said}
    for spec in own:
        each = by_name.get(spec.name)
        sizes = [-1 if isinstance(size, str) else size for size in spec.shape]
        if (
            each is None
            or each.datatype != DTYPES.get(spec.dtype)
            or len(each.shape) != len(sizes)
            or any(size != want and -1 not in (size, want) for size, want in zip(each.shape, sizes, strict=True))
        ):
            told = ", ".join(f"'{each.name}' {each.datatype} {each.shape}" for each in said)
            return f"{told}, where '{spec.name}' {DTYPES.get(spec.dtype)} {sizes} is wanted"
    return ""


def request(name: str, tensor: NDArray[Any], outputs: list[str], is_binary: bool) -> tuple[bytes, dict[str, str]]:
    """A request, its body and its headers, for these outputs; is_binary: the tensors stand behind the JSON."""
    given: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "datatype": DTYPES[str(tensor.dtype)]}
    if not is_binary:
        wishes = [{"name": each} for each in outputs]
        document = {"inputs": [{**given, "data": tensor.ravel().tolist()}], "outputs": wishes}
        return msgspec.json.encode(document), {"Content-Type": "application/json"}
    data = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()
    wanted = [{"name": each, "parameters": {"binary_data": True}} for each in outputs]
    text = json.dumps(
        {"inputs": [{**given, "parameters": {"binary_data_size": len(data)}}], "outputs": wanted}
    ).encode()
    return text + data, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def parted(answer: httpclient.Answer, where: str) -> tuple[Answer, bytes]:
    """The JSON of an answer, and the bytes behind it."""
    length = answer.headers.get(HEADER_LENGTH, str(len(answer.body)))
    if not length.isdecimal() or int(length[:20]) > len(answer.body):
        raise ComputationError(
            f"{where}: its answer has {len(answer.body)} bytes, the JSON alone should have {length[:20]}"
        )
    try:
        return msgspec.json.decode(answer.body[: int(length)], type=Answer), answer.body[int(length) :]
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ComputationError(f"{where}: its answer is not the protocol's: {exc}") from exc


def array(tensor: Tensor, data: bytes | None, spec: TensorSpec, where: str) -> NDArray[Any]:
    """An output as the network gives it; raises ComputationError for another type or shape."""
    fits = tensor.datatype == DTYPES[spec.dtype] and len(tensor.shape) == len(spec.shape)
    fits = fits and all(
        isinstance(want, str) or size == want for size, want in zip(tensor.shape, spec.shape, strict=False)
    )
    if not fits or any(size < 0 for size in tensor.shape):
        wanted = [-1 if isinstance(size, str) else size for size in spec.shape]
        raise ComputationError(
            f"{where}: '{spec.name}' comes as {tensor.datatype} {tensor.shape}, and is {DTYPES[spec.dtype]} {wanted}"
        )
    dtype = np.dtype(NAMES[tensor.datatype])
    try:
        flat = _numbers(tensor, dtype) if data is None else np.frombuffer(data, dtype.newbyteorder("<"))
        return flat.reshape(tensor.shape).astype(dtype)
    except ValueError as exc:
        raise ComputationError(
            f"{where}: the data of '{spec.name}' are not {tensor.datatype} {tensor.shape}: {exc}"
        ) from exc


def _numbers(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Data as they stand in JSON, flat or nested as the shape, never cast to what they are not; raises ValueError."""
    found = np.array(tensor.data)
    kinds = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}[dtype.kind]
    if not isinstance(tensor.data, list) or (found.size and found.dtype.kind not in kinds):
        raise ValueError("not a list of such values alone")
    if found.ndim > 1 and list(found.shape) != tensor.shape:
        raise ValueError(f"they are nested as {list(found.shape)}")
    made = found.astype(dtype)
    if dtype.kind in "iu" and (made != found).any():
        raise ValueError("beyond what the type holds")
    return made
