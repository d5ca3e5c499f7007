"""The protocol over gRPC: the same models, limits and token as over HTTP, from the same desk."""

from __future__ import annotations

import hmac
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgecv_runtime import __version__
from edgecv_runtime.datatypes import DTYPES, NAMES
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.serve import protocol
from edgecv_runtime.serve.body import Gone, Refusal
from edgecv_runtime.serve.desk import PLATFORM, Desk, Served, refusal
from edgecv_runtime.serve.grpcmessages import CONTENTS, METHODS, SERVICE, classes
from edgecv_runtime.serve.models import Outputs
from edgecv_runtime.serve.threads import Threads

if TYPE_CHECKING:
    from edgecv_runtime.serve.tls import Tls

UNGUARDED = ("ServerLive", "ServerReady")
_IDLE_MS = 60_000  # of a connection without a request
_NUMBER = 40  # bytes of a number of Python, with its place in a list
# What a status of HTTP is in gRPC, by the name of its code.
_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class GrpcServer:
    """Serves a desk over gRPC.

    Each request has a thread from its first byte to its answer, which computes it, too, where it is its turn: gRPC's
    own loop for asyncio turns some 13 times a request, and each answer would have to change threads to get there.
    """

    def __init__(self, desk: Desk, host: str, port: int, token: str | None, tls: Tls | None) -> None:
        """Bind the address; raises BadInput for one that is taken, Unavailable without grpcio."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # whoever sends garbage fills no log
        try:
            import grpc
        except ImportError as exc:
            raise Unavailable("gRPC needs grpcio and protobuf", extra="grpc") from exc
        limits = desk.limits
        self._methods = Methods(desk, token, grpc)
        self._server = server = grpc.server(
            Threads(limits.connections, "edgecv-serve-grpc"),
            options=[
                ("grpc.max_receive_message_length", int(limits.body_mb * 2**20)),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else a second server shares the port, and nobody notices
                ("grpc.max_allowed_incoming_connections", limits.connections),
                ("grpc.server_handshake_timeout_ms", int(limits.head_s * 1e3)),
                ("grpc.max_connection_idle_ms", _IDLE_MS),  # its client connects again when it needs to
            ],
            maximum_concurrent_rpcs=limits.connections,
        )
        server.add_generic_rpc_handlers((self._methods.handlers(),))
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if tls is None:
                self.port = int(server.add_insecure_port(place))
            else:
                self.port = int(server.add_secure_port(place, grpc.ssl_server_credentials(*tls.for_grpc())))
        except RuntimeError as exc:
            self.close(0)
            raise BadInput(f"{host}:{port}: cannot listen there for gRPC: the address is taken, or none") from exc

    def start(self) -> None:
        """Serve."""
        self._server.start()

    def close(self, wait_s: float) -> None:
        """Take no more, and wait so long for requests that have begun."""
        self._server.stop(wait_s).wait(wait_s + 1)
        self._methods.close()


class Methods:
    """What each method of the service does."""

    def __init__(self, desk: Desk, token: str | None, grpc: Any) -> None:
        self._desk, self._grpc = desk, grpc
        self._secret = None if token is None else f"Bearer {token}".encode()
        self._messages = classes()
        self._late = Late(desk.limits.body_s)

    def close(self) -> None:
        """Watch over no request any more."""
        self._late.close()

    def handlers(self) -> Any:
        """All of them, for a server."""
        return self._grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: self._grpc.stream_unary_rpc_method_handler(
                    self._guarded(name),
                    response_serializer=self._messages[f"{name}Response"].SerializeToString,
                )
                for name in METHODS
            },
        )

    def _guarded(self, name: str) -> Callable[[Any, Any], Any]:
        """A method whose errors become a status, and which wants the token.

        To gRPC it takes a stream, of which it reads one message: so its time is ours to watch.
        """
        method, kind = getattr(self, f"_{name}"), self._messages[f"{name}Request"]

        def run(stream: Iterator[bytes], context: Any) -> Any:
            try:
                if name in UNGUARDED or self._is_known(context):
                    with self._late.watch(context):
                        sent = next(stream, None)
                    return method(_parsed(sent, kind), context)
                refused = Refusal("a token is needed", 401)
            except self._grpc.RpcError:  # its client has gone, or was late: there is nobody to answer
                raise
            except Exception as exc:  # whatever it is, the client gets one line, and the others theirs
                refused = refusal(exc)
            code = getattr(self._grpc.StatusCode, _CODES.get(refused.status, "INTERNAL"))
            again_s = refused.headers.get("Retry-After")
            if again_s is not None:
                context.set_trailing_metadata((("retry-after", again_s),))
            return context.abort(code, str(refused))

        return run

    def _is_known(self, context: Any) -> bool:
        if self._secret is None:
            return True
        given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        return any(
            hmac.compare_digest(each.encode() if isinstance(each, str) else each, self._secret) for each in given
        )

    def _ServerLive(self, _: Any, __: Any) -> Any:  # noqa: N802 - the service's own names
        return self._messages["ServerLiveResponse"](live=self._desk.is_live)

    def _ServerReady(self, _: Any, __: Any) -> Any:  # noqa: N802
        return self._messages["ServerReadyResponse"](ready=self._desk.is_ready)

    def _ModelReady(self, request: Any, __: Any) -> Any:  # noqa: N802
        return self._messages["ModelReadyResponse"](
            ready=self._desk.find(request.name, request.version or None).is_ready
        )

    def _ServerMetadata(self, _: Any, __: Any) -> Any:  # noqa: N802
        return self._messages["ServerMetadataResponse"](name="edgecv", version=__version__)

    def _ModelMetadata(self, request: Any, __: Any) -> Any:  # noqa: N802
        served = self._desk.find(request.name, request.version or None)
        model = served.line.source.current()
        return self._messages["ModelMetadataResponse"](
            name=served.name,
            versions=self._desk.versions(served.name),
            platform=PLATFORM,
            inputs=[protocol.metadata(served.face.input(model))],
            outputs=[protocol.metadata(spec) for spec in served.face.outputs(model)],
        )

    def _ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        began_s = time.monotonic()
        desk, name, version, status = self._desk, "", "", 200
        gone, wake = threading.Event(), threading.Event()

        def left() -> None:
            gone.set()
            wake.set()

        if not context.add_callback(left):
            left()
        try:
            with desk.memory.hold() as take:
                served = desk.find(request.model_name, request.model_version or None)
                name, version = served.name, served.version
                take(request.ByteSize())
                with served.line.place():
                    answer = desk.answer_here(served, Message(request, self._messages), take, gone, wake)
                take(answer.ByteSize())
                return answer
        except Gone:
            status = 499
            raise
        except Exception as exc:
            refused = refusal(exc, served.line if name else None)
            status = refused.status
            raise refused from exc
        finally:
            desk.metrics.answered(name, version, status, time.monotonic() - began_s)


class Late:
    """Ends requests whose message is not there in time; a thread for all of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends_s: dict[Any, float] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._work, name="edgecv-serve-late", daemon=True).start()

    @contextmanager
    def watch(self, context: Any) -> Iterator[None]:
        """While the message of a request is awaited."""
        self._ends_s[context] = time.monotonic() + self._seconds
        try:
            yield
        finally:
            del self._ends_s[context]

    def close(self) -> None:
        """Watch no more."""
        self._closing.set()

    def _work(self) -> None:
        while not self._closing.wait(self._seconds / 4):
            now_s = time.monotonic()
            for context, end_s in list(self._ends_s.items()):
                if end_s < now_s:
                    context.cancel()


