"""What edgecv believes of NVIDIA's interfaces, against NVIDIA's own bindings: TensorRT-RTX as installed here, TensorRT
8.6 to 11 as recorded by tests/runtime/tensorrt_api.py, and the installed bindings of CUDA.
"""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import cuda.bindings.runtime
import pytest
import tensorrt_api
import tensorrt_rtx

from edgecv_runtime.backends.tensorrt import api

RECORDED = json.loads(tensorrt_api.RECORD.read_text())
RELEASES = {**RECORDED, "RTX": tensorrt_api.signatures(tensorrt_rtx)}

AHEAD_OF_TIME = {"IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}
CONFIGURED_CONTEXTS = {"ICudaEngine.create_runtime_config", "ICudaEngine.create_execution_context"}
KERNELS = {f"IRuntimeCache.{name}" for name in ("serialize", "deserialize")} | {
    f"IRuntimeConfig.{name}"
    for name in (
        "create_runtime_cache",
        "set_runtime_cache",
        "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    )
}
PRECISION = {"ILayer.precision", "ILayer.set_output_type"}
# What each release has not, or has with other parameters; docs/tensorrt.md says how the backend does without.
MISSING = {
    "8.6.1": AHEAD_OF_TIME
    | CONFIGURED_CONTEXTS
    | KERNELS
    | {"IBuilderConfig.progress_monitor", "ParserError.node_name", "ParserError.node_operator"},
    "10.0.1": AHEAD_OF_TIME | CONFIGURED_CONTEXTS | KERNELS,
    "10.3.0": AHEAD_OF_TIME | CONFIGURED_CONTEXTS | KERNELS,
    "10.13.0.35": AHEAD_OF_TIME | KERNELS,
    "11.4.0.106": AHEAD_OF_TIME | KERNELS | PRECISION,
    "RTX": PRECISION,
}


@pytest.mark.parametrize("release", RELEASES)
def test_the_types_are_those_of_the_bindings(release):
    found, missing = RELEASES[release], set()
    for name, members in tensorrt_api.classes().items():
        there = found.get(name) or {}
        for member, used in members.items():
            wanted = [used] if isinstance(used, list) else [used, "settable"]
            given = there.get(member, [])
            fits = any(each in wanted for each in (given if isinstance(given, list) else [given]))
            if not fits:
                missing.add(f"{name}.{member}")
    assert missing == MISSING[release]


@pytest.mark.parametrize(
    ("release", "abilities"),
    [
        # strong typing, precision flags, progress, RTX
        ("8.6.1", (False, True, False, False)),
        ("10.0.1", (True, True, True, False)),
        ("10.3.0", (True, True, True, False)),
        ("10.13.0.35", (True, True, True, False)),
        ("11.4.0.106", (True, False, True, False)),
    ],
)
def test_what_a_release_can_do_is_read_from_it(release, abilities):
    recorded = RECORDED[release]
    library = SimpleNamespace(
        **{
            name: SimpleNamespace(__members__=recorded[name])
            for name in tensorrt_api.enumerations()
            if name in recorded
        },
        **({"IProgressMonitor": object} if recorded["IProgressMonitor"] else {}),
        **({"IRuntimeCache": object} if recorded["IRuntimeCache"] else {}),
    )
    can = api.abilities(library)
    assert (can.strong_typing, can.precision_flags, can.progress, can.rtx) == abilities
    assert can.targets == {}


def test_tensorrt_rtx_can_build_for_gpus_that_are_not_here():
    can = api.abilities(tensorrt_rtx)
    assert (can.strong_typing, can.precision_flags, can.progress, can.rtx) == (True, False, True, True)
    assert can.targets[8, 6] == tensorrt_rtx.ComputeCapability.SM86
    assert can.targets[12, 0] == tensorrt_rtx.ComputeCapability.SM120
    assert (9, 0) not in can.targets


@pytest.mark.parametrize("release", RELEASES)
def test_every_enumeration_has_the_members_that_are_used(release):
    found = RELEASES[release]
    assert found["BuilderFlag"].keys() >= {"TF32", "GPU_FALLBACK"}
    assert found["ProfilingVerbosity"].keys() >= {"DETAILED"}
    assert found["LayerInformationFormat"].keys() >= {"JSON"}
    assert found["DeviceType"].keys() >= {"DLA"}
    assert found["DataType"].keys() >= {"FLOAT", "HALF", "INT8", "UINT8"}
    if "FP16" in found["BuilderFlag"]:
        assert found["BuilderFlag"].keys() >= {"INT8", "OBEY_PRECISION_CONSTRAINTS"}


def calls_of_cuda():
    """Every call of a CUDA function in the backend: name and number of arguments."""
    for file in sorted(Path(api.__file__).parent.glob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call):
                names = [
                    each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
                ]
                if names and re.fullmatch(r"cuda[A-Z]\w+", names[0]):
                    before = next(index for index, each in enumerate(call.args) if isinstance(each, ast.Constant))
                    yield names[0], len(call.args) - before - 1


def test_every_cuda_function_is_called_with_its_arguments():
    calls = set(calls_of_cuda())
    assert {("cudaMalloc", 1), ("cudaStreamDestroy", 1), ("cudaMemcpyAsync", 5), ("cudaGraphInstantiate", 2)} <= calls
    for name, count in calls:
        declared = getattr(cuda.bindings.runtime, name).__doc__.splitlines()[0]
        inside = declared[declared.index("(") + 1 : declared.rindex(")")]
        assert count == len([each for each in inside.split(",") if each]), declared


def test_the_cuda_constants_that_are_used_are_there():
    runtime = cuda.bindings.runtime
    assert runtime.cudaMemcpyKind.cudaMemcpyHostToDevice == 1
    assert runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost == 2
    assert (runtime.cudaHostAllocDefault, runtime.cudaStreamNonBlocking) == (0, 1)
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == 1
    assert int(runtime.cudaStream_t(5)) == 5  # what TensorRT takes for a stream
    assert runtime.cudaGetErrorString(runtime.cudaError_t.cudaErrorMemoryAllocation)[1] == b"out of memory"
