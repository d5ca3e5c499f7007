#!/usr/bin/python3
"""A real RTSP server for the tests: GStreamer's, looping the H.264 of a file over the loopback like a camera.

Run by Debian's own Python, which alone has the `gi` module (tests/install-debian.sh installs the packages):
`rtsp_server.py --clip bikes.mp4 [--user u --password p] [--frames N]` prints `READY PORT`; its stream is
rtsp://127.0.0.1:PORT/cam, which never ends unless --frames is given. The access units are not encoded again.
"""

import argparse
import itertools
import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402  # versions are chosen before the import

TO_UNITS = (
    'filesrc location="{clip}" ! qtdemux ! {codec}parse config-interval=-1 '
    "! video/x-{codec},stream-format=byte-stream,alignment=au ! appsink name=units sync=false"
)
TO_RTP = (
    "( appsrc name=units is-live=true format=time caps=video/x-{codec},stream-format=byte-stream,alignment=au "
    "! {codec}parse ! rtp{codec}pay name=pay0 pt=96 config-interval=-1 )"
)


def units_of(clip, codec):
    """[(bytes, presentation time, duration)] of each access unit; times in nanoseconds."""
    pipeline = Gst.parse_launch(TO_UNITS.format(clip=clip, codec=codec))
    pipeline.set_state(Gst.State.PLAYING)
    sink = pipeline.get_by_name("units")
    buffers = [sample.get_buffer() for sample in iter(lambda: sink.emit("pull-sample"), None)]
    units = [(buffer.extract_dup(0, buffer.get_size()), buffer.pts, buffer.duration) for buffer in buffers]
    pipeline.set_state(Gst.State.NULL)
    if not units:
        sys.exit(f"no {codec} in {clip}")
    return units


class Camera(GstRtspServer.RTSPMediaFactory):
    """The clip for ever (or `frames` units), one access unit each frame time; all clients see the same picture."""

    def __init__(self, clip, codec, frames, log=None):
        super().__init__()
        self.codec = codec
        self.log = log and open(log, "w", buffering=1)  # noqa: PTH123, SIM115  # as long as the process
        self.units = units_of(clip, codec)
        self.frames = frames
        self.set_shared(True)

    def do_create_element(self, _url):
        media = Gst.parse_launch(TO_RTP.format(codec=self.codec))
        source = media.get_by_name("units")
        length = sum(duration for _, _, duration in self.units)
        turns = ((turn * length, unit) for turn in itertools.count() for unit in enumerate(self.units))
        coming = itertools.islice(turns, self.frames)

        def push():
            start, (number, (data, pts, duration)) = next(coming, (0, (0, (None, 0, 0))))
            if data is None:
                source.emit("end-of-stream")
                return False
            if self.log:
                self.log.write(f"{number} {time.monotonic_ns()}\n")
            buffer = Gst.Buffer.new_wrapped(data)
            buffer.pts, buffer.duration = start + pts, duration
            return source.emit("push-buffer", buffer) == Gst.FlowReturn.OK

        GLib.timeout_add(self.units[0][2] // 1_000_000, push)
        return media


def protect(server, camera, user, password):
    """Ask for a user name and a password (Basic), and give the stream to that user only."""
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", permission, True)
    camera.set_permissions(permissions)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", required=True)
    parser.add_argument("--codec", default="h264", choices=("h264", "h265"))
    parser.add_argument("--frames", type=int)
    parser.add_argument("--log", help="file of the numbers of the units within the clip, and when each was sent")
    parser.add_argument("--udp-only", action="store_true")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    options = parser.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")  # any free port
    camera = Camera(options.clip, options.codec, options.frames, options.log)
    if options.udp_only:
        camera.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
    if options.user:
        protect(server, camera, options.user, options.password)
    server.get_mount_points().add_factory("/cam", camera)
    server.attach(None)
    sys.stdout.write(f"READY {server.get_bound_port()}\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
