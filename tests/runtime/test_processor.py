"""What a processor and its board are called, read from trees as Linux shows them; `lscpu` is asked for the same."""

import subprocess

import pytest

from edgecv_runtime import machine, processor

FEATURES = "fp asimd evtstrm crc32 cpuid"


def arm(root, *cores, model=b"", features=FEATURES):
    """A tree of an ARM64 machine; cores: implementer and part of each processor."""
    blocks = [
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: {implementer:#04x}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#05x}\nCPU revision\t: 3\n"
        for number, (implementer, part) in enumerate(cores)
    ]
    (root / "proc").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text("\n".join(blocks))
    if model:
        (root / "proc/device-tree").mkdir()
        (root / "proc/device-tree/model").write_bytes(model + b"\0")
    return root


NUMBERS = [(implementer, part) for implementer, parts in processor._CORES.items() for part in parts]


@pytest.mark.parametrize("core", NUMBERS, ids=lambda core: f"{core[0]:#x}:{core[1]:#x}")
def test_cores_have_the_names_that_lscpu_gives_them(core, tmp_path):
    root = arm(tmp_path, core)
    (root / "sys/devices/system/cpu").mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (root / "sys/devices/system/cpu" / name).write_text("0\n")
    said = subprocess.run(["lscpu", "--sysroot", root], capture_output=True, text=True, check=True).stdout
    (name,) = [line.partition(":")[2].strip() for line in said.splitlines() if line.startswith("Model name")]
    if name == "-":
        assert processor.cores(root) in ("Neoverse-V3AE", "Cortex-X925", "Cortex-A725")  # unknown to lscpu 2.38
    else:
        assert processor.cores(root) == name


@pytest.mark.parametrize(
    ("model", "cores", "named"),
    [
        (b"Raspberry Pi 4 Model B Rev 1.5", [(0x41, 0xD08)] * 4, "Raspberry Pi 4 Model B Rev 1.5 (Cortex-A72)"),
        (b"Raspberry Pi 5 Model B Rev 1.0", [(0x41, 0xD0B)] * 4, "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)"),
        (
            b"NVIDIA Jetson Orin Nano Developer Kit",
            [(0x41, 0xD42)] * 6,
            "NVIDIA Jetson Orin Nano Developer Kit (Cortex-A78AE)",
        ),
        (b"NVIDIA Jetson Xavier NX", [(0x4E, 0x004)] * 6, "NVIDIA Jetson Xavier NX (Carmel)"),
        (
            b"Radxa ROCK 5B",
            [(0x41, 0xD05)] * 4 + [(0x41, 0xD0B)] * 4,
            "Radxa ROCK 5B (Cortex-A55 and Cortex-A76)",
        ),
        (b"", [(0x41, 0xD0C)], "Neoverse-N1"),
        (b"", [(0x61, 0x022)], "ARM core 0x61:0x022"),
    ],
)
def test_a_machine_is_called_by_its_board_and_its_cores(model, cores, named, tmp_path):
    found = machine.read(arm(tmp_path, *cores, model=model, features=f"{FEATURES} asimddp"))
    assert found.cpu == named
    assert found.isa == ("asimd", "asimddp")


def test_a_container_that_hides_proc_device_tree_may_show_it_in_sys(tmp_path):
    root = arm(tmp_path, (0x41, 0xD0B))
    (root / "sys/firmware/devicetree/base").mkdir(parents=True)
    (root / "sys/firmware/devicetree/base/model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert machine.read(root).cpu == "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)"


def test_registers_tell_the_core_where_cpuinfo_does_not(tmp_path):
    root = arm(tmp_path)
    for number in range(2):
        place = root / f"sys/devices/system/cpu/cpu{number}/regs/identification"
        place.mkdir(parents=True)
        (place / "midr_el1").write_text("0x00000000410fd083\n")
    assert processor.cores(root) == "Cortex-A72"


def test_an_x86_machine_keeps_the_name_that_its_processor_gives_itself(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Intel(R) N100\nflags\t\t: fpu avx2 avx_vnni\n\n"
    )
    found = machine.read(tmp_path)
    assert (found.cpu, found.isa) == ("Intel(R) N100", ("avx2", "avx_vnni"))


def test_a_machine_without_proc_has_a_name_all_the_same(tmp_path):
    assert machine.read(tmp_path).cpu
    assert machine.read(tmp_path).isa == ()
