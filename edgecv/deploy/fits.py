"""Whether a bundle can run on a device that was asked what it is: the rules of `edgecv check`, with what it said."""

from __future__ import annotations

from typing import Final

import msgspec

from edgecv.deploy import check
from edgecv.deploy.device import ARCHITECTURES, Facts, Plan
from edgecv.deploy.targets import TARGETS, Target, Way
from edgecv_runtime.bundle import Bundle
from edgecv_runtime.errors import Unavailable

# From which L4T on a Jetson has which JetPack, the newest first: https://developer.nvidia.com/embedded/jetpack-archive
_L4T: Final = (((38,), "jetson-jp7"), ((36, 4), "jetson-orin-jp6"), ((36,), "jetson-orin-jp60"), ((0,), "jetson-jp5"))
_OLD_PYTHON: Final = "3.10"  # the last for which onnxruntime 1.23.2 is the newest


def refuse(bundle: Bundle, facts: Facts, plan: Plan, where: str) -> list[str]:
    """Refuse a device on which nothing of a bundle can run, by Unavailable -> what of it cannot, a line each.

    Evidence of earlier failures there decides nothing: the libraries may be others now, and the bundle is proven anew.
    """
    checked = check.check(bundle, target(facts, plan), facts.memory_mb or None)
    lines = [
        f"{each.variant} cannot run on {each.backend} {each.version} there: "
        + "; ".join(f"{reason.because} [{reason.source}]" for reason in each.reasons)
        for each in checked.verdicts
        if each.verdict == check.REFUSED
    ]
    if checked.nothing_runs:
        raise Unavailable(f"{where}: nothing of the bundle can run there: {' | '.join(lines)}")
    return lines


def target(facts: Facts, plan: Plan) -> Target:
    """What rules ask of a device: the nearest of `targets`, with its own Python, glibc and the backends of a plan."""
    base = TARGETS[_nearest(facts)]
    newest = TARGETS["jetson-orin-jp6" if facts.python_version == _OLD_PYTHON else "rpi5"].ways["onnxruntime"]
    ways = {"onnxruntime": newest if base.architecture == "aarch64" else _as_tried(newest, base)}
    if "openvino" in plan.extras:
        ways["openvino"] = base.ways["openvino"]
    if facts.tensorrt:
        ways["tensorrt"] = _tensorrt(facts.tensorrt)
    known = facts.l4t or any(name in facts.model for name in base.named) or base.architecture == "x86_64"
    return msgspec.structs.replace(
        base,
        traits=base.traits if known else (),
        python=facts.python_version,
        glibc=facts.glibc,
        ways=ways,
        named=(),
    )


def _nearest(facts: Facts) -> str:
    if facts.l4t:
        version = tuple(int(part) for part in facts.l4t.split(".") if part.isdecimal())
        return next(name for least, name in _L4T if version >= least)
    for name, each in TARGETS.items():
        if any(board in facts.model for board in each.named):
            return name
    if ARCHITECTURES[facts.arch] == "aarch64":
        return "rpi5"
    return "x86-avx512-vnni" if facts.vnni else "x86-avx2"


def _as_tried(way: Way, base: Target) -> Way:
    return msgspec.structs.replace(way, tried=base.ways["onnxruntime"].tried)


def _tensorrt(version: str) -> Way:
    """Of TensorRT, by the version that is there; one that no target has is not known."""
    ways = [way for each in TARGETS.values() for name, way in each.ways.items() if name == "tensorrt"]
    return next((way for way in ways if version.startswith(f"{way.version}.")), Way(version))
