"""What is known of a device that was asked: the rules of `edgecv check` apply to it, with its own Python and memory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx
import pytest

from edgecv.deploy import device, fits, targets
from edgecv.deploy.check import check
from edgecv.deploy.device import Facts
from edgecv_runtime import Bundle
from edgecv_runtime import bundle as bundles
from edgecv_runtime.errors import Unavailable

DIGITS = Path(__file__).parents[1] / "assets" / "digits.edgecv"
PC = Facts(arch="x86_64", folder="/e", glibc="2.36", python_version="3.11", memory_mb=8000, vnni="yes")
ORIN = Facts(
    arch="aarch64", folder="/e", glibc="2.35", python_version="3.10", memory_mb=7620, l4t="36.4.3",
    tensorrt="10.3.0.30", model="NVIDIA Jetson Orin Nano Developer Kit",
)  # fmt: skip
PI = Facts(arch="aarch64", folder="/e", glibc="2.36", python_version="3.11", model="Raspberry Pi 4 Model B Rev 1.5")


def of(facts):
    return fits.target(facts, device.plan(facts))


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (ORIN, "jetson-orin-jp6"),
        (msgspec.structs.replace(ORIN, l4t="36.3.0", tensorrt="8.6.2.3"), "jetson-orin-jp60"),
        (msgspec.structs.replace(ORIN, l4t="38.2.1", tensorrt="11.4.0", python_version="3.12"), "jetson-jp7"),
        (PI, "rpi4"),
        (msgspec.structs.replace(PI, model="Raspberry Pi 5 Model B Rev 1.0"), "rpi5"),
        (PC, "x86-avx512-vnni"),
        (msgspec.structs.replace(PC, vnni=""), "x86-avx2"),
    ],
)
def test_a_device_that_is_known_is_judged_as_its_target(facts, name, finished):
    found, wanted = of(facts), targets.find(name)
    assert set(found.ways) <= set(wanted.ways)
    assert {library: way.version for library, way in found.ways.items()} == {
        library: wanted.ways[library].version for library in found.ways
    }
    with Bundle(finished) as bundle:
        named = msgspec.structs.replace(wanted, named=())
        here, there = (
            {(each.variant, each.backend): each.verdict for each in check(bundle, target, 8000).verdicts}
            for target in (found, named)
        )
    assert here == {key: there[key] for key in here}


def test_a_board_that_nobody_knows_has_no_rules_of_another():
    other = of(msgspec.structs.replace(PI, model="Radxa ROCK 5B"))
    assert (other.traits, list(other.ways)) == ((), ["onnxruntime"])


def test_a_bundle_that_cannot_run_there_is_refused_in_one_line_with_the_source(tmp_path):
    place = tmp_path / "bundle"
    with Bundle(DIGITS) as bundle:
        bundles.write(place, bundle.manifest, bundle.content())
    with Bundle(place) as bundle:
        variants = bundle.manifest.variants
        new = {each.file: onnx.load(bundle.file(each.file)) for each in variants}
        for model in new.values():
            model.ir_version = 12
        bundles.update(bundle, content={name: model.SerializeToString() for name, model in new.items()})
    old = msgspec.structs.replace(PI, python_version="3.10")
    with Bundle(place) as bundle:
        with pytest.raises(Unavailable, match=r"pi: nothing .*IR version 12 .* above 11 of onnxruntime 1\.23\.2"):
            fits.refuse(bundle, old, device.plan(old), "pi")
        assert fits.refuse(bundle, PI, device.plan(PI), "pi") == []
