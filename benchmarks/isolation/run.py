"""What it costs to read a camera in a process of its own: time and CPU of each frame, against the same in one process.

    python benchmarks/isolation/run.py [--frames 300] [--rounds 3]

Both read the scripted camera, which paints its pictures, at 30 frames/s. "later" is how much later the reader has the
frame than the source gave it: the copy into shared memory, the message, and the other process waking up.
"CPU" is what both processes together use more for a frame. Rounds are interleaved; medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from edgecv_runtime.stream import Source, open_source
from edgecv_runtime.stream.sources.isolated import Isolated

SIZES = {"1920x1080": "1080p", "1280x720": "720p", "640x480": "VGA"}
WARM = 30  # frames that are not measured
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(source: Source) -> float:
    """Seconds of CPU time of this process and of the child."""
    child = source.process_id if isinstance(source, Isolated) else None
    used_s = time.process_time()
    if child is not None:
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        used_s += (int(fields[11]) + int(fields[12])) / TICKS
    return used_s


def measure(size: str, frames: int, isolated: bool) -> tuple[float, float]:
    """(median age when the reader has a frame, CPU time of a frame), both in milliseconds."""
    source = open_source(f"fake:fps=30,size={size},{frames + WARM}")
    ages_ms = []
    with Isolated(source, lossless=True) if isolated else source as camera:
        for number, frame in enumerate(camera):
            if number == WARM:
                before_s = cpu_s(camera)
            elif number > WARM:
                ages_ms.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
                if number == frames + WARM - 2:  # the child is still there
                    used_ms = (cpu_s(camera) - before_s) * 1e3 / (frames - 2)
    return statistics.median(ages_ms), used_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| frames | later, ms | more CPU, ms a frame |")
    print("| --- | --- | --- |")
    for size, name in SIZES.items():
        later_ms, more_ms = [], []
        for _ in range(options.rounds):
            plain, own = measure(size, options.frames, False), measure(size, options.frames, True)
            later_ms.append(own[0] - plain[0])
            more_ms.append(own[1] - plain[1])
        print(f"| {name} | {statistics.median(later_ms):.2f} | {statistics.median(more_ms):.2f} |")


if __name__ == "__main__":
    main()
