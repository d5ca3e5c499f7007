"""A TCP proxy on the loopback that breaks what passes through it, as networks and cameras do.

| mode | what it does |
| --- | --- |
| pass | copies bytes both ways |
| freeze | forwards nothing and keeps all open: a camera that hangs, a pulled cable |
| black hole | the same, and new connections are accepted and never answered |
| reset, close | ends every connection now, by RST or in peace, and each new one at once |
| trickle | 2 kB/s from the camera |
| corrupt | changes one byte in each 3,000 of the camera's pictures |
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time

TRICKLE = 2000  # bytes per second
_EVERY = 3000  # bytes that hold one wrong one
_HEADERS = 64  # bytes at the beginning of what was read that stay right: RTSP's and RTP's headers are there


class FaultProxy:
    """Forwards to `target` (a port of the loopback), which may change while it runs; so may `mode`."""

    def __init__(self, target, mode="pass"):
        self.target = target
        self._mode = mode
        self._open = True
        self._pairs = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def mode(self):
        return self._mode

    @mode.setter
    def mode(self, mode):
        self._mode = mode
        if mode in ("reset", "close"):
            with self._lock:
                pairs, self._pairs = self._pairs, set()
            for connection in pairs:
                self._end(connection)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open = False
        self._listener.close()
        self.mode = "reset"

    def _end(self, connection):
        with contextlib.suppress(OSError):
            if self._mode == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self):
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._mode in ("reset", "close"):
                self._end(client)
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with self._lock:
            self._pairs.add(client)
        while self._mode in ("black hole", "freeze") and self._open:
            time.sleep(0.02)
        try:
            camera = socket.create_connection(("127.0.0.1", self.target), 2)
        except OSError:
            client.close()
            return
        with self._lock:
            self._pairs.add(camera)
        with contextlib.suppress(OSError, ValueError):  # either side may close at any time
            self._copy(client, camera)
        for connection in (client, camera):
            connection.close()

    def _copy(self, client, camera):
        luck = random.Random(0)
        while self._open:
            ready = select.select([client, camera], [], [], 0.05)[0]
            if self._mode in ("freeze", "black hole"):
                time.sleep(0.02)
                continue
            for side in ready:
                from_camera = side is camera
                data = side.recv(1500 if from_camera else 65536)
                if not data:
                    return
                if from_camera and self._mode == "trickle":
                    time.sleep(len(data) / TRICKLE)
                if from_camera and self._mode == "corrupt" and luck.random() < len(data) / _EVERY:
                    data = bytearray(data)
                    if len(data) > 2 * _HEADERS:
                        data[luck.randrange(_HEADERS, len(data))] ^= 0x55
                (client if from_camera else camera).sendall(data)
