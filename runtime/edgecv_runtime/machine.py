"""What this machine is, as far as it decides speed and accuracy."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path

from edgecv_runtime import cores, processor
from edgecv_runtime.records import Record

# Instruction sets that decide which kernels run, as /proc/cpuinfo names them.
_ISA = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip
# Limits of oneDNN without bf16 (its guide, "CPU dispatcher control"); it ignores names that it does not know.
_BELOW_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
_ABOVE = (
    "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16",
    "AVX10_1_512", "AVX10_1_512_AMX", "AVX10_1_512_AMX_FP16", "AVX10_2_512", "AVX10_2_512_AMX_2",
)  # fmt: skip


class Machine(Record, frozen=True):
    """Where something was measured.

    isa: instruction sets of the processor; isa_limit: the largest that oneDNN may use, as ONEDNN_MAX_CPU_ISA names it.
    server: where another program computes, of whose machine nothing is known.
    driver: version of the GPU's; power: the mode of the board, the firmware or the clock's governor. Both may change
    without this becoming another machine, and are "" where the system does not tell, or evidence is older.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    os: str
    python: str
    gpu: str = ""
    isa_limit: str = ""
    server: str = ""
    driver: str = ""
    power: str = ""

    @property
    def key(self) -> str:
        """Short name that tells machines apart; one whose instruction sets are limited is another machine."""
        if self.server:
            return self.server
        limit = f"at most {self.isa_limit}" if self.isa_limit else ""
        return ", ".join(filter(None, (self.cpu, f"{self.cores} cores", self.gpu, limit)))


@functools.cache
def this() -> Machine:
    """This machine: CPU, cores this process may use, instruction sets and their limit, operating system, Python, GPU.

    Read once a process, as oneDNN does with ONEDNN_MAX_CPU_ISA.
    """
    return read(Path("/"))


def read(root: Path) -> Machine:
    """The same; root: of the file system in which /proc and /sys are, for tests.

    cpu: "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)" where there is a device tree.
    """
    facts = next(iter(processor.blocks(root)), {})
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    board, kinds = processor.board(root), processor.cores(root)
    name = facts.get("model name") or kinds or facts.get("Hardware") or platform.processor() or platform.machine()
    return Machine(
        cpu=f"{board} ({name})" if board else name,
        cores=cores.usable(),
        isa=tuple(flag for flag in _ISA if flag in flags),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        gpu=_gpu(),
        isa_limit=_isa_limit(),
        driver=driver(),
        power=power(),
    )


def bf16_allowed() -> bool:
    """Whether the limit on instruction sets, if there is one, leaves those for bf16."""
    return this().isa_limit not in _BELOW_BF16


def _isa_limit() -> str:
    """What ONEDNN_MAX_CPU_ISA, or DNNL_MAX_CPU_ISA as it was called, limits oneDNN to; "" when to nothing."""
    asked = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    return asked if asked in (*_BELOW_BF16, *_ABOVE) else ""


def _gpu() -> str:
    """Name of the first NVIDIA GPU as its kernel driver tells it, or ""."""
    for facts in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in facts.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""


def rss_mb(process: int | str = "self") -> float:
    """Resident memory of a process now, in MB (10^6 bytes); 0 where /proc does not tell. process: its number."""
    return _status_mb("VmRSS", process) or 0.0


def driver(root: Path = Path("/")) -> str:
    """Version of NVIDIA's kernel driver, or of Jetson Linux, or "".

    root: of the file system, for tests.
    """
    for name, sign in (
        ("proc/driver/nvidia/version", r"Kernel Module.*?\s(\d+\.[\d.]+)"),
        ("etc/nv_tegra_release", r"# (R\d+.*?REVISION: [\d.]+)"),
    ):
        found = re.search(sign, _text(root / name))
        if found:
            return found[1]
    return ""


def power(root: Path = Path("/")) -> str:
    """How fast the machine may be: a Jetson's power mode, the firmware's profile, the clock's governor; or "".

    root: of the file system, for tests.
    """
    return ", ".join(f"{name} {value}" for name, value in power_settings(root).items())


def power_settings(root: Path = Path("/")) -> dict[str, str]:
    """The same by what sets it, "mode", "profile" and "governor", of those that the machine has."""
    governors = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    said = {
        "mode": _text(root / "var/lib/nvpmodel/status").strip().removeprefix("pmode:"),
        "profile": _text(root / "sys/firmware/acpi/platform_profile").strip(),
        "governor": "/".join(sorted({_text(path).strip() for path in governors} - {""})),
    }
    return {name: value for name, value in said.items() if value}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def peak_rss_mb(process: int | str = "self") -> float:
    """Largest resident memory of a process so far, in MB (10^6 bytes); process: its number.

    On Linux from /proc: getrusage(2) also counts what the parent had when it forked. Elsewhere of this process only.
    """
    found = _status_mb("VmHWM", process)
    if found is not None or process != "self":
        return found or 0.0
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _status_mb(name: str, process: int | str) -> float | None:
    """A line of proc_pid_status(5), which is in kB; None where there is none."""
    for line in _text(Path(f"/proc/{process}/status")).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
