"""Devices that bundles go to, and what their libraries refuse: data, each line with its source.

A target says what the device's own system and pip give there; a rule says what follows for a file.
What nobody has tried is no rule: it is "not known".
"""

from __future__ import annotations

from typing import Literal

from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.onnxfile import IR_VERSIONS, OPSETS
from edgecv_runtime.records import Record

EMULATED = "measured by edgecv, 2026-11, under emulation (QEMU, {}): digits and EfficientNet-Lite0"
_A72, _A76 = EMULATED.format("Cortex-A72"), EMULATED.format("Cortex-A76")
_X86 = "measured by edgecv: the tests, on x86-64 with AVX512-VNNI"
_RTX = "docs/tensorrt.md: built by TensorRT-RTX 1.7 without a GPU"
_NVIDIA = "https://docs.nvidia.com/deeplearning/tensorrt"
_JETPACK = "https://developer.nvidia.com/embedded/jetpack-archive"
LEAST_PYTHON = (3, 10)  # pyproject.toml
LEAST_GLIBC = (2, 28)  # ONNX Runtime's and OpenVINO's wheels are manylinux_2_28


class Way(Record, frozen=True):
    """A backend of a target.

    version: of its library there. tried: the source that says it ran on such a processor, "" where nobody of us ran it.
    opset, ir: the highest that this version takes; source: of these two.
    """

    version: str
    tried: str = ""
    opset: int = OPSETS[-1]
    ir: int = IR_VERSIONS[-1]
    source: str = "edgecv's own limits: edgecv_runtime/onnxfile.py"


class Target(Record, frozen=True):
    """A device with its system.

    traits: what rules ask for. memory_mb: as it is sold, in MiB, the smallest first; () where any may be had.
    named: what the name of its processor or board holds, by which evidence from such a device is known; () for a class
    of machines. packages: what pip gives there beside the backends' libraries.
    """

    name: str
    title: str
    architecture: Literal["aarch64", "x86_64"]
    python: str
    glibc: str
    traits: tuple[str, ...]
    ways: dict[str, Way]
    source: str
    memory_mb: tuple[int, ...] = ()
    named: tuple[str, ...] = ()
    packages: dict[str, str] = {}


class Rule(Record, frozen=True):
    """What holds of a file on a backend of a target that all have the words of `when`.

    when: a backend, its version ("tensorrt 8.6"), traits of targets and of files (`check.traits`). verdict: "noted"
    changes none. source: an address, or by whom it was measured and when.
    """

    when: tuple[str, ...]
    verdict: Literal["refused", "not known", "noted"]
    because: str
    source: str


_ORT_123 = Way(
    "1.23.2",
    f"measured by edgecv, 2026-11-28, on x86-64: digits and EfficientNet-Lite0, int8 too; 1.32.0 {_A76}",
    opset=23,
    ir=11,
    source="measured by edgecv, 2026-11-28, on x86-64, with a file of each",
)
_OV = "2026.4.1"
_TRT_86 = Way("8.6", opset=17, source="https://github.com/onnx/onnx-tensorrt/blob/release/8.6-GA/docs/operators.md")
_TRT_103 = Way("10.3", opset=20, source="https://github.com/onnx/onnx-tensorrt/blob/release/10.3-GA/docs/operators.md")
_TRT_114 = Way("11.4", opset=25, source=f"{_NVIDIA}/latest/reference/onnx-opset-guide.html")
_JP6 = {"onnxruntime": _ORT_123, "openvino": Way(_OV, _A76)}
_JP6_PACKAGES = {"numpy": "2.2.6", "av": "17.1.0"}
_ORIN_MEMORY = (4096, 8192, 16384, 32768, 65536)
_CPU = {"onnxruntime": Way("1.32.0", _X86), "openvino": Way(_OV, _X86)}
_PYPI = "what pip resolves there, 2026-11"

