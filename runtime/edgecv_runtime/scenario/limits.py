"""A computer that stands for a smaller one: fewer cores, and older instruction sets where a backend can be limited.

oneDNN, and OpenVINO by it, reads ONEDNN_MAX_CPU_ISA once a process. ONNX Runtime's kernels (MLAS) ask the processor
alone and have no switch, so there it is refused: what ran unlimited would be shown as limited.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgecv_runtime import machine
from edgecv_runtime.errors import BadInput, nearest

NATIVE = "native"
# What is asked for -> oneDNN's name of it, and the flag of /proc/cpuinfo without which it would silently be less.
ISAS = {
    "avx2": ("AVX2", "avx2"),
    "avx2_vnni": ("AVX2_VNNI", "avx_vnni"),
    "avx512_vnni": ("AVX512_CORE_VNNI", "avx512_vnni"),
}
CAN_BE_LIMITED = ("openvino",)
_SWITCH = "ONEDNN_MAX_CPU_ISA"


@contextmanager
def limited(isa: str = NATIVE, cpus: int = 0) -> Iterator[None]:
    """Limit this process, and those that it starts, to instruction sets and cores; 0 cpus are all there are.

    Raises BadInput for a limit that this machine cannot stand for, and where OpenVINO is loaded already.
    """
    asked = _checked_isa(isa)
    before_cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if cpus and (not before_cpus or not 1 <= cpus <= len(before_cpus)):
        raise BadInput(
            f"--cpus is from 1 to the {len(before_cpus) or machine.this().cores} of this machine: got {cpus}"
        )
    before = os.environ.get(_SWITCH)
    try:
        if asked:
            os.environ[_SWITCH] = asked
        if cpus:
            os.sched_setaffinity(0, before_cpus[:cpus])
        machine.this.cache_clear()
        yield
    finally:
        if asked:
            os.environ.pop(_SWITCH)
            if before is not None:
                os.environ[_SWITCH] = before
        if cpus:
            os.sched_setaffinity(0, before_cpus)
        machine.this.cache_clear()


def check_backend(name: str, isa: str) -> None:
    """Raise BadInput where a backend cannot be limited to instruction sets."""
    if isa != NATIVE and name not in CAN_BE_LIMITED:
        raise BadInput(
            f"--isa {isa}: {name} cannot be limited to instruction sets, its kernels ask the processor alone; "
            f"only {', '.join(CAN_BE_LIMITED)} can: --backend openvino"
        )


def _checked_isa(isa: str) -> str:
    if isa == NATIVE:
        return ""
    if isa not in ISAS:
        raise BadInput(f"no instruction set '{isa}'{nearest(isa, [*ISAS, NATIVE])}")
    name, flag = ISAS[isa]
    if flag not in machine.this().isa:
        raise BadInput(f"--isa {isa}: this processor has no {flag}; it has {', '.join(machine.this().isa) or 'none'}")
    if "openvino" in sys.modules and machine.this().isa_limit != name:
        raise BadInput(f"--isa {isa}: OpenVINO is loaded already, and reads its limit once: ask in a new process")
    return name
