"""TensorRT 8.6 to 11, and TensorRT-RTX, on an NVIDIA GPU or a Jetson's DLA; docs/tensorrt.md says what has run where.

`api` is NVIDIA's interface as types, `network` parses an ONNX file, `build` makes an engine of it in a process that
`builder` starts, `cache` keeps engines, `worker` runs one in a context of its own, `pool` lends workers to threads, and
`backend` puts them together.
"""

from edgecv_runtime.backends.tensorrt.backend import TensorRtBackend

__all__ = ["TensorRtBackend"]