_ALL = (
    Target(
        "jetson-jp5",
        "Jetson with JetPack 5 (Ubuntu 20.04)",
        "aarch64",
        python="3.8",
        glibc="2.31",
        traits=("jetson",),
        ways={"onnxruntime": Way("none for Python 3.8"), "tensorrt": Way("8.5")},
        source=_JETPACK,
    ),
    Target(
        "jetson-orin-jp60",
        "Jetson Orin with JetPack 6.0 (Ubuntu 22.04)",
        "aarch64",
        python="3.10",
        glibc="2.35",
        traits=("jetson", "cortex-a78ae", "dla"),
        ways={**_JP6, "tensorrt": _TRT_86, "tensorrt dla": _TRT_86},
        source=f"{_JETPACK}; {_PYPI}",
        memory_mb=_ORIN_MEMORY,
        packages=_JP6_PACKAGES,
    ),
    Target(
        "jetson-orin-jp6",
        "Jetson Orin with JetPack 6.1 or 6.2 (Ubuntu 22.04)",
        "aarch64",
        python="3.10",
        glibc="2.35",
        traits=("jetson", "cortex-a78ae", "dla"),
        ways={**_JP6, "tensorrt": _TRT_103, "tensorrt dla": _TRT_103},
        source=f"{_JETPACK}; {_PYPI}",
        memory_mb=_ORIN_MEMORY,
        named=("Orin",),
        packages=_JP6_PACKAGES,
    ),
    Target(
        "jetson-jp7",
        "Jetson Orin or Thor with JetPack 7.2.2 or later (Ubuntu 24.04)",
        "aarch64",
        python="3.12",
        glibc="2.39",
        traits=("jetson", "dla"),
        ways={
            "onnxruntime": Way("1.32.0", _A76),
            "openvino": Way(_OV, _A76),
            "tensorrt": _TRT_114,
            "tensorrt dla": _TRT_114,
        },
        source=f"{_JETPACK}; {_PYPI}",
        memory_mb=(*_ORIN_MEMORY, 131072),
        named=("Thor",),
    ),
    Target(
        "rpi4",
        "Raspberry Pi 4 with Raspberry Pi OS (64 bit)",
        "aarch64",
        python="3.11",
        glibc="2.36",
        traits=("cortex-a72",),
        ways={"onnxruntime": Way("1.32.0", _A72), "openvino": Way(_OV, _A72)},
        source=_PYPI,
        memory_mb=(1024, 2048, 4096, 8192),
        named=("Raspberry Pi 4", "Raspberry Pi Compute Module 4", "Cortex-A72"),
    ),
    Target(
        "rpi5",
        "Raspberry Pi 5 with Raspberry Pi OS (64 bit)",
        "aarch64",
        python="3.11",
        glibc="2.36",
        traits=("cortex-a76",),
        ways={"onnxruntime": Way("1.32.0", _A76), "openvino": Way(_OV, _A76)},
        source=_PYPI,
        memory_mb=(1024, 2048, 4096, 8192, 16384),
        named=("Raspberry Pi 5", "Raspberry Pi Compute Module 5", "Cortex-A76"),
    ),
    Target(
        "n100",
        "Intel N100 (AVX2 with VNNI, no AVX512) with Debian 12 or Ubuntu 24.04",
        "x86_64",
        python="3.11",
        glibc="2.36",
        traits=("vnni",),
        ways=_CPU,
        source=_PYPI,
        memory_mb=(4096, 8192, 16384),
        named=("N95", "N97", "N100", "N200", "N305"),
    ),
    Target(
        "x86-avx2",
        "x86-64 with AVX2, without VNNI, with Debian 12 or Ubuntu 24.04",
        "x86_64",
        python="3.11",
        glibc="2.36",
        traits=("no vnni",),
        ways=_CPU,
        source=_PYPI,
    ),
    Target(
        "x86-avx512-vnni",
        "x86-64 with AVX512-VNNI, with Debian 12 or Ubuntu 24.04",
        "x86_64",
        python="3.11",
        glibc="2.36",
        traits=("vnni",),
        ways=_CPU,
        source=_PYPI,
    ),
    Target(
        "x86-rtx",
        "x86-64 with a GeForce or RTX GPU from Turing on, and TensorRT-RTX",
        "x86_64",
        python="3.11",
        glibc="2.36",
        traits=("vnni",),
        ways={**_CPU, "tensorrt": Way("rtx 1.7")},
        source="docs/tensorrt.md",
    ),
)
TARGETS = {target.name: target for target in _ALL}

