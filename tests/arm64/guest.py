"""What every way to run a bundle answers, as JSON: `guest.py BUNDLE FRAMES.npy [COUNT]`, on a board and x86 alike.

For each backend and precision: labels, scores and executed layers, or the error; and what `load` takes by itself, of
COUNT frames where it is given.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import edgecv_runtime as rt

BUNDLE, FRAMES = sys.argv[1], np.load(sys.argv[2])
BY_ITSELF = FRAMES[: int(sys.argv[3])] if len(sys.argv) > 3 else FRAMES
WAYS = [(backend, precision) for backend in ("onnxruntime", "openvino") for precision in ("float32", "int8")]


def answers(frames=FRAMES, **asked):
    started_s = time.monotonic()
    try:
        with rt.load(BUNDLE, **asked) as model:
            results = [model(frame) for frame in frames]
            info, reasons = model.info, model.explain()
    except rt.errors.EdgecvError as exc:
        return {"error": str(exc)}
    return {
        "labels": [result.label for result in results],
        "scores": [result.scores.tolist() for result in results],
        "backend": info.backend, "variant": info.variant, "executed": info.precision, "layers": info.layers,
        "reasons": reasons, "seconds": time.monotonic() - started_s,
    }  # fmt: skip


found = {f"{precision} on {backend}": answers(backend=backend, precision=precision) for backend, precision in WAYS}
found["auto"] = answers(BY_ITSELF)
found["auto int8"] = answers(BY_ITSELF, precision="int8")
sys.stdout.write(json.dumps(found))