def _parsed(sent: bytes | None, kind: Any) -> Any:
    """A message of a kind; here and not by gRPC, which writes a traceback for each that is none."""
    from google.protobuf.message import DecodeError

    if sent is None:
        raise BadInput(f"no {kind.DESCRIPTOR.name} was sent")
    try:
        return kind.FromString(sent)
    except DecodeError as exc:
        raise BadInput(f"the request is no {kind.DESCRIPTOR.name}") from exc


class Message(NamedTuple):
    """A ModelInferRequest, and the classes of what answers it."""

    request: Any
    messages: Any

    def decoded_bytes(self) -> int:
        """Values that are no binary data become numbers of Python on their way."""
        fields = [field for tensor in self.request.inputs for field in tensor.contents.ListFields()]
        return sum(
            2 * sum(map(len, values)) if field.name == "bytes_contents" else _NUMBER * len(values)
            for field, values in fields
        )

    def read(self, spec: TensorSpec, outputs: Sequence[str]) -> protocol.Request:
        """The request, its one input as binary data."""
        raw = list(self.request.raw_input_contents)
        inputs = [self._input(each, raw) for each in self.request.inputs]
        if raw and len(raw) != len(inputs):
            raise BadInput(f"raw_input_contents has {len(raw)} elements, expected one for each of {len(inputs)} inputs")
        asked = protocol.InferRequest(
            inputs=tuple(tensor for tensor, _ in inputs),
            id=self.request.id or None,
            parameters=_plain(self.request.parameters),
            outputs=tuple(protocol.OutputWish(each.name, _plain(each.parameters)) for each in self.request.outputs)
            or None,
        )
        return protocol.request_of(asked, memoryview(inputs[0][1] if len(inputs) == 1 else b""), spec, outputs)

    def write(self, served: Served, told: str, asked: protocol.Request, columns: Outputs) -> Any:
        """The answer; all outputs as binary data."""
        names = [name for name, _ in asked.outputs] or list(columns)
        answer = self.messages["ModelInferResponse"](
            model_name=served.name, model_version=served.version, id=asked.id or ""
        )
        answer.parameters["content"].string_param = told
        for name in names:
            array = columns[name]
            answer.outputs.add(name=name, datatype=DTYPES[str(array.dtype)], shape=array.shape)
            answer.raw_output_contents.append(protocol.to_binary(array))
        return answer

    def _input(self, tensor: Any, raw: list[bytes]) -> tuple[protocol.InputTensor, bytes]:
        where = f"input '{tensor.name[:60]}'"
        filled = [field.name for field, _ in tensor.contents.ListFields()]
        if raw and filled:
            raise BadInput(f"{where}: has both contents and raw_input_contents: give one of the two")
        data = raw[0] if raw else _packed(tensor, filled, where)
        parameters = {**_plain(tensor.parameters), "binary_data_size": len(data)}
        return protocol.InputTensor(tensor.name, tuple(tensor.shape), tensor.datatype, parameters), data


