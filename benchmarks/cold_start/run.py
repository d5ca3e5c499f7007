"""From the start of a process to its first label, and what a warm cache saves; and what importing costs.

    python benchmarks/cold_start/run.py [--python EDGE/bin/python]

Other than this one, the Python of an installation without torch can be measured: `pip install '.[edge,openvino]'`.
Writes benchmarks/cold_start/results.md. Byte code is compiled before; files are in the page cache, as after a restart
of the process, not of the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from benchmarks import plots, study
from edgecv_runtime import hashes

MODEL, ROUNDS = "mobilenet_v3_small", 31

RAW = """
import json, sys
import cv2, onnxruntime
bundle, picture = sys.argv[1:]
frame = cv2.imread(picture)
session = onnxruntime.InferenceSession(bundle + "/model.onnx", providers=["CPUExecutionProvider"])
crop = frame[67:67 + 944, 487:487 + 944]
small = cv2.resize(cv2.resize(crop, (472, 472), interpolation=cv2.INTER_AREA), (236, 236), interpolation=cv2.INTER_AREA)
x = cv2.cvtColor(cv2.resize(small, (224, 224), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)[None]
labels = json.load(open(bundle + "/bundle.json"))["head"]["labels"]
print(labels[int(session.run(None, {"image": x})[0][0].argmax())])
"""
EDGECV = """
import sys
import edgecv_runtime as rt
bundle, picture, backend = sys.argv[1:]
with rt.load(bundle, backend=backend) as model:
    print(model(rt.images.read(picture)).label)
"""
LOAD = """
import sys, time
import cv2, numpy, openvino
import edgecv_runtime as rt
bundle, picture = sys.argv[1:]
frame, load = rt.images.read(picture), rt.load  # which imports what it needs
start = time.perf_counter()
with load(bundle, backend="openvino") as model:
    label = model(frame).label
    print((time.perf_counter() - start) * 1e3)
"""
IMPORT = """
import sys, time
import numpy
start = time.perf_counter()
{what}
print((time.perf_counter() - start) * 1e3)
"""
IMPORTS = "import edgecv_runtime", "from edgecv_runtime import load"


def run(python: str, code: str, given: list[str], cache: Path) -> tuple[float, str]:
    """Milliseconds from the start of a Python process to its end, and what it printed."""
    environment = {**os.environ, "EDGECV_CACHE": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    done = subprocess.run([python, "-c", code, *given], check=True, capture_output=True, env=environment, text=True)
    return (time.perf_counter() - start) * 1e3, done.stdout


def main() -> None:
    """Measure in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that is measured")
    python = parser.parse_args().python

    def process_ms(code: str, given: list[str], cache: Path) -> float:
        return run(python, code, given, cache)[0]

    def printed_ms(code: str, given: list[str], cache: Path) -> float:
        return float(run(python, code, given, cache)[1])

    with study.exported(MODEL) as bundle, tempfile.TemporaryDirectory() as folder:
        cache, empty, warm, picture = (Path(folder) / name for name in ("cache", "empty", "warm", "frame.jpg"))
        cv2.imwrite(str(picture), study.frame_1080p())
        given = [str(bundle), str(picture)]
        raw, own_first, own, ov_first, ov_again, load_first, load_again = ([] for _ in range(7))
        imported: dict[str, list[float]] = {what: [] for what in IMPORTS}
        time.sleep(hashes.FRESH_NS / 1e9)  # hashes of files that were just written are not remembered
        process_ms(EDGECV, [*given, "onnxruntime"], warm)  # compiles the byte code
        for number in range(ROUNDS):
            arms = [(raw, RAW, given, warm)]
            arms += [
                (found, EDGECV, [*given, "onnxruntime"], place) for found, place in ((own_first, empty), (own, warm))
            ]
            for found, code, arguments, place in arms if number % 2 == 0 else reversed(arms):
                shutil.rmtree(empty, ignore_errors=True)
                found.append(process_ms(code, arguments, place))
            for first, again, measured in (
                (ov_first, ov_again, lambda: process_ms(EDGECV, [*given, "openvino"], cache)),
                (load_first, load_again, lambda: printed_ms(LOAD, given, cache)),
            ):
                shutil.rmtree(cache, ignore_errors=True)
                first.append(measured())
                again.append(measured())
            for what, found in imported.items():
                found.append(printed_ms(IMPORT.format(what=what), [], cache))
    lines = [
        "| from the start of the process to the end of a script that printed its first label | ms (10–90 %) | ratio |",
        "| --- | ---: | ---: |",
        f"| onnxruntime and OpenCV by hand | {study.shown(raw, 0)} | 1 |",
        f"| edgecv from a bundle, onnxruntime | {study.shown(own, 0)} | {study.shown_ratio(own, raw)} |",
        f"| the same, for the first time since the machine started | {study.shown(own_first, 0)} "
        f"| {study.shown_ratio(own_first, raw)} |",
        f"| edgecv from a bundle, OpenVINO, empty cache | {study.shown(ov_first, 0)} | 1 |",
        f"| the same, second start | {study.shown(ov_again, 0)} | {study.shown_ratio(ov_again, ov_first)} |",
        "",
        "| from `load` to the first label, modules imported | ms (10–90 %) | ratio |",
        "| --- | ---: | ---: |",
        f"| OpenVINO, empty cache | {study.shown(load_first, 0)} | 1 |",
        f"| OpenVINO, second start | {study.shown(load_again, 0)} | {study.shown_ratio(load_again, load_first)} |",
        "",
        "After numpy: " + "; ".join(f"`{what}` {study.shown(found, 1)} ms" for what, found in imported.items()) + ".",
    ]
    how = (
        f"`{MODEL}`, a JPEG of 1920x1080, {ROUNDS} interleaved rounds. The bundle's way reads the manifest, checks "
        "every file's SHA-256 and the ONNX file's outside before a runtime sees it; the script by hand does not. "
        "A hash is remembered until the machine starts again: the row of the first time has an empty cache. "
        + ("" if python == sys.executable else "Installed without torch: `edgecv[edge,openvino]`.")
    )
    STUDY.record([how, "", *lines])


STUDY = study.Study(
    Path(__file__),
    "Cold start",
    picture=plots.Rows(
        "milliseconds, median of rounds (10–90 %)",
        {"ms (10–90 %)": ""},
        group=lambda row: row.corner,
    ),
)


if __name__ == "__main__":
    main()
