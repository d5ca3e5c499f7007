"""Energy readers on the sysfs trees of four boards, as their kernels lay them out; and on none."""

import ctypes
import os

import pytest

from edgecv_runtime.scenario import energy, watch


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


RAPL = "sys/class/powercap"
X86 = {
    f"{RAPL}/intel-rapl:0/name": "package-0",
    f"{RAPL}/intel-rapl:0/energy_uj": 5_000_000,
    f"{RAPL}/intel-rapl:0/max_energy_range_uj": 262_143_328_850,
    f"{RAPL}/intel-rapl:0:0/name": "core",  # a part of the package: not to be counted twice
    f"{RAPL}/intel-rapl:0:0/energy_uj": 3_000_000,
    f"{RAPL}/intel-rapl:0:1/name": "dram",
    f"{RAPL}/intel-rapl:0:1/energy_uj": 700_000,
    f"{RAPL}/intel-rapl:0:1/max_energy_range_uj": 65_712_999_613,
    f"{RAPL}/intel-rapl:1/name": "psys",  # the whole board, the package in it
    f"{RAPL}/intel-rapl:1/energy_uj": 9_000_000,
}
HWMON = "sys/class/hwmon"
ORIN_NANO = {
    f"{HWMON}/hwmon1/name": "ina3221",
    **{f"{HWMON}/hwmon1/in{n}_label": rail for n, rail in ((1, "VDD_IN"), (2, "VDD_CPU_GPU_CV"), (3, "VDD_SOC"))},
    **{f"{HWMON}/hwmon1/in{n}_input": 5000 for n in (1, 2, 3)},
    **{f"{HWMON}/hwmon1/curr{n}_input": ma for n, ma in ((1, 1200), (2, 400), (3, 300))},
    f"{HWMON}/hwmon0/name": "tmp451",
}
NANO = {
    **{
        f"sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_{n}": rail
        for n, rail in enumerate(("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"))
    },
    **{
        f"sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power{n}_input": mw
        for n, mw in enumerate((2500, 300, 900))
    },
}
# NVIDIA's forum, topic 366461: the INA238 measures all that comes in; what the INA3221 measures is part of it.
THOR = {
    f"{HWMON}/hwmon3/name": "ina238",
    f"{HWMON}/hwmon3/label": "VIN",
    f"{HWMON}/hwmon3/power1_input": 21_000_000,
    f"{HWMON}/hwmon3/in1_input": 12_000,
    f"{HWMON}/hwmon4/name": "ina3221",
    **{
        f"{HWMON}/hwmon4/in{n}_label": rail
        for n, rail in ((1, "VDD_GPU"), (2, "VDD_CPU_SOC_MSS"), (3, "VIN_SYS_5V0"), (7, "sum of shunt voltages"))
    },
    **{f"{HWMON}/hwmon4/in{n}_input": 8000 for n in (1, 2, 3)},
    **{f"{HWMON}/hwmon4/curr{n}_input": 500 for n in (1, 2, 3)},
}
UNNAMED_THOR = {name: text for name, text in THOR.items() if name != f"{HWMON}/hwmon3/label"}
# Without one that feeds the others: rails beside each other.
AGX_ORIN = {
    f"{HWMON}/hwmon1/name": "ina3221",
    **{f"{HWMON}/hwmon1/in{n}_label": rail for n, rail in ((1, "VDD_GPU_SOC"), (2, "VDD_CPU_CV"), (3, "VIN_SYS_5V0"))},
    **{f"{HWMON}/hwmon1/in{n}_input": 20_000 for n in (1, 2, 3)},
    **{f"{HWMON}/hwmon1/curr{n}_input": ma for n, ma in ((1, 200), (2, 100), (3, 50))},
}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (X86, {"RAPL package-0": 5.0, "RAPL dram": 0.7}),
        (ORIN_NANO, {"INA3221 VDD_IN": 6.0}),  # the rail that feeds the others: 5 V, 1.2 A
        (NANO, {"INA3221 POM_5V_IN": 2.5}),
        (THOR, {"INA238 VIN": 21.0}),
        (UNNAMED_THOR, {"INA238 hwmon3": 21.0}),
        (AGX_ORIN, {"INA3221 VDD_GPU_SOC": 4.0, "INA3221 VDD_CPU_CV": 2.0, "INA3221 VIN_SYS_5V0": 1.0}),
    ],
    ids=["x86", "orin-nano", "nano", "thor", "thor-without-a-label", "agx-orin"],
)
def test_each_board_is_read_in_its_own_units_and_nothing_twice(tmp_path, files, found):
    meters, why = energy.meters(tree(tmp_path, files))
    assert why == ""
    assert {meter.name: meter.read() for meter in meters} == pytest.approx(found)
    assert all(meter.counts == meter.name.startswith("RAPL") for meter in meters)


