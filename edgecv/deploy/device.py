"""What a device says it is, and what follows: whether edgecv can live there, with which extras, and why."""

from __future__ import annotations

import shlex
from importlib.resources import files

import msgspec

from edgecv.deploy.ssh import Host
from edgecv.deploy.targets import LEAST_GLIBC, LEAST_PYTHON
from edgecv_runtime.errors import ComputationError, Unavailable
from edgecv_runtime.records import Record

ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
DAY_S = 86400
FOLDER = ".local/share/edgecv"  # below the home folder
# MB of an environment with `cpu`, and what OpenVINO adds (benchmarks/footprint/results.md), with the wheels while they
# are installed: 660 MB in the end, measured 2026-11.
ENVIRONMENT_MB, OPENVINO_MB = 550, 300
_MANY = ("environment", "bundle", "unit")


class Facts(Record, frozen=True):
    """A device. model: of its board; clock: seconds since 1970. folder: of deployments there, absolute.

    service: what of edgecv runs there as one, systemd: its version, where it answers; unit: "NAME=FILE" of edgecv.
    current, before: releases; pending: None, or what a switch that never ended would have gone back to.
    """

    arch: str
    folder: str
    kernel: str = ""
    user: str = ""
    system: str = ""
    model: str = ""
    cpu: str = ""
    vnni: str = ""
    glibc: str = ""
    l4t: str = ""
    jetpack: str = ""
    cuda: str = ""
    tensorrt: str = ""
    gpu: str = ""
    python: str = ""
    python_version: str = ""
    venv: str = ""
    writable: str = ""
    current: str = ""
    before: str = ""
    pending: str | None = None
    service: str = ""
    systemd: str = ""
    linger: str = ""
    memory_mb: int = 0
    disk_mb: int = 0
    clock: int = 0
    environment: tuple[str, ...] = ()
    bundle: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.model or self.cpu, self.arch, self.system, f"Python {self.python_version or 'not found'}"]
        parts += [f"glibc {self.glibc}" if self.glibc else "no glibc"]
        named = {
            "JetPack": self.jetpack,
            "L4T": self.l4t,
            "CUDA": self.cuda,
            "TensorRT": self.tensorrt,
            "GPU": self.gpu,
        }
        parts += [f"{name} {value}" for name, value in named.items() if value]
        parts += [f"{self.memory_mb} MiB of memory", f"{self.disk_mb} MiB free"]
        return ", ".join(part for part in parts if part)


class Plan(Record, frozen=True):
    """What is installed: extras of edgecv, other packages, and whether the system's own packages are seen; why."""

    extras: tuple[str, ...]
    packages: tuple[str, ...]
    sees_system: bool
    reasons: tuple[str, ...]


def ask(host: Host, folder: str = FOLDER, root: str = "") -> Facts:
    """Ask a device what it is; nothing is changed there."""
    script = below(folder, "ask.sh", root=root)
    return read(host.run(script, what="asking what it is"), host.name)


def below(folder: str, name: str, **variables: str) -> str:
    """A script of this package for a folder of deployments as it was given, relative to the home folder."""
    given = " ".join(f"{key}={shlex.quote(value)}" for key, value in {"folder": folder, **variables}.items())
    texts = ((files("edgecv.deploy") / each).read_text(encoding="utf-8") for each in ("folder.sh", name))
    return "\n".join([given, *texts])


def read(answer: str, where: str) -> Facts:
    """The facts of what `ask.sh` printed; raises ComputationError where it is no such answer."""
    found: dict[str, object] = {}
    for line in answer.splitlines():
        name, equals, value = line.partition("=")
        if not equals or name not in Facts.__struct_fields__:
            continue  # a profile that greets, say
        if name in _MANY:
            found[name] = (*found.get(name, ()), value)  # type: ignore[misc]
        elif name in ("memory_mb", "disk_mb", "clock"):
            found[name] = int(value) if value.isdecimal() else 0
        else:
            found[name] = value.strip()
    if not {"arch", "folder"} <= set(found):
        raise ComputationError(f"{where}: is no Linux with a POSIX shell: it did not say what it is")
    return Facts(**found)  # type: ignore[arg-type]


