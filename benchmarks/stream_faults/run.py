"""How soon a fault of a network camera is noticed, and how soon frames come again when it is over.

    python benchmarks/stream_faults/run.py [--rounds 10] [--fault NAME ...]

A real RTSP server (GStreamer's) stands behind a proxy that breaks the connection; both are those of tests/stream. Times
are those of the settings that `edgecv stream` has without options. "noticed" is from the fault to the event that names
it; "frames again" from the end of the fault, 2 s after it was noticed, to the first frame that was inferred. For a
decoder's process that crashes the second is from the crash. With --fault nothing is recorded.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "stream"))

from faults import FAULTS, Bench, Watch  # found by the line above
from stream_lab import brightness

from benchmarks import plots, study
from edgecv_runtime.stream import CallbackSink, Stream, open_source

HELD_S = 2.0
CRASHES = {"decoder crashes (SIGSEGV)": signal.SIGSEGV, "decoder is killed (SIGKILL)": signal.SIGKILL}


class Measured:
    """A stream of one camera in a thread; `first_after` waits for a frame."""

    def __init__(self, url: str) -> None:
        source = open_source(url)
        self.last_s = 0.0
        self.stream = Stream(brightness, [source], [CallbackSink(self._note)])
        self.watch = Watch(source.name)
        self.stream.journal.subscribe(self.watch)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.stream.run, args=(self._stop,))

    def _note(self, *_: object) -> None:
        self.last_s = time.monotonic()

    def first_after(self, moment_s: float) -> float:
        """Seconds from that moment to the first frame after it."""
        while self.last_s <= moment_s:
            if time.monotonic() > moment_s + 90:
                raise TimeoutError("no frame for 90 s")
            time.sleep(0.002)
        return self.last_s - moment_s

    def __enter__(self) -> Measured:
        self._thread.start()
        self.watch.wait("live")
        time.sleep(1.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure(name: str) -> tuple[float, float]:
    """(noticed, frames again) in seconds."""
    with Bench() as bench, Measured(bench.url) as running:
        seen = len(running.watch.events)
        start_s = time.monotonic()
        if name in CRASHES:
            child = running.stream.cameras[0].source.process_id  # type: ignore[attr-defined]
            os.kill(child, CRASHES[name])
            noticed = running.watch.wait("backing off", after=seen)
            time.sleep(0.1)  # frames that were on their way
            return noticed.monotonic_ns / 1e9 - start_s, running.first_after(noticed.monotonic_ns / 1e9 + 0.1) + 0.1
        fault = FAULTS[name]
        fault.cause(bench)
        noticed = running.watch.wait(*fault.states, after=seen)
        time.sleep(HELD_S)
        end_s = time.monotonic()
        fault.end(bench)
        return noticed.monotonic_ns / 1e9 - start_s, running.first_after(end_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--fault", action="append", choices=[*FAULTS, *CRASHES])
    options = parser.parse_args()
    lines = [
        f"| fault ({options.rounds} rounds) | noticed, s: median (worst) | frames again, s: median (worst) |",
        "| --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for name in options.fault or [*FAULTS, *CRASHES]:
        noticed, again = zip(*(measure(name) for _ in range(options.rounds)), strict=True)
        cells = [f"{statistics.median(times):.1f} ({max(times):.1f})" for times in (noticed, again)]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
        print(lines[-1], flush=True)
    if not options.fault:
        STUDY.record(lines)


STUDY = study.Study(
    Path(__file__),
    "Faults of a network camera",
    picture=plots.Rows(
        "seconds, median (worst)",
        {
            "noticed, s: median (worst)": "until it is noticed",
            "frames again, s: median (worst)": "until frames come again, once it is over",
        },
        bars=True,
    ),
)


if __name__ == "__main__":
    main()
