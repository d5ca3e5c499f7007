"""What it costs to read a camera in a process of its own: time and CPU of each frame, against the same in one process.

    python benchmarks/isolation/run.py [--frames 240] [--rounds 3]

Both read an H.264 clip that is played as a camera, by the same decoder, or the scripted camera, which paints its
pictures, at 30 frames/s. "later" is how much later the reader has the image than where one process does both: the
message, and the other process waking up; images are made in memory that both share, and copied nowhere. "CPU" is what
both processes together use more for a frame. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks import plots, study
from benchmarks.isolation.played import Played
from benchmarks.streams.run import LARGE, LARGE_FPS, make_clip
from edgecv_runtime.stream import Source, open_source
from edgecv_runtime.stream.sources.isolated import Isolated

SCRIPTED = {"1920x1080": "1080p", "1280x720": "720p", "640x480": "VGA"}
WARM = 30  # frames that are not measured
TICKS = os.sysconf("SC_CLK_TCK")


def camera(uri: str) -> Source:
    """The scripted camera, or a clip as a camera."""
    return open_source(uri) if uri.startswith("fake:") else Played(uri, LARGE_FPS)


def cpu_s(source: Source) -> float:
    """Seconds of CPU time of this process and of the child."""
    child = source.process_id if isinstance(source, Isolated) else None
    used_s = time.process_time()
    if child is not None:
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        used_s += (int(fields[11]) + int(fields[12])) / TICKS
    return used_s


def measure(uri: str, frames: int, isolated: bool) -> tuple[float, float]:
    """(median age when the reader has a frame, CPU time of a frame), both in milliseconds."""
    source = camera(uri)
    ages_ms = []
    with Isolated(source, lossless=True) if isolated else source as opened:
        for number, frame in enumerate(opened):
            if number == WARM:
                before_s = cpu_s(opened)
            elif number > WARM:
                ages_ms.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
                if number == frames + WARM - 2:  # the child is still there
                    used_ms = (cpu_s(opened) - before_s) * 1e3 / (frames - 2)
                    break
    return statistics.median(ages_ms), used_ms


class Row(msgspec.Struct):
    """Medians of the rounds, in milliseconds."""

    frames: str
    later_ms: list[float]
    cpu_ms: list[float]


def page(rows: list[Row]) -> list[str]:
    lines = ["| frames | later, ms | more CPU, ms a frame |", "| --- | ---: | ---: |"]
    for row in rows:
        cells = (
            f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in (row.later_ms, row.cpu_ms)
        )
        lines.append(f"| {row.frames} | {' | '.join(cells)} |")
    return [
        "A camera of 30 frames/s, read in one process and in two, in turn: an H.264 clip by the same decoder, and the "
        f"scripted camera, which paints its pictures; medians of {len(rows[0].later_ms)} rounds, and their range.",
        "",
        *lines,
        "",
        "later: how much later the reader has an image. It does not show what a camera at full rate costs: between two "
        "frames both processes sleep here, as they do beside a camera.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, LARGE, LARGE_FPS, options.frames + WARM)
        uris = {"1080p, H.264": str(clip)}
        uris |= {name: f"fake:fps=30,size={size},{options.frames + WARM}" for size, name in SCRIPTED.items()}
        rows = [Row(name, [], []) for name in uris]
        for uri, row in zip(list(uris.values()) * options.rounds, rows * options.rounds, strict=True):
            plain, own = measure(uri, options.frames, False), measure(uri, options.frames, True)
            row.later_ms.append(own[0] - plain[0])
            row.cpu_ms.append(own[1] - plain[1])
    STUDY.record(rows)


STUDY = study.Study(
    Path(__file__),
    "What it costs to read a camera in a process of its own",
    page,
    kind=list[Row],
    picture=plots.Rows(
        "milliseconds, median of rounds and their range",
        {"later, ms": "a frame comes so much later", "more CPU, ms a frame": "more CPU time a frame"},
    ),
)

if __name__ == "__main__":
    main()
