"""What it costs to read a camera in a process of its own: time and CPU of each frame, against the same in one process.

    python benchmarks/isolation/run.py [--frames 240] [--rounds 3]

Both read an H.264 clip that is played as a camera, by the same decoder, or the scripted camera, which paints its
pictures, at 30 frames/s. "later" is how much later the reader has the frame than the source gave it: the copy into
shared memory (planes of the clip, images of the scripted camera), the message, and the other process waking up.
"CPU" is what both processes together use more for a frame. "any" is what no isolation with one copy goes below here: a
process that has the same picture, copies it into shared memory and sends its time to another that waits for it.
Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks import study
from benchmarks.isolation.played import Played
from benchmarks.streams.run import LARGE, LARGE_FPS, make_clip
from edgecv_runtime.stream import Source, open_source
from edgecv_runtime.stream.sources import ring
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


def least(uri: str, frames: int) -> float:
    """Milliseconds from a picture to the message that its copy is there, in processes that do nothing else."""
    slots, descriptor = ring.Slots.make(LARGE[0] * LARGE[1] * 3)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inherited = descriptor, theirs.fileno()
        command = [sys.executable, __file__, "--serve", uri, *map(str, (*inherited, slots.slot_bytes, frames))]
        with subprocess.Popen(command, pass_fds=inherited):
            ages_ms = []
            for _ in range(frames):
                stamp = int.from_bytes(ours.recv(8), "little")
                ages_ms.append((time.monotonic_ns() - stamp) / 1e6)
    os.close(descriptor)
    return statistics.median(ages_ms)


def serve(uri: str, descriptor: int, peer: int, slot_bytes: int, frames: int) -> None:
    """The other process of `least`: copies each picture, and sends when it had it."""
    slots, parent = ring.Slots(descriptor, slot_bytes), socket.socket(fileno=peer)
    for number, shot in zip(range(frames), camera(uri).shots(), strict=False):
        picture, layout = ring.laid_out(shot.picture)
        stamp = shot.captured_ns or time.monotonic_ns()
        slots.write(number % ring.SLOTS, picture, layout)
        parent.send(stamp.to_bytes(8, "little"))


class Row(msgspec.Struct):
    """Medians of the rounds, in milliseconds."""

    frames: str
    later_ms: list[float]
    any_ms: list[float]
    cpu_ms: list[float]


def page(rows: list[Row]) -> list[str]:
    lines = ["| frames | later, ms | any, ms | more CPU, ms a frame |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        shown = (f"{statistics.median(values):.2f}" for values in (row.later_ms, row.any_ms, row.cpu_ms))
        lines.append(f"| {row.frames} | {' | '.join(shown)} |")
    return [
        "A camera of 30 frames/s, read in one process and in two, in turn: an H.264 clip by the same decoder, and the "
        f"scripted camera, which paints its pictures; medians of {len(rows[0].later_ms)} rounds.",
        "",
        *lines,
        "",
        "later: how much later the reader has a frame. any: what a process that has the picture, copies it into shared "
        "memory and sends its time needs until another has it: below it no isolation with one copy comes on this "
        "machine. Of the clip the planes are copied, 3.1 MB at 1080p, of the scripted camera images, 6.2 MB.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], *map(int, options.serve[1:]))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, LARGE, LARGE_FPS, options.frames + WARM)
        uris = {"1080p, H.264": str(clip)}
        uris |= {name: f"fake:fps=30,size={size},{options.frames + WARM}" for size, name in SCRIPTED.items()}
        rows = [Row(name, [], [], []) for name in uris]
        for uri, row in zip(uris.values(), rows, strict=True):
            for _ in range(options.rounds):
                row.any_ms.append(least(uri, options.frames))
                plain, own = measure(uri, options.frames, False), measure(uri, options.frames, True)
                row.later_ms.append(own[0] - plain[0])
                row.cpu_ms.append(own[1] - plain[1])
    STUDY.record(rows)


STUDY = study.Study(Path(__file__), "What it costs to read a camera in a process of its own", page, list[Row])

if __name__ == "__main__":
    main()
