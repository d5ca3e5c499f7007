"""Where Q/DQ stands decides speed: every placement on every backend and instruction set, against float32 and bf16.

    python benchmarks/quantization/placements.py [NAME ...]

Random weights (they do not change the speed), batch 1, calibrated on two photographs. Each instruction set is a process
of its own with ONEDNN_MAX_CPU_ISA, which OpenVINO reads and ONNX Runtime does not. Writes
benchmarks/results/quantization-placements.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.resources import files

import common
import msgspec
import numpy as np

from edgecv import models
from edgecv_export.calibrate import sample
from edgecv_export.graph import Deployed, to_onnx
from edgecv_export.placement import MERGED, PLACEMENTS, Placement
from edgecv_export.plan import Plan, Workshop
from edgecv_runtime import images

NAMES = ("mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0")
ISAS = ("", "AVX2", "AVX2_VNNI", "AVX512_CORE_VNNI")
# Placements that the search does not try, because this table shows others to be better.
OTHERS = {
    "pointwise only": Placement(("Conv",), MERGED, gates=False, depthwise=False, outputs=False),
    "depthwise in float": Placement(("Conv", "Gemm", "MatMul"), MERGED, depthwise=False, outputs=False),
    "merged, outputs in int8": Placement(("Conv", "Gemm", "MatMul"), MERGED),
}


def main() -> None:
    """Run one instruction set per process and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--isa", help="measure in this process and print JSON")
    given = parser.parse_args()
    if given.isa is not None:
        times = {name: measure(name) for name in given.names}
        sys.stdout.write(msgspec.json.encode(times).decode())
        return
    body: list[str] = ["Milliseconds, median of interleaved rounds; in bold what beats both float32 and bf16 there."]
    for isa in ISAS:
        command = [sys.executable, __file__, *given.names, "--isa", isa or "all"]
        environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
        done = subprocess.run(command, env=environment, check=True, capture_output=True)
        found = msgspec.json.decode(done.stdout, type=dict[str, dict[str, dict[str, float]]])
        body += ["", f"## {isa or 'Everything this CPU has'}", *table(found)]
        print(f"{isa or 'all'} done", flush=True)
    common.write("quantization-placements", "Where Q/DQ stands, and how fast it runs", body)


def table(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """One table per network."""
    lines = []
    for name, rows in found.items():
        ways = list(rows["float32"])
        lines += ["", f"### {name}", "", f"| placement | {' | '.join(ways)} |", f"| --- |{' ---: |' * len(ways)}"]
        least = {way: min(rows["float32"][each] for each in ways if each.split()[0] == way.split()[0]) for way in ways}
        for placement, times in rows.items():
            cells = [
                f"**{times[way]:.2f}**" if placement != "float32" and times[way] < least[way] else f"{times[way]:.2f}"
                for way in ways
            ]
            lines.append(f"| {placement} | {' | '.join(cells)} |")
    return lines


def measure(name: str) -> dict[str, dict[str, float]]:
    """Milliseconds by placement and way to run it."""
    model = models.create(name, classes=1000, weights=None, in_channels=3, seed=0)
    spec = models.spec(name)
    graph = to_onnx(Deployed(model, spec.normalization), spec.size, 3, "logits", {})
    preprocess = common.Preprocess(spec.size)
    photos = [files("sklearn.datasets.images") / each for each in ("china.jpg", "flower.jpg")]
    frames = preprocess.batch([images.decode(photo.read_bytes()) for photo in photos])
    workshop = Workshop(graph, sample(np.concatenate([frames, frames[:, :, ::-1]])))
    PLACEMENTS.update(OTHERS)
    contents = {"float32": graph.SerializeToString()}
    contents |= {placement: workshop.make(Plan(placement, passes=())) for placement in PLACEMENTS}
    rows: dict[str, dict[str, float]] = {}
    for (placement, way), ms in common.interleaved(contents, frames, rounds=3).items():
        rows.setdefault(placement, {})[way] = ms
    return rows


if __name__ == "__main__":
    main()