def _packed(tensor: Any, filled: list[str], where: str) -> bytes:
    """Typed contents as binary data; raises BadInput for values that the datatype cannot hold, never cast."""
    field = CONTENTS.get(tensor.datatype)
    if tensor.datatype == "FP16":
        raise BadInput(f"{where}: FP16 has no contents: send it in raw_input_contents")
    if field is None or not set(filled) <= {field}:
        raise BadInput(f"{where}: {tensor.datatype[:20]} stands in {field or 'no contents'}, got {', '.join(filled)}")
    values = getattr(tensor.contents, field)
    if field == "bytes_contents":
        return b"".join(struct.pack("<I", len(each)) + each for each in values)
    dtype = np.dtype(NAMES[tensor.datatype])
    found = np.array(values, {"f": dtype, "b": dtype}.get(dtype.kind, np.uint64 if dtype.kind == "u" else np.int64))
    if dtype.kind in "iu" and len(found):
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise BadInput(
                f"{where}: {tensor.datatype} values lie in {limits.min}..{limits.max}, got {found.min()}..{found.max()}"
            )
    return protocol.to_binary(found.astype(dtype))


def _plain(parameters: Any) -> dict[str, Any]:
    chosen = {name: each.WhichOneof("parameter_choice") for name, each in parameters.items()}
    return {name: getattr(parameters[name], field) for name, field in chosen.items() if field}
