"""What the Open Inference Protocol v2 calls the types of tensors, for those who serve it and those who ask."""

from __future__ import annotations

BYTES = "BYTES"
DTYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "object": BYTES,
}  # fmt: skip
NAMES = {name: dtype for dtype, name in DTYPES.items()}
HEADER_LENGTH = "inference-header-content-length"  # of the JSON at the start of a body, where binary data follows
BINARY = "binary_tensor_data"  # the extension of the protocol for that
