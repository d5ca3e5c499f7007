"""What is done with cameras inside the emulated computer, and written as JSON: `guest.py BUNDLE OUT_FOLDER [STEP ...]`.

Judged outside, by v4l2_checks.py. Each step notes a value or the error that it met.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from edgecv_runtime import stream
from edgecv_runtime.stream.sources.devices import cameras

BUNDLE, OUT = Path(sys.argv[1]), Path(sys.argv[2])
DRIVER = Path("/sys/bus/platform/drivers/vivid")
LOOPBACK = "/dev/video2"


def seen(step):
    """The result of a step, or the message of its error."""
    try:
        return step()
    except Exception as exc:
        return {"error": f"{type(exc).__name__}: {exc}", "kind": getattr(exc, "kind", None)}


def control(device, **values):
    for name, value in values.items():
        subprocess.run(["v4l2-ctl", "-d", device, "--set-ctrl", f"{name}={value}"], check=True)


def look(uri, frames=5):
    """The colours of the eight bars of the last frame (BGR), its size, and the frames' ages."""
    with stream.open_source(uri, timeout_s=8) as camera:
        ages = []
        for frame in camera:
            ages.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
            if len(ages) == frames:
                break
        row = frame.image[frame.image.shape[0] * 3 // 4]
        bars = [row[int(row.shape[0] * (bar + 0.5) / 8)].tolist() for bar in range(8)]
        facts = camera.facts
        return {"shape": frame.image.shape, "bars": bars, "ages_ms": ages, "size": facts.size, "fps": facts.fps}


def formats():
    """The same picture in each format that the driver of a webcam may choose."""
    return {
        name: seen(lambda name=name: look(f"camera:/dev/video0?format={name}&size=640x360"))
        for name in ("YUYV", "NV12", "BGR3", "GREY")
    }


def compressed():
    """MJPEG, which a program writes into the loopback; then it writes nothing more, as a camera that hangs."""
    bars = np.zeros((240, 320, 3), np.uint8)
    for bar in range(8):
        bars[:, 40 * bar : 40 * bar + 40] = [180 * (bar >> bit & 1) + 20 for bit in range(3)]
    picture = bytes(cv2.imencode(".jpg", bars)[1])
    writer = os.fork()
    if not writer:
        with Path(LOOPBACK).open("wb", buffering=0) as device:  # the format holds while somebody has it open
            words = ["v4l2-ctl", "-d", LOOPBACK, "--set-fmt-video-out=width=320,height=240,pixelformat=MJPG"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            while True:
                device.write(picture)
                time.sleep(0.05)
    try:
        time.sleep(3)
        result = look(f"camera:{LOOPBACK}?format=MJPG")
        with stream.open_source(f"camera:{LOOPBACK}", timeout_s=3) as camera:
            next(camera)
            os.kill(writer, signal.SIGSTOP)
            started_s = time.monotonic()
            result["hangs"] = seen(lambda: [0 for _ in camera])
            result["noticed_s"] = time.monotonic() - started_s
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    return result | {"written": bars[200, 20::40].tolist()}


def two_at_once():
    """Two cameras that show different pictures, read in turn."""
    with stream.open_source("camera:front") as front, stream.open_source("camera:platform:vivid-001") as back:
        return [[int(next(camera).image[300].mean()) for _ in range(3)] for camera in (front, back, front)]


def unplug_and_plug():
    """A camera through unplugging and plugging; meanwhile someone keeps the old device file, so its index changes."""
    links = [Path("/dev/v4l/by-id/front"), Path("/dev/v4l/by-id/back")]
    result = {"before": [str(link.resolve()) for link in links]}
    with links[0].open("rb"), stream.open_source("camera:front", timeout_s=8) as camera:
        next(camera)
        (DRIVER / "unbind").write_text("vivid.0")
        unplugged_s = time.monotonic()
        result["unplugged"] = seen(lambda: [0 for _ in camera])
        result["noticed_s"] = time.monotonic() - unplugged_s
        result["absent"] = seen(lambda: look("camera:front"))
        (DRIVER / "bind").write_text("vivid.0")
        subprocess.run(["udevadm", "settle"], check=False)
        plugged_s = time.monotonic()
        result["again"] = seen(lambda: look("camera:front", 3))
        result["back_s"] = time.monotonic() - plugged_s
        return result | {"after": [str(link.resolve()) for link in links]}


def running():
    """A run over an unplugging: the camera comes back into the same stream."""
    events, counts, stop = [], [0], threading.Event()

    def until(count):
        end_s = time.monotonic() + 40
        while counts[0] < count and time.monotonic() < end_s:
            time.sleep(0.1)

    def model(image):
        counts[0] += 1
        return Nothing()

    reports = []
    thread = threading.Thread(
        target=lambda: reports.append(
            stream.run(
                model, "camera:front", stop=stop, on_event=lambda event: events.append([event.state, event.reason])
            )
        )
    )
    thread.start()
    until(5)
    (DRIVER / "unbind").write_text("vivid.0")
    time.sleep(2)
    gone = counts[0]
    (DRIVER / "bind").write_text("vivid.0")
    started_s = time.monotonic()
    until(gone + 5)
    back_s = time.monotonic() - started_s
    stop.set()
    thread.join(10)
    source = reports[0].sources[0]
    return {
        **{"gone": gone, "again": counts[0], "back_s": back_s, "events": events, "ended": source.ended},
        **{"read": source.read, "account": source.inferred + sum(source.dropped.values()) + source.failed},
    }


class Nothing:
    """A result that shows nothing."""

    def draw(self, image):
        return image

    def as_dict(self):
        return {}


STEPS = {
    "listed": lambda: [[device.path, device.bus, device.card, list(device.ids)] for device in cameras()],
    "formats": formats,
    "compressed": compressed,
    "missing": lambda: look("camera:/dev/video9"),
    "unknown": lambda: look("camera:frnt"),
    "wish": lambda: look("camera:front?size=123x77"),
    "two": two_at_once,
    "plugging": unplug_and_plug,
    "running": running,
}


def main():
    control("/dev/video0", test_pattern=0, osd_text_mode=2)
    control("/dev/video1", test_pattern=5, osd_text_mode=2)  # all black
    results = {}
    for name, step in STEPS.items() if len(sys.argv) < 4 else [(name, STEPS[name]) for name in sys.argv[3:]]:
        results[name] = seen(step)
        results[f"{name}_s"] = float(Path("/proc/uptime").read_text().split()[0])
        (OUT / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
