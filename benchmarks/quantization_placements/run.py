"""Where Q/DQ stands decides speed: every placement on every backend and instruction set, against float32 and bf16.

    python benchmarks/quantization_placements/run.py [--parts FOLDER] [--ways WAY ...] [--names NAME ...]

Random weights (they do not change the speed), batch 1, calibrated on two photographs. Every file on every backend is a
process of its own: ONEDNN_MAX_CPU_ISA, which OpenVINO reads and ONNX Runtime does not, counts from the start, and one
that crashes is a cell of the table. Processes of one instruction set take turns. Writes
benchmarks/quantization_placements/results.md from all networks in FOLDER.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import nn

from benchmarks import plots, study
from edgecv import models
from edgecv_export.calibrate import sample
from edgecv_export.dialects import DIALECTS
from edgecv_export.graph import Deployed, to_onnx
from edgecv_export.placement import PLACEMENTS
from edgecv_export.plan import Plan, Workshop
from edgecv_runtime import images, machine
from edgecv_runtime.preprocess import Normalization, Preprocess

DENSE = "dense_convolutions"  # no network of use: what suits int8 best, and so the most that this machine can give
NAMES = ("mobilenet_v3_small", "efficientnet_b0", "mobilenet_v2", "resnet50", "convnext_tiny", DENSE)
# The way to run -> backend, ONEDNN_MAX_CPU_ISA, and what the CPU must have for the limit to be what it says.
WAYS = {
    "OpenVINO": ("openvino", "", ""),
    "AVX512_CORE_VNNI": ("openvino", "AVX512_CORE_VNNI", "avx512_vnni"),
    "AVX2_VNNI": ("openvino", "AVX2_VNNI", "avx_vnni"),
    "AVX2": ("openvino", "AVX2", "avx2"),
    "ONNX Runtime": ("onnxruntime", "", ""),
}
FLOAT, BF16 = "float32", "bf16"
ROUNDS = 5
SHOWN = ("int8 all", "int8 convolutions", "int8 layers", "int8 merged")  # of the picture
Times = dict[str, dict[str, float | str]]  # way -> row -> milliseconds, or why there are none


def main() -> None:
    """Measure the networks named in the ways named, and write the table of all that are known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--ways", nargs="*", default=tuple(WAYS), choices=WAYS)
    parser.add_argument("--parts", type=Path, help="keeps the figures: a network can be measured one way at a time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = given.parts or Path(folder)
        parts.mkdir(parents=True, exist_ok=True)
        for name in given.names:
            part = parts / f"{name}.json"
            known = msgspec.json.decode(part.read_bytes(), type=Times) if part.is_file() else {}
            part.write_bytes(msgspec.json.encode({**known, **measure(name, given.ways)}))
        found = {path.stem: msgspec.json.decode(path.read_bytes(), type=Times) for path in parts.glob("*.json")}
    body = [*notes()]
    for name in sorted(found, key=lambda each: NAMES.index(each) if each in NAMES else len(NAMES)):
        body += ["", f"### {name}", "", *table(found[name])]
    STUDY.record(body)


def notes() -> list[str]:
    """How to read the tables, and which instruction sets this CPU lacks."""
    flags = set(machine.this().isa)
    lines = [
        f"Milliseconds at batch 1 with all {machine.this().cores} cores, median of {ROUNDS} interleaved rounds, and",
        "how many times as fast as float32 in the same column; bold: faster than float32 and bf16 there. The middle",
        "columns are OpenVINO with ONEDNN_MAX_CPU_ISA. `+ bf16`: what is not quantized runs in bf16. All int8 is",
        "int8-u8s8, but for `s8s8`, whose activations lie around zero (int8-s8s8). Compare within a column: each was",
        f"measured at a time of its own, on a shared machine. `{DENSE}`: eight 3x3 convolutions of 256",
        "channels on 28x28, which suit int8 better than any network: the most that it can give on this machine.",
    ]
    for way, (_, _, needs) in WAYS.items():
        if needs and needs not in flags:
            lines += ["", f"**This CPU has no {needs}: its {way} column is what the next smaller set gives.**"]
    return lines


def table(times: Times) -> list[str]:
    """One network: a row a file and float precision, a column a way to run."""
    ways = [way for way in WAYS if way in times]
    rows = list(dict.fromkeys(row for way in ways for row in times[way]))
    lines = [f"| file | {' | '.join(ways)} |", f"| --- |{' ---: |' * len(ways)}"]
    return lines + [f"| {row} | {' | '.join(cell(times[way], row) for way in ways)} |" for row in rows]


def cell(column: dict[str, float | str], row: str) -> str:
    """Milliseconds and the ratio to float32; bold where it beats every float."""
    ms, plain = column.get(row, ""), column[FLOAT]
    if isinstance(ms, str) or isinstance(plain, str):
        return str(ms)
    text = f"{ms:.2f} ({plain / ms:.2f}x)"
    floats = [each for each in (column.get(FLOAT), column.get(BF16)) if isinstance(each, float)]
    return f"**{text}**" if row not in (FLOAT, BF16) and ms < min(floats) else text


def measure(name: str, ways: Iterable[str]) -> Times:
    """Milliseconds by way to run and row."""
    with tempfile.TemporaryDirectory() as folder:
        graph, photos = network(name)
        frame = Path(folder) / "frame.npy"
        np.save(frame, photos[:1])
        paths = {}
        for index, (row, content) in enumerate(contents(graph, photos).items()):
            paths[row] = Path(folder) / f"{index}.onnx"
            paths[row].write_bytes(content)
        times = {}
        for way in ways:
            backend, isa, _ = WAYS[way]
            times[way] = interleaved(paths, backend, isa, frame)
            print(f"{name}: {way} done", flush=True)
    return times


def network(name: str) -> tuple[Any, Any]:
    """Its float32 graph, and four pictures as it takes them: two photographs and their mirror images."""
    size, normalization = (224, 224), Normalization()
    if name == DENSE:
        wide = [layer for _ in range(8) for layer in (nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())]
        model = nn.Sequential(nn.Conv2d(3, 256, 8, 8), *wide, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    else:
        spec = models.spec(name)
        size, normalization = spec.size, spec.normalization
        model = models.create(name, classes=1000, weights=None, in_channels=3, seed=0)
    graph = to_onnx(Deployed(model, normalization), size, 3, {})
    photos = [files("sklearn.datasets.images") / each for each in ("china.jpg", "flower.jpg")]
    batch = Preprocess(size).batch([images.decode(photo.read_bytes()) for photo in photos])
    return graph, np.concatenate([batch, batch[:, :, ::-1]])


def contents(graph: Any, photos: Any) -> dict[str, bytes]:
    """The files, by row of the table; one that is the same as an earlier one is left out."""
    workshop = Workshop(graph, sample(photos))
    made = {FLOAT: graph.SerializeToString()}
    for placement in PLACEMENTS:
        content = workshop.make(Plan(placement, passes=()))
        if content not in made.values():
            made[f"int8 {placement}"] = content
    made["int8 merged, s8s8"] = workshop.make(Plan("merged", passes=()), DIALECTS["int8-s8s8"])
    return made


def interleaved(
    paths: dict[str, Path], backend: str, isa: str, frame: Path, bf16: bool = True
) -> dict[str, float | str]:
    """Median milliseconds of each file, each in its process.

    bf16: in bf16 too where the backend has it under the limit.
    """
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    asked = {row: (path, FLOAT) for row, path in paths.items()}
    if bf16 and BF16 in precisions(backend, environment):
        asked |= {BF16 if row == FLOAT else f"{row} + {BF16}": (path, BF16) for row, path in paths.items()}
    samples: dict[str, list[float]] = {row: [] for row in asked}
    ended: dict[str, float | str] = {}
    with contextlib.ExitStack() as stack:
        workers = {
            row: stack.enter_context(worker([path, backend, how, frame], environment))
            for row, (path, how) in asked.items()
        }
        for turn in range(ROUNDS):
            for row in list(asked)[:: 1 if turn % 2 == 0 else -1]:
                answer = "" if row in ended else ask(workers[row])
                if answer:
                    samples[row].append(float(answer))
                else:
                    ended.setdefault(row, how_it_ended(workers[row]))
    return {row: ended.get(row) or statistics.median(samples[row]) for row in sorted(asked, key=order)}


def order(row: str) -> tuple[bool, str]:
    """Floats first."""
    return (row not in (FLOAT, BF16), "" if row == FLOAT else row)


def precisions(backend: str, environment: dict[str, str]) -> list[str]:
    """What a backend has under a limit, as a process says that has it from the start."""
    code = f"from edgecv_runtime import backends; print(*backends.get('{backend}').precisions())"
    return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).split()


@contextlib.contextmanager
def worker(what: list[object], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that times one file as often as it is asked; it is loaded before the next one starts."""
    command = [sys.executable, str(Path(__file__).with_name("timed.py")), *map(str, what)]
    process = subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # "ready", or the end
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen[str]) -> str:
    """One round; empty when the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline()
    return ""


def how_it_ended(process: subprocess.Popen[str]) -> str:
    """What the table says of a process that gave no answer."""
    code = process.wait()
    return f"crashed ({signal.Signals(-code).name})" if code < 0 else "does not load"


STUDY = study.Study(
    Path(__file__),
    "Where Q/DQ stands, and how fast it runs",
    picture=plots.Rows(
        "times as fast as float32 on the same backend",
        {"OpenVINO": "OpenVINO", "ONNX Runtime": "ONNX Runtime"},
        group=plots.heading,
        where=lambda row: row.first in SHOWN,
        part=1,
        line=1,
    ),
)


if __name__ == "__main__":
    main()
