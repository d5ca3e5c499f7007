"""CUDA through NVIDIA's own bindings, `cuda.bindings.runtime`, and the GPU behind it."""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from edgecv_runtime.errors import BackendUnavailable, ComputationError, EdgecvError


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, compute capability (8, 6), multiprocessors, and the CUDA version that its driver serves.

    Jetsons of one generation share a name and a compute capability; their multiprocessors tell them apart.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    cuda: str


@functools.cache
def gpu() -> Gpu:
    """The first NVIDIA GPU; raises BackendUnavailable when there is none, or no driver, or no way to reach it."""
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)  # quick, and machines without a GPU end here
    except OSError as exc:
        raise BackendUnavailable(
            f"backend 'tensorrt' needs an NVIDIA GPU and its driver, but there is no {driver}: "
            "install the driver, or take another backend"
        ) from exc
    version: int = cuda("cudaDriverGetVersion", error=BackendUnavailable)
    if not cuda("cudaGetDeviceCount", error=BackendUnavailable):
        raise BackendUnavailable("backend 'tensorrt' needs an NVIDIA GPU: the driver finds none")
    facts = cuda("cudaGetDeviceProperties", 0, error=BackendUnavailable)
    return Gpu(
        name=facts.name.split(b"\0")[0].decode(errors="replace"),
        compute_capability=(facts.major, facts.minor),
        multiprocessors=facts.multiProcessorCount,
        cuda=f"{version // 1000}.{version % 1000 // 10}",
    )


@functools.cache
def cuda_runtime() -> Any:
    """NVIDIA's Python bindings of the CUDA runtime."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as exc:
        raise BackendUnavailable(
            "backend 'tensorrt' needs NVIDIA's CUDA bindings: pip install cuda-bindings, of the driver's CUDA version"
        ) from exc


def cuda(function: str, *given: Any, error: type[EdgecvError] = ComputationError) -> Any:
    """Call a function of the CUDA runtime and give its value; raises `error` in CUDA's own words."""
    runtime = cuda_runtime()
    status, *values = getattr(runtime, function)(*given)
    if status != runtime.cudaError_t.cudaSuccess:
        words = runtime.cudaGetErrorString(status)[1].decode()
        hint = "; update the driver, or install the cuda-bindings of its CUDA version" if "driver" in words else ""
        raise error(f"tensorrt: {function}: {words}{hint}")
    return values[0] if values else None
