"""Energy from what the machine itself counts: RAPL, INA3221 and INA238 from sysfs, NVIDIA's NVML.

Read by who watches, not by what is measured. A counter gives joules, a sensor watts, which are integrated.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgecv_runtime.records import Record

# Rails that feed all others of their board, as its device tree labels them.
_WHOLE = ("VDD_IN", "POM_5V_IN", "VDD_5V_IN", "SYS_VIN", "VIN_SYS", "VIN")


@dataclass(frozen=True)
class Meter:
    """Something that counts energy or shows power; `read` gives J or W, and raises OSError where it fails.

    wraps_j: where a counter begins anew; 0 where it does not.
    """

    name: str
    counts: bool
    read: Callable[[], float]
    wraps_j: float = 0.0


class Energy(Record, frozen=True):
    """Energy of one act, of all its meters together; or why there is none.

    joules: between begin and end; mean_w: over them; per_frame_mj: millijoules. What other programs and an idle
    machine take is in it.
    """

    source: str = ""
    joules: float | None = None
    mean_w: float | None = None
    per_frame_mj: float | None = None
    unavailable: str = ""


def meters(root: Path = Path("/"), gpu: bool = False) -> tuple[list[Meter], str]:
    """What can be read here, the largest scope first found: a board's sensors, else the processor's counters.

    gpu: NVML's in their place. -> the meters, or why there are none. root: of the file system, for tests.
    """
    if gpu:
        return _nvml()
    for find in (_ina3221_iio, _hwmon, _rapl):
        found, why = find(root)
        if found or why:
            return found, why
    return [], "no RAPL (powercap), INA3221 or INA238 here: this machine tells nobody what it takes"


def spent(meters: Sequence[Meter], samples: Sequence[tuple[float, Sequence[float]]], begin: float, end: float) -> float:
    """Joules between two moments, of samples (moment, reading of each meter) around them.

    Between samples counters and power are taken as straight lines. Raises ValueError where samples do not reach, or a
    counter went back by which nobody can say what it missed.
    """
    if len(samples) < 2 or samples[0][0] > begin or samples[-1][0] < end or end <= begin:
        raise ValueError("the samples do not reach around what is measured")
    moments = [moment for moment, _ in samples]
    total = 0.0
    for number, meter in enumerate(meters):
        sums = [0.0]
        for (then, before), (now, after) in pairwise(samples):
            if meter.counts:
                sums.append(sums[-1] + _step(meter, before[number], after[number]))
            else:
                sums.append(sums[-1] + (now - then) * (before[number] + after[number]) / 2)
        total += _at(end, moments, sums) - _at(begin, moments, sums)
    return total


def _step(meter: Meter, before: float, after: float) -> float:
    if after >= before:
        return after - before
    if meter.wraps_j < before:
        raise ValueError(f"{meter.name} went back from {before:g} to {after:g} J, and it is not known what it missed")
    return after - before + meter.wraps_j


def _at(moment: float, moments: Sequence[float], values: Sequence[float]) -> float:
    for index in range(1, len(moments)):
        if moment <= moments[index]:
            share = (moment - moments[index - 1]) / (moments[index] - moments[index - 1])
            return values[index - 1] + share * (values[index] - values[index - 1])
    return values[-1]


def _rapl(root: Path) -> tuple[list[Meter], str]:
    """Packages and, beside them, memory (Documentation/power/powercap); cores and graphics are parts of a package."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = _text(zone / "name")
        if not name.startswith("package") and name != "dram":
            continue
        counter = zone / "energy_uj"
        try:
            _number(counter)
        except PermissionError:
            return [], f"no permission to read {counter} (RAPL): as root, or after 'sudo chmod a+r {counter}'"
        except (OSError, ValueError) as exc:
            return [], f"{counter} (RAPL) cannot be read: {exc}"
        wraps = float(_text(zone / "max_energy_range_uj") or 0) / 1e6
        found.append(Meter(f"RAPL {name}", True, _scaled(counter, 1e-6), wraps))
    return found, ""


def _hwmon(root: Path) -> tuple[list[Meter], str]:
    """INA3221 (in mV and mA by channel) and INA238 (in uW) as the kernel's hwmon drivers show them.

    An INA238 beside an INA3221 measures what comes into the board, as of Jetson Thor, and the INA3221 parts of it.
    """
    inputs: dict[str, Meter] = {}
    rails: dict[str, Meter] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        kind = _text(folder / "name")
        if kind == "ina238":
            label = _text(folder / "power1_label") or _text(folder / "label") or folder.name
            inputs[label] = Meter(f"INA238 {label}", False, _scaled(folder / "power1_input", 1e-6))
        elif kind == "ina3221":
            for place in sorted(folder.glob("in[123]_label")):
                channel, label = place.name[2], _text(place)
                volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
                if label not in ("", "NC") and volts.is_file() and amperes.is_file():
                    rails[label] = Meter(f"INA3221 {label}", False, _product(volts, amperes))
    return _outermost(inputs or rails)


def _ina3221_iio(root: Path) -> tuple[list[Meter], str]:
    """INA3221 as NVIDIA's kernels of JetPack 4 show it (in mW)."""
    rails: dict[str, Meter] = {}
    for place in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name_*")):
        label, channel = _text(place), place.name.removeprefix("rail_name_")
        power = place.parent / f"in_power{channel}_input"
        if label and power.is_file():
            rails[label] = Meter(f"INA3221 {label}", False, _scaled(power, 1e-3))
    return _outermost(rails)


def _outermost(rails: dict[str, Meter]) -> tuple[list[Meter], str]:
    """The rail that feeds all others, where there is one; else all, which lie beside each other."""
    whole = [meter for label, meter in rails.items() if label.upper() in _WHOLE]
    chosen = whole[:1] or list(rails.values())
    for meter in chosen:
        try:
            meter.read()
        except (OSError, ValueError) as exc:
            return [], f"{meter.name} cannot be read: {exc}"
    return chosen, ""


def _nvml() -> tuple[list[Meter], str]:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return [], "no NVML (libnvidia-ml.so.1) here: the driver of NVIDIA brings it"
    return nvml_meters(library)


def nvml_meters(library: Any) -> tuple[list[Meter], str]:
    """The first GPU's counter of energy in mJ, which GPUs from Volta on have."""
    handle = ctypes.c_void_p()
    answer = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
    if answer:
        return [], f"NVML finds no GPU: error {answer}"

    def read() -> float:
        millijoules = ctypes.c_ulonglong()
        failed = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        if failed:
            raise OSError(f"NVML error {failed}")
        return millijoules.value / 1e3

    try:
        read()
    except OSError as exc:
        return [], f"this GPU does not count its energy: {exc}"
    return [Meter("NVML GPU 0", True, read)], ""


def _scaled(path: Path, unit: float) -> Callable[[], float]:
    return lambda: _number(path) * unit


def _product(volts: Path, amperes: Path) -> Callable[[], float]:
    return lambda: _number(volts) * _number(amperes) * 1e-6  # mV and mA


def _number(path: Path) -> float:
    return float(path.read_text())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