def test_without_any_the_reason_is_given(tmp_path):
    assert energy.meters(tmp_path) == (
        [],
        "no RAPL (powercap), INA3221 or INA238 here: this machine tells nobody what it takes",
    )


def test_rapl_without_permission_says_how_to_get_it(tmp_path):
    """Since CVE-2020-8694 its counters are root's alone, and tests may run as root: another user reads."""
    root = tree(tmp_path, X86)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (root / RAPL / "intel-rapl:0/energy_uj").chmod(0o400)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setuid(65534)
        else:
            (root / RAPL / "intel-rapl:0/energy_uj").chmod(0)
        os.write(writing, energy.meters(root)[1].encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    assert "no permission to read" in said
    assert "sudo chmod a+r" in said


def test_a_counter_is_read_between_two_moments_and_may_wrap():
    meter = energy.Meter("RAPL", True, lambda: 0.0, wraps_j=100.0)
    samples = [(0.0, [90.0]), (1.0, [95.0]), (2.0, [5.0]), (3.0, [15.0])]
    # 5 J, then 10 J over the wrap, then 10 J; from half into the first second to half into the last
    assert energy.spent([meter], samples, 0.5, 2.5) == pytest.approx(2.5 + 10 + 5)


@pytest.mark.parametrize("wraps_j", [0.0, 50.0])
def test_a_counter_that_was_set_back_gives_no_figure(wraps_j):
    """As of a driver that was loaded anew: NVML's counts from there, and a negative energy would be a figure."""
    meter = energy.Meter("NVML GPU 0", True, lambda: 0.0, wraps_j)
    with pytest.raises(ValueError, match="NVML GPU 0 went back from 90 to 5 J"):
        energy.spent([meter], [(0.0, [80.0]), (1.0, [90.0]), (2.0, [5.0])], 0.5, 1.5)


def test_power_is_integrated():
    import numpy as np

    meter = energy.Meter("INA", False, lambda: 0.0)
    at = np.linspace(0, 10, 101)
    samples = [(float(t), [float(5 + np.sin(t))]) for t in at]
    exact = 5 * 7 + np.cos(2) - np.cos(9)  # the integral of 5 + sin from 2 to 9
    assert energy.spent([meter], samples, 2.0, 9.0) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("moments", [(-1.0, 2.0), (1.0, 4.0), (2.0, 2.0)])
def test_what_was_not_watched_has_no_energy(moments):
    with pytest.raises(ValueError, match="do not reach around"):
        energy.spent([energy.Meter("x", True, lambda: 0.0)], [(0.0, [0.0]), (3.0, [1.0])], *moments)


class Nvml:
    """NVML's functions for one GPU, by their documented signatures; `failing` gives its error."""

    def __init__(self, failing=""):
        self.failing = failing

    def _answer(self, name):
        return 3 if name == self.failing else 0  # NVML_ERROR_NOT_SUPPORTED

    def nvmlInit_v2(self):  # noqa: N802
        return self._answer("init")

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        assert index == 0
        return self._answer("handle")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, millijoules):  # noqa: N802
        ctypes.cast(millijoules, ctypes.POINTER(ctypes.c_ulonglong))[0] = 123_456
        return self._answer("energy")


def test_nvml_counts_millijoules():
    (meter,), why = energy.nvml_meters(Nvml())
    assert (meter.read(), meter.counts, why) == (123.456, True, "")


@pytest.mark.parametrize(
    ("failing", "said"), [("init", "finds no GPU: error 3"), ("handle", "finds no GPU"), ("energy", "does not count")]
)
def test_nvml_that_fails_says_so(failing, said):
    meters, why = energy.nvml_meters(Nvml(failing))
    assert not meters
    assert said in why


def test_the_watcher_measures_what_a_counter_counts(tmp_path):
    """A package that counts 2 J whenever it is looked at, as far as the watcher can tell."""
    import time

    root = tree(tmp_path, X86)
    with watch.Watcher(root=root) as watcher:
        time.sleep(0.25)
        begin = time.time()
        (root / RAPL / "intel-rapl:0/energy_uj").write_text("9000000")
        time.sleep(0.3)
        end = time.time() - 0.15
        time.sleep(0.1)
    found = watcher.energy(begin - 0.2, end, 8)
    assert found.joules == pytest.approx(4.0)
    assert found.per_frame_mj == pytest.approx(500.0)
    assert found.source == "RAPL package-0, RAPL dram"
    assert watcher.energy(begin - 99, end, 8).unavailable.endswith("do not reach around what is measured")


def test_a_meter_that_fails_meanwhile_gives_no_figure(tmp_path):
    import time

    root = tree(tmp_path, X86)
    with watch.Watcher(root=root) as watcher:
        begin = time.time()
        (root / RAPL / "intel-rapl:0/energy_uj").unlink()
        time.sleep(0.3)
    found = watcher.energy(begin, time.time(), 1)
    assert found.joules is None
    assert "failed meanwhile" in found.unavailable
