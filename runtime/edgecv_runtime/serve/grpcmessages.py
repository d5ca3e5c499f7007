"""The messages of the protocol's GRPCInferenceService, made of a table.

Names and numbers are those of the Open Inference Protocol's `open_inference_grpc.proto` (package `inference`), which
Triton's `grpc_service.proto` extends. They lie in a pool of their own: a process may hold Triton's client, too, and the
pool that all share takes a name only once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from edgecv_runtime.errors import Unavailable

SERVICE = "inference.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

_PARAMETERS = "map InferParameter"
_TENSOR = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "repeated int64")}
_FULL = {**_TENSOR, "parameters": (4, _PARAMETERS), "contents": (5, "InferTensorContents")}
_NAMED = {"name": (1, "string"), "version": (2, "string")}
# Fields of each message: name -> (number, type). "A.B" is declared inside A; of InferParameter one field is set.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAMED, "extensions": (3, "repeated string")},
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "repeated string"),
        "platform": (3, "string"),
        "inputs": (4, "repeated ModelMetadataResponse.TensorMetadata"),
        "outputs": (5, "repeated ModelMetadataResponse.TensorMetadata"),
    },
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": {
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "repeated bool"),
        "int_contents": (2, "repeated int32"),
        "int64_contents": (3, "repeated int64"),
        "uint_contents": (4, "repeated uint32"),
        "uint64_contents": (5, "repeated uint64"),
        "fp32_contents": (6, "repeated float"),
        "fp64_contents": (7, "repeated double"),
        "bytes_contents": (8, "repeated bytes"),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "inputs": (5, "repeated ModelInferRequest.InferInputTensor"),
        "outputs": (6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
        "raw_input_contents": (7, "repeated bytes"),
    },
    "ModelInferRequest.InferInputTensor": _FULL,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": (1, "string"), "parameters": (2, _PARAMETERS)},
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, _PARAMETERS),
        "outputs": (5, "repeated ModelInferResponse.InferOutputTensor"),
        "raw_output_contents": (6, "repeated bytes"),
    },
    "ModelInferResponse.InferOutputTensor": _FULL,
}
_CHOICE = "parameter_choice"
# Which field of InferTensorContents holds the values of a datatype; FP16 has none.
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@functools.cache
def classes() -> Mapping[str, Any]:
    """The class of each message; raises Unavailable without protobuf."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as exc:
        raise Unavailable("gRPC needs grpcio and protobuf", extra="grpc") from exc
    file = descriptor_pb2.FileDescriptorProto(name="open_inference_grpc.proto", package="inference", syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = made[name] = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
        if name == "InferParameter":
            message.oneof_decl.add(name=_CHOICE)
        for field, (number, kind) in fields.items():
            _add(message, name, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _top_level()
    }


def _top_level() -> Iterator[str]:
    return (name for name in MESSAGES if "." not in name)


def _add(message: Any, owner: str, name: str, number: int, kind: str) -> None:
    """A field of a message, and for a map the message of its entries."""
    label, _, inner = kind.rpartition(" ")
    field = message.field.add(name=name, number=number, label=3 if label else 1)  # LABEL_REPEATED, LABEL_OPTIONAL
    if owner == "InferParameter":
        field.oneof_index = 0
    if label == "map":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add(entry, "", "key", 1, "string")
        _add(entry, "", "value", 2, inner)
        field.type, field.type_name = field.TYPE_MESSAGE, f".inference.{owner}.{entry.name}"
    elif inner in MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".inference.{inner}"
    else:
        field.type = getattr(field, f"TYPE_{inner.upper()}")
