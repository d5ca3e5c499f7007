"""What a processor and its board are called: Linux tells ARM's cores by number, and the board in its device tree."""

from __future__ import annotations

from pathlib import Path

# By implementer and part number of the Main ID Register (MIDR_EL1), as arch/arm64/include/asm/cputype.h of Linux and
# lscpu of util-linux have them; what runs a 64-bit Linux.
_CORES = {
    0x41: {
        0xD02: "Cortex-A34", 0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD06: "Cortex-A65",
        0xD07: "Cortex-A57", 0xD08: "Cortex-A72", 0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76",
        0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77", 0xD0E: "Cortex-A76AE", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78",
        0xD42: "Cortex-A78AE", 0xD43: "Cortex-A65AE", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710",
        0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4A: "Neoverse-E1", 0xD4B: "Cortex-A78C", 0xD4C: "Cortex-X1C",
        0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720",
        0xD82: "Cortex-X4", 0xD83: "Neoverse-V3AE", 0xD84: "Neoverse-V3", 0xD85: "Cortex-X925", 0xD87: "Cortex-A725",
        0xD8E: "Neoverse-N3",
    },
    0x4E: {0x003: "Denver 2", 0x004: "Carmel"},
}  # fmt: skip


def blocks(root: Path) -> list[dict[str, str]]:
    """What /proc/cpuinfo says, a dictionary for each processor; [] where it cannot be read."""
    try:
        content = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return []
    return [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in part.splitlines())}
        for part in content.split("\n\n")
        if part.strip()
    ]


def cores(root: Path) -> str:
    """The kinds of ARM cores, "Cortex-A55 and Cortex-A76" say; "" where Linux tells no numbers, as on x86."""
    numbers = [
        (int(block["CPU implementer"], 16), int(block["CPU part"], 16))
        for block in blocks(root)
        if _is_number(block.get("CPU implementer", "")) and _is_number(block.get("CPU part", ""))
    ]
    return " and ".join(dict.fromkeys(_name(*each) for each in numbers or _registers(root)))


def board(root: Path) -> str:
    """What the device tree calls the board, "Raspberry Pi 5 Model B Rev 1.0" say; "" where there is none, as on x86."""
    for place in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        try:
            return (root / place).read_bytes().rstrip(b"\0").decode(errors="replace").strip()
        except OSError:
            continue
    return ""


def _registers(root: Path) -> list[tuple[int, int]]:
    """Implementer and part of each processor by its MIDR_EL1 in sysfs: where /proc/cpuinfo is another machine's."""
    found = []
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/regs/identification/midr_el1")):
        try:
            value = int(path.read_text(), 16)
        except (OSError, ValueError):
            continue
        found.append((value >> 24 & 0xFF, value >> 4 & 0xFFF))
    return found


def _name(implementer: int, part: int) -> str:
    return _CORES.get(implementer, {}).get(part) or f"ARM core {implementer:#04x}:{part:#05x}"


def _is_number(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return True
