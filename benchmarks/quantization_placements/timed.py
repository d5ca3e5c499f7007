"""Time one file on one backend in a process of its own: it says "ready", then answers each line with a round.

python benchmarks/quantization_placements/timed.py FILE BACKEND PRECISION FRAME
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgecv_runtime import backends
from edgecv_runtime.backends import Options
from edgecv_runtime.timing import times_ms

SECONDS = 0.25


def main(file: str, backend: str, precision: Any, frame: str) -> None:
    """Print the median milliseconds of a short round for every line that comes."""
    opened = backends.get(backend)(Path(file), Options(precision=precision))
    call = partial(opened.run, {"image": np.load(frame)})
    print("ready", flush=True)
    for _ in sys.stdin:
        print(statistics.median(times_ms(call, SECONDS)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