_QDQ_TRANSLATOR = "https://github.com/NVIDIA/Deep-Learning-Accelerator-SW/tree/main/tools/qdq-translator"
RULES = (
    Rule(
        ("openvino", "cortex-a72", "int8"),
        "refused",
        'OpenVINO cannot load any int8 file on a Cortex-A72 ("object is not initialized"); onnxruntime can',
        _A72,
    ),
    Rule(
        ("openvino", "cortex-a76", "int8"),
        "noted",
        "runs as a mix of fp16, float32 and int8 (17 of 50 layers of EfficientNet-Lite0), slower than float32",
        _A76,
    ),
    Rule(
        ("openvino", "cortex-a78ae", "int8"),
        "not known",
        "never run on a Cortex-A78AE; its nearest kin, a Cortex-A76, runs a mix of precisions, slower than float32",
        _A76,
    ),
    Rule(
        ("openvino", "jetson", "int8"),
        "not known",
        "never run on a Jetson's processor; OpenVINO on ARM quantizes a part of the layers only",
        _A76,
    ),
    Rule(
        ("onnxruntime", "no vnni", "int8"),
        "noted",
        "without VNNI sums of int8 products can saturate: accuracy differs from what was measured elsewhere; "
        "'edgecv verify' there",
        "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
    ),
    Rule(
        ("tensorrt", "zero points"),
        "refused",
        "TensorRT takes symmetric int8 alone; make int8-s8s8 or int8-s8s8-fp16 ('edgecv quantize --dialect')",
        f"{_NVIDIA}/latest/inference-library/work-quantized-types.html; {_RTX}",
    ),
    Rule(
        ("tensorrt", "int32 bias"),
        "refused",
        "TensorRT takes no DequantizeLinear of an int32 bias; make int8-s8s8 ('edgecv quantize --dialect')",
        _RTX,
    ),
    Rule(
        ("tensorrt 8.6", "int8", "opset 19"),
        "refused",
        "TensorRT 8.6 reads the scales of Q/DQ of opset 19 as float32; take int8-s8s8, of opset 17",
        "https://github.com/onnx/onnx-tensorrt/blob/release/8.6-GA/builtin_op_importers.cpp",
    ),
    Rule(
        ("tensorrt 8.5",),
        "refused",
        "TensorRT before 8.6 is not served; install JetPack 6 or later",
        "docs/tensorrt.md",
    ),
    Rule(
        ("tensorrt", "antialias"),
        "refused",
        "TensorRT takes no Resize with antialias; export without it",
        "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md",
    ),
    *(
        Rule(
            ("tensorrt", f"operator {name}"),
            "refused",
            f"TensorRT's parser has no {name}",
            "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md",
        )
        for name in ("BitShift", "Bernoulli", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "Unique")
    ),
    Rule(
        ("tensorrt dla", "float32"),
        "refused",
        "a DLA computes in fp16 and int8, not in float32; make fp16 ('edgecv quantize --dialect fp16')",
        f"{_NVIDIA}/latest/inference-library/work-with-dla.html",
    ),
    *(
        Rule(
            ("tensorrt dla", version, "int8"),
            "not known",
            "before TensorRT 11 a DLA takes int8 from calibration, not from Q/DQ: layers may fall back to the GPU",
            _QDQ_TRANSLATOR,
        )
        for version in ("tensorrt 8.6", "tensorrt 10.3")
    ),
    Rule(
        ("tensorrt dla", "jetson-jp7"),
        "noted",
        "Orin alone has DLAs; Thor has none",
        f"{_NVIDIA}/11.4.1/inference-library/work-with-dla.html",
    ),
)


def find(name: str) -> Target:
    """The target of that name; raises BadInput with the nearest."""
    if name not in TARGETS:
        raise BadInput(f"no target '{name}'{nearest(name, TARGETS)}; all: {', '.join(TARGETS)}")
    return TARGETS[name]
