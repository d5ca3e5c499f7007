"""The parity gate: a graph leaves only when it computes what its reference computes, at several batch sizes.

The reference is PyTorch where a network is exported (`parity`), and the file itself where one is adopted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.interface import INPUT, check_frames
from edgecv_runtime import backends
from edgecv_runtime.backends import Backend, Options
from edgecv_runtime.backends.fixed import FixedBatch
from edgecv_runtime.errors import BackendUnavailable, ParityError
from edgecv_runtime.preprocess import Image
from edgecv_runtime.verify import distance
from edgecv_runtime.verify.compare import Compute

BATCHES = (1, 3, 8)
# Largest difference allowed, relative to the largest output: float32 rounding stays below a tenth of it. Logits count
# as at least 1; scores in 0..1 or 0..100 do not, which are all small among many classes: at least as a thousandth.
TOLERANCE = 1e-3
LOGITS, SHARES = 1.0, 1e-3


def gate(
    path: Path,
    reference: Compute,
    frames: Image,
    floor: float = LOGITS,
    *,
    name: str,
    where: Callable[[Image], str] = lambda _: "",
    rows: int = 0,
) -> dict[str, float]:
    """Compare an ONNX file with its reference on every backend of this machine, at batch 1, 3 and 8.

    reference: makes outputs by name of (N, H, W, C) uint8 frames; name: what it is, in words; where: says for frames
    where in the network the graph starts to differ. frames: at least 8 real images, preprocessed. floor: LOGITS, or
    SHARES of scores with bounds. rows: of a graph whose batch is fixed, how many it takes at once.
    Gives the largest difference per backend, relative to the largest output (of class maps the share of pixels that
    differ); raises ParityError that says on which backend, at which batch size and where they differ.
    """
    check_frames(frames, max(BATCHES), "the parity gate")
    if not backends.available():
        raise BackendUnavailable("parity needs a backend to compare with", extra="onnxruntime")
    expected = {batch: reference(frames[:batch]) for batch in BATCHES}
    largest: dict[str, float] = {}
    for backend_name in backends.available():
        backend: Backend = backends.get(backend_name)(path, Options())
        if rows:
            backend = FixedBatch(backend, rows, str(path))
        try:
            for batch, wanted in expected.items():
                got = backend.run({INPUT: np.ascontiguousarray(frames[:batch])})
                differences = {output: difference(each, got[output], floor) for output, each in wanted.items()}
                output = max(differences, key=lambda each: (not differences[each] <= TOLERANCE, differences[each]))
                far = differences[output]
                if not far <= TOLERANCE:
                    raise ParityError(
                        f"{path.name} differs from {name} on {backend_name} at batch {batch}: '{output}' by "
                        f"{far:.2g} of the largest output, where {TOLERANCE:g} is allowed"
                        + (f"; {told}" if (told := where(frames[:batch])) else "")
                    )
                largest[backend_name] = max(largest.get(backend_name, 0.0), far)
        finally:
            backend.close()
    return largest


def difference(wanted: NDArray[Any], got: NDArray[Any], floor: float = LOGITS) -> float:
    """Of floats the largest difference, relative to the largest value; of classes the share of those that differ.

    Where two classes are as good as equal, rounding decides between them.
    """
    if wanted.dtype.kind == "f" or wanted.shape != got.shape:
        return distance(wanted, got, floor)
    return float((wanted != got).mean())
