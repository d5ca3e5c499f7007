"""ARM64 boards without a board: Debian's ARM64 files and aarch64 wheels, run by QEMU's emulation of one program.

QEMU decides what the processor can; /proc/cpuinfo and /sys must say the same, for they are where the libraries look:
OpenVINO crashes without /sys, ONNX Runtime with this machine's, and both with another core's number. Needs root and
what `tests/install-debian.sh arm64` installs. What is fetched is kept in `folder`: 80 MB of Debian, 650 MB of wheels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgecv.deploy import wheels

CLONE = Path(__file__).resolve().parents[2]
PYTHON, GLIBC = "3.11", "2.36"  # of Debian 12, and so of Raspberry Pi OS
QEMU = Path("/usr/bin/qemu-aarch64-static")
PROCESSORS = 2


@dataclass(frozen=True)
class Board:
    """cpu: as QEMU names it. midr: its Main ID Register. features: as Linux lists them. model: in the device tree."""

    name: str
    model: str
    cpu: str
    midr: int
    features: str


PI4 = Board("pi4", "Raspberry Pi 4 Model B Rev 1.5", "cortex-a72", 0x410FD083, "fp asimd evtstrm crc32 cpuid")
PI5 = Board(
    "pi5",
    "Raspberry Pi 5 Model B Rev 1.0",
    "cortex-a76",
    0x414FD0B1,
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
)
# Everything that is mounted goes with the namespace. The extracted root has no shell, and needs none.
ENTER = """set -e
root=$1 sys=$2 proc=$3 wheels=$4 share=$5; shift 5
mount -t proc proc $root/proc
mount --bind $proc/cpuinfo $root/proc/cpuinfo
mount --bind /dev $root/dev
mount --bind $sys $root/sys
mount --bind $wheels $root/opt
mount --bind $share $root/data
mount -t tmpfs tmpfs $root/tmp
exec /usr/sbin/chroot $root "$@"
"""


@dataclass(frozen=True)
class Machine:
    """A root folder in which boards run, what they see as /opt, and as /data; where Python looks for packages there."""

    root: Path
    wheels: Path
    share: Path
    path: str = "/data/.own:/opt"

    def run(self, board: Board, *words: str | Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run Python there with these words, "-m", "edgecv.cli" say."""
        place = self.share / f".{board.name}"
        _write_sys(board, place / "sys")
        _write_proc(board, place / "proc")
        inside = [f"/usr/bin/{QEMU.name}", "-cpu", board.cpu, "/usr/bin/python3", *map(str, words)]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", ENTER, "enter"]
            + [str(each) for each in (self.root, place / "sys", place / "proc", self.wheels, self.share, *inside)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "PYTHONPATH": self.path,
                 "EDGECV_CACHE": f"/data/.{board.name}/cache"},
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip


def prepare(folder: Path, share: Path) -> Machine:
    """Debian's files and the wheels that a board needs, fetched once, and the wheel of this very clone."""
    root, packages = folder / "root", folder / f"wheels-{_digest()}"
    if not (root / "usr/bin" / QEMU.name).exists():
        shutil.rmtree(root, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        _run("mmdebstrap", "--quiet", "--architectures=arm64", "--variant=extract",
             "--include=python3-minimal,python3,libstdc++6,libgomp1", "bookworm", root)  # fmt: skip
        for name in ("proc", "sys", "data", "opt"):
            (root / name).mkdir(exist_ok=True)
        shutil.copy(QEMU, root / "usr/bin")  # last: it says that the rest is whole
    wheel = wheels.own(share)
    _install([wheel], share / ".own")
    if not packages.exists():
        fetched = folder / "fetched"
        for old in (*folder.glob("wheels-*"), fetched):
            shutil.rmtree(old, ignore_errors=True)
        fetched.mkdir()
        os.environ["PIP_CONSTRAINT"] = str(CLONE / "constraints.txt")
        wheels.bring(wheel, "cpu,openvino", (), "aarch64", PYTHON, GLIBC, fetched)
        _install([path for path in fetched.glob("*.whl") if not path.name.startswith("edgecv-")], folder / "unpacked")
        shutil.rmtree(fetched)
        (folder / "unpacked").rename(packages)
    return Machine(root, packages, share)


def _digest() -> str:
    """Of what decides which wheels are fetched."""
    found = [(CLONE / name).read_bytes() for name in ("constraints.txt", "pyproject.toml")]
    return hashlib.sha256(b"\n".join(found)).hexdigest()[:16]


def _install(found: list[Path], place: Path) -> None:
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(36, 16, -1)] + ["manylinux2014_aarch64"]
    shutil.rmtree(place, ignore_errors=True)
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
         "--target", place, "--python-version", PYTHON, "--implementation", "cp",
         *(word for name in platforms for word in ("--platform", name)), *found)  # fmt: skip


def _write_sys(board: Board, place: Path) -> None:
    """What /sys holds of the processors and of the board."""
    places = {f"cpu{number}/regs/identification/midr_el1": f"{board.midr:#018x}\n" for number in range(PROCESSORS)}
    places |= dict.fromkeys(("online", "possible", "present"), f"0-{PROCESSORS - 1}\n")
    every = f"{2**PROCESSORS - 1:x}\n"
    for number in range(PROCESSORS):
        own = {"core_id": f"{number}\n", "physical_package_id": "0\n"}
        own |= dict.fromkeys(("core_cpus", "thread_siblings"), f"{2**number:x}\n")
        own |= dict.fromkeys(("core_cpus_list", "thread_siblings_list"), f"{number}\n")
        own |= dict.fromkeys(("package_cpus", "core_siblings"), every)
        own |= dict.fromkeys(("package_cpus_list", "core_siblings_list"), f"0-{PROCESSORS - 1}\n")
        places |= {f"cpu{number}/topology/{name}": content for name, content in own.items()}
    places |= {f"../node/{name}": "0\n" for name in ("online", "possible")}
    places |= {"../node/node0/cpumap": every, "../node/node0/cpulist": f"0-{PROCESSORS - 1}\n"}
    for name, content in places.items():
        path = place / "devices/system/cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    tree = place / "firmware/devicetree/base"
    tree.mkdir(parents=True, exist_ok=True)
    (tree / "model").write_bytes(board.model.encode() + b"\0")


def _write_proc(board: Board, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    lines = [f"BogoMIPS\t: 108.00\nFeatures\t: {board.features}\nCPU implementer\t: {board.midr >> 24:#04x}",
             f"CPU architecture: 8\nCPU variant\t: {board.midr >> 20 & 0xF:#x}",
             f"CPU part\t: {board.midr >> 4 & 0xFFF:#05x}\nCPU revision\t: {board.midr & 0xF}\n"]  # fmt: skip
    blocks = ("\n".join([f"processor\t: {number}", *lines]) for number in range(PROCESSORS))
    (place / "cpuinfo").write_text("\n".join(blocks) + "\n")


def _run(*command: str | Path) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"board.py: {' '.join(words[:4])} ...: {done.stderr[-2000:]}\nrun tests/install-debian.sh arm64")