def check(facts: Facts, where: str, bundle_mb: int, now: float, *, offline: bool = False) -> list[str]:
    """Refuse a device on which it cannot work, by Unavailable; gives warnings.

    now: seconds since 1970 here.
    """
    version = _numbers(facts.python_version)
    if facts.arch not in ARCHITECTURES:
        raise Unavailable(f"{where}: its architecture is {facts.arch}; there are wheels for {', '.join(ARCHITECTURES)}")
    if not facts.glibc or _numbers(facts.glibc) < LEAST_GLIBC:
        has = f"glibc {facts.glibc}" if facts.glibc else "no glibc (Alpine, say)"
        raise Unavailable(f"{where}: it has {has}; wheels want {'.'.join(map(str, LEAST_GLIBC))} or later")
    if not version:
        raise Unavailable(f"{where}: it has no Python: apt-get install python3 python3-venv there")
    if version < LEAST_PYTHON:
        wanted = ".".join(map(str, LEAST_PYTHON))
        raise Unavailable(f"{where}: its newest Python is {facts.python_version}, edgecv wants {wanted} or later")
    if not facts.venv:
        raise Unavailable(f"{where}: its Python makes no environments: apt-get install python3-venv there")
    if not facts.writable:
        raise Unavailable(f"{where}: {facts.user} may not write to {facts.folder}; give another --folder")
    wanted_mb = bundle_mb + (0 if facts.environment else ENVIRONMENT_MB + OPENVINO_MB * (facts.arch == "x86_64"))
    if facts.disk_mb < wanted_mb:
        raise Unavailable(f"{where}: {facts.disk_mb} MiB are free at {facts.folder}, about {wanted_mb} are wanted")
    off_s = facts.clock - now
    if abs(off_s) > DAY_S and not offline:
        raise Unavailable(
            f"{where}: its clock is {abs(off_s) / DAY_S:.0f} days {'ahead' if off_s > 0 else 'behind'}, and no package "
            "index is trusted then: set it (timedatectl set-ntp true), or give --offline"
        )
    return [f"its clock is {abs(off_s):.0f} s off"] if abs(off_s) > 60 else []


def plan(facts: Facts, more: tuple[str, ...] = ()) -> Plan:
    """Pick extras by what a device is, and say why; more: that were asked for."""
    found = _plan(facts)
    asked = tuple(name for name in dict.fromkeys(more) if name not in found.extras)
    reasons = (*found.reasons, *(f"{name}: as was asked" for name in asked))
    return msgspec.structs.replace(found, extras=(*found.extras, *asked), reasons=reasons)


def _plan(facts: Facts) -> Plan:
    if facts.l4t or facts.tensorrt:
        cuda = facts.cuda.partition(".")[0]  # bindings of another major version find no driver that serves them
        return Plan(
            ("onnxruntime",),
            (f"cuda-bindings=={cuda}.*" if cuda else "cuda-bindings", "av", "typer", "rich", "pyyaml"),
            True,
            (
                f"TensorRT {facts.tensorrt or 'not found'} and OpenCV are JetPack's own: the environment sees them, "
                "and pip puts no other over them",
            ),
        )
    extras, reasons = ["cpu"], ["cpu: ONNX Runtime, OpenCV, video and the command line"]
    if facts.arch == "x86_64":
        extras.append("openvino")
        reasons.append("openvino: on Intel and AMD processors it is often the faster one; 'edgecv bench' there decides")
    else:
        reasons.append("no openvino: on ARM its int8 does not load or runs in a mix of precisions (edgecv check)")
    if facts.gpu:
        reasons.append(f"{facts.gpu}: its libraries are not installed by edgecv; see docs/tensorrt.md")
    return Plan(tuple(extras), (), False, tuple(reasons))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
